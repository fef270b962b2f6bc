"""What a volume is: shape, axes, voxel size, and the protocols that stores follow."""

from __future__ import annotations

from voxweft.image.info import Geometry, OutputSpec, VolumeInfo
from voxweft.image.protocols import PatchLogits, Records, Sink, Volume

__all__ = ["Geometry", "OutputSpec", "PatchLogits", "Records", "Sink", "Volume", "VolumeInfo"]
