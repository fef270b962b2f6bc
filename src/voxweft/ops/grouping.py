"""Pixels grouped around centres: each votes with its offset for a place, and joins the centre nearest to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_pixels(
    pixels: NDArray[np.int64], offsets: NDArray[Any], centres: NDArray[np.int64], step: int = 1
) -> NDArray[np.int64]:
    """The number of the centre of each pixel, 1 to K in the order of the centres; 0 where there is none.

    Parameters
    ----------
    pixels
        (y, x) of the pixels of the map, int64 [N, 2].
    offsets
        Map [2, Y, X] of (dy, dx), in pixels of the network's input.
    centres
        (y, x) in pixels of the map, int64 [K, 2].
    step
        Pixels of the network's input per pixel of the map.

    Notes
    -----
    Every pixel gets a centre, however far it is. Of two at one distance it takes the first.

    Examples
    --------
    >>> pixels = np.array([[0, 0], [0, 1], [0, 3]])
    >>> group_pixels(pixels, np.zeros((2, 1, 4)), np.array([[0, 0], [0, 2]]))
    array([1, 1, 2])
    """
    if not len(centres) or not len(pixels):
        return np.zeros(len(pixels), np.int64)
    from scipy.spatial import KDTree

    aims = (pixels * step).astype(np.float32)
    aims += np.asarray(offsets, np.float32)[:, pixels[:, 0], pixels[:, 1]].T
    n_nearest = min(2, len(centres))
    distances, found = KDTree(centres * float(step)).query(aims, k=n_nearest)
    if n_nearest == 2:  # of two that are equally near the first
        tied = distances[:, 0] == distances[:, 1]
        found = np.where(tied, found.min(axis=1), found[:, 0])
    return np.asarray(found, np.int64).reshape(-1) + 1
