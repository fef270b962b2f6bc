"""Small stacks of label slices for the tests of matching, and grouping of whole maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.grouping import group_pixels
from voxweft.ops.matching import Ints, Overlaps, Pieces


def same_objects(a: Any, b: Any) -> bool:
    """Whether two label arrays differ in nothing but numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]).astype(np.int64), axis=1)
    return len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))


def group_all(offsets: Any, centres: Any, step: int = 1) -> Any:
    """The centre of every pixel of a map [Y, X]."""
    _, height, width = offsets.shape
    pixels = np.indices((height, width)).reshape(2, -1).T
    return group_pixels(pixels, offsets, centres, step).reshape(height, width)


def pieces_of(slices: NDArray[Any]) -> tuple[Pieces, Ints]:
    """The pieces of a stack of label slices [Z, Y, X], and the value of each; for small stacks and tests.

    >>> pieces, values = pieces_of(np.array([[[5, 5, 0]], [[7, 5, 5]]]))
    >>> pieces.first, pieces.area, values
    (array([0, 1, 3]), array([2, 2, 1]), array([5, 5, 7]))
    """
    found = [np.unique(one[one > 0], return_counts=True) for one in slices]
    sizes = [len(values) for values, _ in found]
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values, areas = (np.concatenate([pair[k] for pair in found]).astype(np.int64) for k in (0, 1))
    number = np.concatenate([np.arange(1, n + 1) for n in sizes]).astype(np.int64)
    return Pieces(first, number, areas), values


def overlaps_of(slices: NDArray[Any], pieces: Pieces, values: Ints, reach: int = 1) -> Overlaps:
    """The overlaps of the pieces of :func:`pieces_of`, up to ``reach`` slices apart."""
    found = []
    for z in range(pieces.n_slices):
        for d in range(1, min(reach, pieces.n_slices - 1 - z) + 1):
            low, high = slices[z].ravel(), slices[z + d].ravel()
            both = (low > 0) & (high > 0)
            pairs, n = np.unique(np.stack([low[both], high[both]]), axis=1, return_counts=True)
            ends = []
            for k, pair in ((z, pairs[0]), (z + d, pairs[1])):
                lo, hi = pieces.first[k : k + 2]
                ends.append(lo + np.searchsorted(values[lo:hi], pair))
            found.append(np.stack([*ends, n]))
    a, b, n = np.concatenate(found, axis=1).astype(np.int64) if found else np.zeros((3, 0), np.int64)
    return Overlaps(a, b, n)
