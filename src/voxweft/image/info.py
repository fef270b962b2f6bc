"""Descriptions of volumes and outputs: frozen data, no open handle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voxweft.geometry.box import Zyx


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the voxels lie in the world, axis order z y x throughout.

    Attributes
    ----------
    voxel_size_zyx
        Edge lengths of a voxel, in ``unit``.
    unit
        A UDUNITS name as OME-Zarr uses ("nanometer", "micrometer", "millimeter", "angstrom"), or "" where unknown.
    origin_zyx
        Position of the centre of voxel (0, 0, 0), in ``unit``.
    """

    voxel_size_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = ""
    origin_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What can be known of a volume without reading its voxels.

    Attributes
    ----------
    url
        Where it lies, as the user gave it.
    format
        Short name: "zarr v3", "OME-Zarr 0.5", "TIFF", "HDF5", "memory", ...
    shape_zyx, n_channels, dtype
        Extent in voxels; channels (1 for a plain volume); numpy dtype name.
    chunk_zyx
        What is decoded at once when one voxel is read (a shard's inner chunk; a TIFF page is (1, Y, X)).
    geometry
        Voxel size, unit, origin of the level that was opened.
    levels
        Shapes z y x of all resolution levels; one entry where there is only one.
    level
        Which of them this is.
    is_label
        True where the metadata itself says that the values are labels (OME ``image-label``).
    stored_bytes
        Bytes on disk of the level, compressed, where cheap to know; else None.
    stamp
        Changes when the stored data change, where cheap to know; else "".
    details
        Whatever else ``voxweft info`` should show (codec, shard shape, ...); plain JSON values.
    """

    url: str
    format: str
    shape_zyx: Zyx
    dtype: str
    n_channels: int = 1
    chunk_zyx: Zyx = (64, 64, 64)
    geometry: Geometry = field(default_factory=Geometry)
    levels: tuple[Zyx, ...] = ()
    level: int = 0
    is_label: bool = False
    stored_bytes: int | None = None
    stamp: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The array that a run writes.

    Attributes
    ----------
    shape_zyx
        Extent of the whole output in voxels (that of the input, also under ``--bbox``: the rest stays empty).
    n_channels
        1, or the number of classes where each is written. The stored array is [Z, Y, X] for 1, else [C, Z, Y, X].
    dtype
        numpy dtype name.
    chunk_zyx, shard_zyx
        Storage units in voxels; a shard is a whole number of chunks, or equal to ``chunk_zyx`` for none.
    compressor, compression_level
        "zstd", "lz4", "zlib" or "none"; 0 to 9 (zlib, lz4) or 22 (zstd).
    pyramid
        "mean" or "nearest" to add halved resolution levels, "none" to leave them out.
    geometry
        Voxel size, unit and origin, taken from the input.
    layout
        "ome-zarr"; "plane" for one that is stored with its first two axes exchanged, so that a sweep over rows makes
        an image of one plane; or "vesuvius" for the plain zarr v2 array [C, Z, Y, X] of the scroll pipeline.
    """

    shape_zyx: Zyx
    n_channels: int
    dtype: str
    chunk_zyx: Zyx
    shard_zyx: Zyx
    compressor: str = "zstd"
    compression_level: int = 3
    pyramid: str = "mean"
    geometry: Geometry = field(default_factory=Geometry)
    layout: str = "ome-zarr"
