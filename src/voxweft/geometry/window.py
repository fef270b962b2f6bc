"""Blend weights of a patch, as one profile per axis, normalised so that they sum to one over the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import GridError
from voxweft.geometry.tiling import AxisTiles

Profile = NDArray[np.float64]


def gaussian(size: int, sigma_scale: float = 8.0) -> Profile:
    """A unit impulse at ``size // 2``, smoothed with sigma ``size / sigma_scale`` and divided by its maximum.

    The kernel ends at four sigma and summed to one, and what leaves the patch is lost: the importance map of nnU-Net
    (Isensee et al. 2021) and of the scroll pipeline.

    Returns
    -------
    Profile
        float64 [size], maximum 1.
    """
    sigma = size / sigma_scale
    radius = int(4.0 * sigma + 0.5)
    offset = np.arange(size) - size // 2
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    weight[np.abs(offset) > radius] = 0.0
    weight[weight == 0.0] = weight[weight > 0.0].min()  # a voxel that only this patch covers must still count
    return np.asarray(weight / weight.max())


def gaussian_centred(size: int, sigma_scale: float = 8.0) -> Profile:
    """exp(-d^2 / (2 sigma^2)), d from the middle of the patch, sigma = size / sigma_scale; float64 [size]."""
    offset = np.arange(size) - (size - 1) / 2
    return np.asarray(np.exp(-0.5 * (offset * sigma_scale / size) ** 2))


def hann(size: int, _sigma_scale: float = 8.0) -> Profile:
    """A raised cosine without its two zeros: sin^2(pi (i + 1/2) / size), float64 [size]."""
    return np.asarray(np.sin(math.pi * (np.arange(size) + 0.5) / size) ** 2)


def uniform(size: int, _sigma_scale: float = 8.0) -> Profile:
    """A plain mean, float64 [size]."""
    return np.ones(size)


WINDOWS: dict[str, Callable[[int, float], Profile]] = {
    "gaussian": gaussian,
    "gaussian-centred": gaussian_centred,
    "hann": hann,
    "uniform": uniform,
}


def unity_profiles(axis: AxisTiles, window: str, sigma_scale: float = 8.0) -> NDArray[np.float32]:
    """The profile of every window of an axis, divided by the sum over all windows at each voxel.

    The 3-D weight of a patch is the outer product of its three profiles. The grid is a product of its axes, so the sum
    of the products is the product of the sums: blending is a plain weighted sum, without a weight array, a division or
    an epsilon.

    Parameters
    ----------
    axis
        Windows of one axis.
    window
        A key of ``WINDOWS``.
    sigma_scale
        The Gaussian's sigma is size / sigma_scale.

    Returns
    -------
    ndarray
        float32 [axis.count, axis.size]; at each voxel of the axis the windows that cover it sum to one.

    Raises
    ------
    GridError
        If the window is unknown or sigma_scale is not positive.

    Examples
    --------
    >>> unity_profiles(AxisTiles(extent=6, size=4, step=2), "uniform")
    array([[1. , 1. , 0.5, 0.5],
           [0.5, 0.5, 1. , 1. ]], dtype=float32)
    """
    if window not in WINDOWS:
        raise GridError(f"window {window!r} is unknown; use one of {', '.join(WINDOWS)}")
    if not sigma_scale > 0:
        raise GridError(f"a sigma scale of {sigma_scale} is not positive; 8 is usual")
    if axis.mirrored:  # as the axis is, so is the window, which need not be symmetric
        return unity_profiles(replace(axis, mirrored=False), window, sigma_scale)[::-1, ::-1].copy()
    profile = WINDOWS[window](axis.size, sigma_scale)
    total = np.zeros(axis.extent)
    for start in axis.starts:
        total[start : start + axis.size] += profile
    rows = [profile / total[start : start + axis.size] for start in axis.starts]
    return np.asarray(rows, dtype=np.float32)
