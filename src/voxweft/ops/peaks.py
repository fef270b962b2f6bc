"""Particles as peaks of probability: maxima of a smoothed map, of which the largest wins within a radius.

As the winners of the CZII challenge do (cryoetdataportal.czscience.com/competition), with a Gaussian about as wide as
the particle, so that the centre of a ball of high probability is its peak.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

WIDTH = 0.35  # sigma of the Gaussian in radii
TRUNCATE = 3.0  # sigmas


def halo_of(radius: float) -> int:
    """Voxels around a block that peaks of a radius in voxels depend on."""
    return int(TRUNCATE * WIDTH * radius + 0.5) + 2


def peaks(
    p: NDArray[Any], radius: float, threshold: float, start: Zyx = (0, 0, 0)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maxima of a probability map, smoothed over a particle.

    Parameters
    ----------
    p
        Probabilities [Z, Y, X], 0 to 1.
    radius
        Of the particle, in voxels.
    threshold
        Least value of the smoothed map.
    start
        Where the first voxel of the array lies.

    Returns
    -------
    at, value
        Places z y x, refined by a parabola along each axis, float64 [n, 3]; the smoothed map there. Neighbours that
        are equally high are all given.

    Examples
    --------
    >>> p = np.zeros((9, 9, 9)); p[3:6, 3:6, 4:7] = 1
    >>> at, value = peaks(p, 3.0, 0.3)
    >>> at.round(3).tolist()
    [[4.0, 4.0, 5.0]]
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    if p.max(initial=0) < threshold:
        return np.zeros((0, 3)), np.zeros(0)
    smooth = gaussian_filter(np.asarray(p, np.float32), WIDTH * radius, mode="constant", truncate=TRUNCATE)
    at = np.argwhere((smooth >= threshold) & (smooth == maximum_filter(smooth, size=3)))
    value = smooth[tuple(at.T)].astype(np.float64)
    place = (at + start).astype(np.float64)
    for axis in range(3):
        low, high = (_beside(smooth, at, axis, step) for step in (-1, 1))
        bend = low - 2 * value + high
        flat = bend > -1e-9
        place[:, axis] += np.where(flat, 0.0, np.clip(0.5 * (low - high) / np.where(flat, 1.0, bend), -0.5, 0.5))
    return place, value


def apart(at: NDArray[np.float64], value: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Which places stay when each, from the largest value on, removes those nearer than a distance.

    >>> apart(np.array([[0.0, 0, 0], [0, 0, 2], [0, 0, 4]]), np.array([0.5, 0.9, 0.4]), 3.0)
    array([1])
    >>> apart(np.array([[0.0, 0, 0], [0, 0, 2], [0, 0, 6]]), np.array([0.5, 0.9, 0.4]), 3.0)
    array([1, 2])
    """
    from scipy.spatial import KDTree

    if not len(at):
        return np.zeros(0, np.int64)
    near = KDTree(at).query_ball_point(at, np.nextafter(distance, 0))
    gone = np.zeros(len(at), np.bool_)
    kept = []
    for n in np.lexsort((*at.T[::-1], -value)):
        if not gone[n]:
            kept.append(int(n))
            gone[near[n]] = True
    return np.array(sorted(kept), np.int64)


def _beside(values: NDArray[np.float32], at: NDArray[np.int64], axis: int, step: int) -> NDArray[np.float64]:
    place = [*at.T]
    place[axis] = np.clip(place[axis] + step, 0, values.shape[axis] - 1)
    return np.asarray(values[tuple(place)], np.float64)
