"""A volume as one explores it: shape, dtype and slices, as numpy has them; voxels are read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.shown import Shown, counted

Index = int | slice | EllipsisType


class Explored(Shown):
    """What every volume of :func:`voxweft.open_volume` can do beside being read box by box.

    ``volume[z, y, x]`` takes integers and slices, with steps and from the end, and ``...``. Axes are (z, y, x) of a
    volume of one channel and (c, z, y, x) of one with several.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> volume = open_volume(np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4))
    >>> volume
    <volume memory://: 2 x 3 x 4 voxels (z y x), uint8, memory>
    >>> volume.shape, volume[1, :, ::-2].tolist(), volume[-1, -1, -1]
    ((2, 3, 4), [[15, 13], [19, 17], [23, 21]], np.uint8(23))
    """

    __slots__ = ()
    info: VolumeInfo

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x), or (c, z, y, x) where there are several channels."""
        return self._in_front(self.info.n_channels) + self.info.shape_zyx

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels as they are stored."""
        return np.dtype(self.info.dtype)

    @property
    def ndim(self) -> int:
        """3, or 4 where there are several channels."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Voxels of all channels."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is decoded at once, by axes; dask divides by it."""
        return self._in_front(self.info.n_channels) + self.info.chunk_zyx

    def _in_front(self, n: int) -> tuple[int, ...]:
        return (n,) if n > 1 else ()

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Any:
        """The voxels of integers and slices as numpy gives them; only the box around them is read.

        Raises
        ------
        IndexError
            If an index is out of range, or of another kind.
        """
        given = _per_axis(index if isinstance(index, tuple) else (index,), self.shape)
        picks = [_range(one, n, axis) for axis, (one, n) in enumerate(zip(given, self.shape, strict=True))]
        values = _picked(self, picks[-3:])
        channel = given[0] if len(given) == 4 else 0
        return values[(channel, *(0 if isinstance(one, int) else slice(None) for one in given[-3:]))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        return f"<volume {self.info.url}: {', '.join(facts_of(self.info).values())}>"


class ExploredVolume(Explored):
    """A volume of a store, or of a plug-in, with all that :class:`Explored` brings; everything else is its own."""

    def __init__(self, volume: Volume) -> None:
        self.volume, self.info = volume, volume.info

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        return self.volume.read(box)

    def __getattr__(self, name: str) -> Any:
        if name == "volume":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.volume, name)


def facts_of(info: VolumeInfo) -> dict[str, str]:
    """Size, dtype, format and voxel size in words.

    >>> facts_of(VolumeInfo("a.png", "PNG", (1, 30, 40), "uint8", n_channels=3))
    {'size': '30 x 40 pixels (y x), 3 channels', 'values': 'uint8', 'format': 'PNG'}
    """
    is_plane = info.shape_zyx[0] == 1
    sides = " x ".join(map(str, info.shape_zyx[is_plane:]))
    size = f"{sides} {'pixels (y x)' if is_plane else 'voxels (z y x)'}"
    if info.n_channels > 1:
        size += f", {counted(info.n_channels, 'channels')}"
    facts = {"size": size, "values": info.dtype, "format": info.format}
    if info.geometry.unit:
        lengths = " x ".join(f"{length:g}" for length in info.geometry.voxel_size_zyx[is_plane:])
        facts["pixel size" if is_plane else "voxel size"] = f"{lengths} {info.geometry.unit}"
    return facts


def _per_axis(index: Sequence[Any], shape: Sequence[int]) -> list[int | slice]:
    """One index an axis."""
    kinds = (int, np.integer, slice, EllipsisType)
    if wrong := [one for one in index if not isinstance(one, kinds) or isinstance(one, bool)]:
        raise IndexError(
            f"a volume is indexed by integers, slices and ..., not by {type(wrong[0]).__name__}; "
            "take a slice first, and index the array that it gives"
        )
    n_dots = sum(one is ... for one in index)
    n_given = len(index) - n_dots
    if n_dots > 1 or n_given > len(shape):
        raise IndexError(f"{n_given} indices and {n_dots} ... for a volume of {len(shape)} axes")
    at = list(index).index(...) if n_dots else n_given
    rest = [slice(None)] * (len(shape) - n_given)
    return [one if isinstance(one, slice) else int(one) for one in (*index[:at], *rest, *index[at + n_dots :])]


def _range(one: int | slice, n: int, axis: int) -> range:
    """The positions along an axis that are meant."""
    if isinstance(one, slice):
        return range(n)[one]
    if not -n <= one < n:
        raise IndexError(f"index {one} is out of range for axis {axis} of {n}")
    return range(one % n, one % n + 1)


def _picked(volume: Explored, picks: Sequence[range]) -> NDArray[Any]:
    """The voxels [C, Z, Y, X] at positions along z y x; where they are further apart than chunks, piece by piece."""
    if not all(picks):
        return np.empty((volume.info.n_channels, *map(len, picks)), volume.dtype)
    for axis, (pick, chunk) in enumerate(zip(picks, volume.info.chunk_zyx, strict=True)):
        if len(pick) > 1 and abs(pick.step) > chunk:
            pieces = ([*picks[:axis], range(at, at + 1), *picks[axis + 1 :]] for at in pick)
            return np.concatenate([_picked(volume, piece) for piece in pieces], axis=axis + 1)
    (z, z1), (y, y1), (x, x1) = ((min(p[0], p[-1]), max(p[0], p[-1]) + 1) for p in picks)
    return volume.read(Box((z, y, x), (z1, y1, x1)))[(slice(None), *(slice(None, None, p.step) for p in picks))]
