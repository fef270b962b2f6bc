"""How far pictures agree, and how they look when they are small."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_means(values: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """Means of square blocks [Y / side, X / side] of a plane [Y, X]; those at the far ends may be smaller.

    >>> block_means(np.arange(10).reshape(2, 5), 2).tolist()
    [[3.0, 5.0, 6.5]]
    """
    height, width = values.shape
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    total = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return np.asarray(total / counts, np.float32)


def pearson(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Pearson's r of two arrays of one shape; NaN where one of them is constant.

    >>> round(pearson(np.array([1, 2, 3]), np.array([2, 4, 7])), 3)
    0.993
    """
    a, b = (values.astype(np.float64).ravel() - float(values.mean(dtype=np.float64)) for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")
