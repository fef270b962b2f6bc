"""Centres of objects: the peaks of a heat map, each the largest value of its neighbourhood."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_centres(heat: NDArray[Any], threshold: float, kernel: int) -> NDArray[np.int64]:
    """Pixels above a threshold that no pixel of their neighbourhood exceeds; plateaus are kept whole.

    Parameters
    ----------
    heat
        Heat map [Y, X].
    threshold
        Values must be above it, and above 0.
    kernel
        Side of the neighbourhood in pixels of the map, 1 or more; of an even side the last row and column of the map
        are left out, and the neighbourhood reaches one pixel further up and left (Panoptic-DeepLab's max-pooling).

    Returns
    -------
    centres
        int64 [K, 2] as (y, x), row by row.

    Examples
    --------
    >>> find_centres(np.array([[0.0, 0.9, 0.2, 0.8]]), 0.1, 3)
    array([[0, 1],
           [0, 3]])
    >>> find_centres(np.array([[0.0, 0.9, 0.2, 0.8]]), 0.1, 5)
    array([[0, 1]])
    """
    from scipy.ndimage import maximum_filter

    heat = np.asarray(heat, np.float32)
    peaks = np.where(heat > np.float32(threshold), heat, np.float32(-1))
    if kernel > 1:
        largest = maximum_filter(peaks, kernel, mode="constant", cval=-np.inf)
        found = (peaks == largest) & (peaks > 0)
    else:
        found = peaks > 0
    if kernel % 2 == 0:
        found[-1:], found[:, -1:] = False, False
    return np.argwhere(found)
