"""What a volume is: shape, axes, voxel size, and the protocols that stores follow."""

from __future__ import annotations

from weft.image.info import Geometry, OutputSpec, VolumeInfo
from weft.image.protocols import Records, Sink, Volume

__all__ = ["Geometry", "OutputSpec", "Records", "Sink", "Volume", "VolumeInfo"]
