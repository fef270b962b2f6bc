"""What a volume is: shape, axes, voxel size; the protocols that stores follow; volumes seen otherwise."""

from __future__ import annotations

from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.protocols import PatchLogits, Records, Sink, Volume
from voxweft.image.ref import VolumeRef, volume_ref
from voxweft.image.resampled import Resample, Standardize
from voxweft.image.views import AsChannels, AtLeast, Crop, EightBit, Flip, Permute, Repeat, Stack, View
from voxweft.image.words import Words

__all__ = [
    "AsChannels",
    "AtLeast",
    "Crop",
    "EightBit",
    "Flip",
    "Geometry",
    "OutputSpec",
    "PatchLogits",
    "Permute",
    "Records",
    "Repeat",
    "Resample",
    "Sink",
    "Stack",
    "Standardize",
    "View",
    "Volume",
    "VolumeInfo",
    "VolumeRef",
    "Words",
    "volume_ref",
]
