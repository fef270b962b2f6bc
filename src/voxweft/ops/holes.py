"""Holes of objects: background that one object alone surrounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.components import connected


def fill_holes(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels [Y, X] or [Z, Y, X] whose holes have the label around them; nothing else changes.

    A hole is background, connected through faces, that meets one label and no edge of the array.

    Examples
    --------
    >>> fill_holes(np.array([[5, 5, 5, 0], [5, 0, 5, 0], [5, 5, 5, 0]]))[1]
    array([5, 5, 5, 0])
    """
    background = connected(labels == 0, 4 if labels.ndim == 2 else 6)
    n = int(background.max(initial=0))
    if not n:
        return labels
    lowest = np.full(n + 1, np.iinfo(np.int64).max)
    highest = np.zeros(n + 1, np.int64)
    open_ = np.zeros(n + 1, np.bool_)
    for axis in range(labels.ndim):
        ends = np.moveaxis(background, axis, 0)
        open_[ends[0].ravel()] = True
        open_[ends[-1].ravel()] = True
        low, high = (tuple(s if a == axis else slice(None) for a in range(labels.ndim)) for s in _SIDES)
        for here, there in ((low, high), (high, low)):
            at = (background[here] > 0) & (labels[there] > 0)
            np.minimum.at(lowest, background[here][at], labels[there][at].astype(np.int64))
            np.maximum.at(highest, background[here][at], labels[there][at].astype(np.int64))
    filled = np.where((lowest == highest) & ~open_, highest, 0)
    filled[0] = 0
    made = filled[background].astype(labels.dtype)
    return np.where(labels > 0, labels, made)


_SIDES = (slice(None, -1), slice(1, None))
