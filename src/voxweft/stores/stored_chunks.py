"""Which chunks of a zarr array on this machine's disk are stored, from one look through its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """Those of one array, as it was when it was opened.

    Attributes
    ----------
    there
        Whether each file, a chunk or a shard, is there; one axis for each of the array's.
    size
        Of a file in voxels.
    n_bytes
        Of all files.
    """

    there: NDArray[np.bool_]
    size: tuple[int, ...]
    n_bytes: int

    @classmethod
    def of(cls, array: Any, folder: Path) -> StoredChunks | None:
        """Those of a :class:`zarr.Array`, whose metadata lie in ``folder``; None where there is none."""
        if not folder.is_dir():
            return None
        size = tuple(getattr(array, "shards", None) or array.chunks)
        there = np.zeros([-(-n // s) for n, s in zip(array.shape, size, strict=True)], bool)
        n_bytes = 0
        for key, n in _files(str(folder)):
            n_bytes += n
            words = key.removeprefix("c/").removeprefix("c.").replace("/", ".").split(".")
            if len(words) == there.ndim and all(word.isdecimal() for word in words):
                index = tuple(map(int, words))
                if all(i < n for i, n in zip(index, there.shape, strict=True)):
                    there[index] = True
        return cls(there, size, n_bytes)

    def any(self, wanted: tuple[int | slice, ...]) -> bool:
        """Whether any file is there that whole numbers and slices of step 1, one an axis, touch."""
        taken = (slice(i, i + 1) if isinstance(i, int) else i for i in wanted)
        spans = (i.indices(n * s) for i, n, s in zip(taken, self.there.shape, self.size, strict=True))
        places = (slice(a // s, -(-b // s)) for (a, b, _), s in zip(spans, self.size, strict=True))
        return bool(self.there[tuple(places)].any())


def spread_over(
    grid: NDArray[np.bool_], size: Zyx, shape: Zyx, wanted: tuple[int, int]
) -> tuple[list[Box], Box | None, float]:
    """Boxes in the files of a volume that are there; ``wanted``: how many, and their longest side.

    One in each of as many equal stretches of the files in their order, at places that are always the same.
    """
    (n, side), draw = wanted, np.random.default_rng(0)

    def boxes(places: NDArray[np.intp]) -> list[Box]:
        found = []
        for index in zip(*np.unravel_index(places, grid.shape), strict=True):
            ends = [(int(i) * s, min((int(i) + 1) * s, m)) for i, s, m in zip(index, size, shape, strict=True)]
            z, y, x = (a + int(draw.random() * max(0, b - a - side + 1)) for a, b in ends)
            (_, z1), (_, y1), (_, x1) = ends
            found.append(Box((z, y, x), (min(z + side, z1), min(y + side, y1), min(x + side, x1))))
        return found

    sides = [np.minimum(s, m - s * np.arange(k)) for k, s, m in zip(grid.shape, size, shape, strict=True)]
    share = float(np.einsum("zyx,z,y,x->", grid, *sides)) / math.prod(shape)  # files at the ends hold fewer voxels
    there, vacant = np.flatnonzero(grid), np.flatnonzero(~grid)[:1]
    n = min(n, len(there))
    picked = ((np.arange(n) + draw.random(n)) * len(there) / max(1, n)).astype(int)
    return boxes(there[picked]), next(iter(boxes(vacant)), None), share


def _files(folder: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The files below a folder, by their paths with ``/``, and their bytes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
