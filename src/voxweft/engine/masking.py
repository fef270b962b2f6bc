"""A second volume that says where the result counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.reader import PlaneReader
from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Volume


def mask_scale(mask: VolumeInfo, shape: Zyx) -> Zyx:
    """Voxels of the volume per voxel of the mask, a whole number an axis.

    A mask may say it (``info.details["scale_zyx"]``). Where several fit, since the last voxel of the mask may reach
    beyond the volume, a power of two is taken, as resolution levels and chunks have it.

    Raises
    ------
    RequestError
        If the mask is no whole fraction of the volume.

    Examples
    --------
    >>> mask_scale(VolumeInfo("m", "memory", (25, 50, 50), "uint8"), (100, 99, 50))
    (4, 2, 1)
    >>> mask_scale(VolumeInfo("m", "memory", (8, 8, 8), "uint8"), (1000, 1020, 1024))
    (128, 128, 128)
    """
    told = mask.details.get("scale_zyx")
    sides = list(zip(told or _scales(mask.shape_zyx, shape), shape, mask.shape_zyx, strict=True))
    scale = tuple(k for k, _, _ in sides)
    fits = all(math.ceil(n / k) == m for k, n, m in sides) or all(n // k == m for k, n, m in sides)
    if not fits:
        raise RequestError(
            f"the mask {mask.url} has {mask.shape_zyx} voxels (z, y, x), the volume {shape}: "
            "the mask must be as large or smaller by a whole factor an axis"
        )
    if mask.n_channels != 1:
        raise RequestError(f"the mask {mask.url} has {mask.n_channels} channels; it must have one")
    return scale[0], scale[1], scale[2]


def _scales(mask: Zyx, shape: Zyx) -> Iterator[int]:
    """The factor of each axis: the power of two of those with which the last voxel ends in or beyond the volume."""
    for m, n in zip(mask, shape, strict=True):
        least, most = -(-n // m), (-(-n // (m - 1)) - 1 if m > 1 else n)
        powers = [1 << e for e in range(most.bit_length()) if least <= 1 << e <= most]
        yield max(1, powers[0] if powers else least if least <= most else round(n / m))


class Mask(Protocol):
    """Where the result counts, in the planes that are held."""

    def need(self, lo: int, hi: int) -> None:
        """Hold what covers the planes ``lo <= z < hi`` of the volume; ``lo`` never goes back."""

    def misses(self, box: Box) -> bool:
        """Whether the mask is 0 in all of a box of held planes."""

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """Where plane ``z`` of a box lies outside the mask, [Y, X]; None where nowhere."""


class MaskPlanes:
    """The planes of the mask that a patch layer needs; without a mask everything counts."""

    def __init__(self, volume: Volume | None, reach: Box, shape: Zyx) -> None:
        self._reader: PlaneReader | None = None
        if volume is None:
            return
        self._scale = mask_scale(volume.info, shape)
        self._reach = self._coarse(reach) & Box.of(volume.info.shape_zyx)
        n_planes = max(1, volume.info.chunk_zyx[0])
        self._reader = PlaneReader(volume, self._reach, n_planes, "cpu", own=self._reach)

    def __enter__(self) -> MaskPlanes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._reader:
            self._reader.__exit__(kind, error, tb)

    def need(self, lo: int, hi: int) -> None:
        """Hold what covers the planes ``lo <= z < hi`` of the volume."""
        if self._reader:
            k = self._scale[0]
            self._reader.need(min(lo // k, self._reach.stop[0] - 1), min(math.ceil(hi / k), self._reach.stop[0]))

    def misses(self, box: Box) -> bool:
        """Whether the mask is 0 in all of a box of held planes."""
        return self._reader is not None and not self._values(self._coarse(box)).any()

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """Where plane ``z`` of a box lies outside the mask, [Y, X]; None without a mask."""
        if self._reader is None:
            return None
        _, ky, kx = self._scale
        plane = self._coarse(Box((z, *box.start[1:]), (z + 1, *box.stop[1:])))
        fine = np.repeat(np.repeat(self._values(plane)[0], ky, axis=0), kx, axis=1)
        y0, x0 = box.start[1] - plane.start[1] * ky, box.start[2] - plane.start[2] * kx
        inside = fine[y0 : y0 + box.shape[1], x0 : x0 + box.shape[2]]
        short = [(0, n - m) for n, m in zip(box.shape[1:], inside.shape, strict=True)]
        return ~np.pad(inside, short, mode="edge")

    def _coarse(self, box: Box) -> Box:
        start = tuple(a // k for a, k in zip(box.start, self._scale, strict=True))
        stop = tuple(math.ceil(b / k) for b, k in zip(box.stop, self._scale, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def _values(self, coarse: Box) -> NDArray[np.bool_]:
        """Mask values [Z, Y, X] of a coarse box, at least one voxel an axis, inside what is held."""
        import torch

        stop = tuple(min(b, e) for b, e in zip(coarse.stop, self._reach.stop, strict=True))
        start = tuple(max(0, min(a, b - 1)) for a, b in zip(coarse.start, stop, strict=True))
        box = Box(start, stop)  # type: ignore[arg-type]
        out = torch.zeros((1, *box.shape))
        if self._reader:
            self._reader.copy(box, out)
        return np.asarray(out[0].numpy() > 0)
