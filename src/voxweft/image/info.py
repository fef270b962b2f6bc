"""Descriptions of volumes and outputs: frozen data, no open handle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx
from voxweft.image.order import AS_IT_IS, Order, check_order, permute
from voxweft.image.place import Geometry
from voxweft.image.words import Words

__all__ = ["LABELS", "Geometry", "OutputSpec", "VolumeInfo"]

SMALLEST = 256  # voxels of the longest side of the coarsest level, of plans that say nothing
SMALL = 64  # the same, of new outputs: what a viewer shows at once
LABELS = ("uint8", "uint16", "uint32", "uint64")


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
        Voxel size, unit, origin and direction of the level that was opened.
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
    notes
        What a user should know before a run.
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
    notes: tuple[str, ...] = ()
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
        "mean" or "nearest" to add halved resolution levels, "none" to leave them out; see :attr:`halving`.
    geometry
        Voxel size, unit, origin and direction, taken from the input.
    layout
        "ome-zarr", or "vesuvius" for the plain zarr v2 array [C, Z, Y, X] of the scroll pipeline.
    order
        The stored axes: axis k of what is stored is axis ``order[k]`` of the result, all other fields being those of
        the result.
    is_label
        Whether the values are labels: numbers of classes or of objects, uint8 to uint64.
    words
        How the result is spoken of.
    stacked
        Whether the channels are planes of the volume that is stored, [n_channels, Y, X], where z is one voxel long:
        "planes", or "reversed" with the last one first; "": they are channels.
    smallest
        Halved levels are added until no side is longer than this, in voxels.
    by_size
        Whether a level halves only the axes along which it is fine, see :attr:`level_factors`; else all of them.
    named
        What values (of labels) or channels mean: pairs of number and name. Empty where nobody knows, and for objects.
    shown
        Values from black to white, for viewers; empty where they are not known.

    Raises
    ------
    RequestError
        If the order is none, or labels are of another dtype.
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
    order: Order = AS_IT_IS
    is_label: bool = False
    words: Words = field(default_factory=Words)
    stacked: Literal["", "planes", "reversed"] = ""
    smallest: int = SMALLEST
    by_size: bool = False
    named: tuple[tuple[int, str], ...] = ()
    shown: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_order(self.order)
        if self.is_label and self.dtype not in LABELS:
            raise RequestError(f"labels cannot be {self.dtype}; use {', '.join(LABELS)}")

    @property
    def halving(self) -> str:
        """How levels are made: as ``pyramid`` says, but labels are never averaged.

        >>> OutputSpec((8, 8, 8), 1, "uint32", (8, 8, 8), (8, 8, 8), is_label=True).halving
        'nearest'
        """
        return "nearest" if self.is_label and self.pyramid == "mean" else self.pyramid

    @property
    def level_shapes(self) -> tuple[Zyx, ...]:
        """Extents of the resolution levels: halved, rounded up, until no side is longer than ``smallest``.

        >>> OutputSpec((512, 300, 20), 1, "uint8", (64, 64, 64), (64, 64, 64)).level_shapes
        ((512, 300, 20), (256, 150, 10))
        """
        return tuple(_divided(self.shape_zyx, factors) for factors in self.level_factors)

    @property
    def level_factors(self) -> tuple[Zyx, ...]:
        """Voxels of level 0 that a voxel of each level stands for, along z y x.

        With ``by_size`` an axis is left alone as long as its voxels are twice as long as the shortest side, or longer:
        a stack of few thick planes keeps them. Where the voxel size is not known its sides of up to 64 voxels are left
        alone, since a stack of that depth is looked at plane by plane.

        >>> thick = Geometry((40.0, 8.0, 8.0), "nanometer")
        >>> spec = OutputSpec((20, 900, 900), 1, "uint8", (64, 64, 64), (64, 64, 64), geometry=thick, by_size=True)
        >>> spec.level_factors, spec.level_shapes[-1]
        (((1, 1, 1), (1, 2, 2), (1, 4, 4)), (20, 225, 225))
        """
        factors: list[Zyx] = [(1, 1, 1)]
        while self.pyramid != "none" and max(shape := _divided(self.shape_zyx, factors[-1])) > self.smallest:
            halved = self._halved(shape, factors[-1]) if self.by_size else [n > 1 for n in self.shape_zyx]
            z, y, x = (k * (1 + yes) for k, yes in zip(factors[-1], halved, strict=True))
            factors.append((z, y, x))
        return tuple(factors)

    def _halved(self, shape: Zyx, factors: Zyx) -> list[bool]:
        """Which axes the next level halves."""
        place = self.geometry
        if not place.unit and len({*place.voxel_size_zyx}) == 1:
            return [n > SMALL or n == max(shape) for n in shape]
        sizes = [size * k for size, k in zip(place.voxel_size_zyx, factors, strict=True)]
        finest = min(size for size, n in zip(sizes, shape, strict=True) if n > 1)
        return [n > 1 and size < 2 * finest * (1 - 1e-6) for size, n in zip(sizes, shape, strict=True)]

    def permuted(self, order: Order) -> OutputSpec:
        """The same array with its axes in another order; ``order`` itself stays as it is.

        >>> OutputSpec((9, 1, 7), 1, "uint8", (4, 1, 4), (8, 1, 4)).permuted((1, 0, 2)).shape_zyx
        (1, 9, 7)
        """
        return replace(
            self,
            shape_zyx=permute(self.shape_zyx, order),
            chunk_zyx=permute(self.chunk_zyx, order),
            shard_zyx=permute(self.shard_zyx, order),
            geometry=self.geometry.permuted(order),
        )


def _divided(shape: Zyx, factors: Zyx) -> Zyx:
    z, y, x = (-(-n // k) for n, k in zip(shape, factors, strict=True))
    return z, y, x
