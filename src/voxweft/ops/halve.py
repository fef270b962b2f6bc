"""How a resolution level is made from the level above it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError

HALVINGS = ("mean", "nearest")


def halve(fine: NDArray[Any], method: str) -> NDArray[Any]:
    """Half the resolution of [C, Z, Y, X], extents rounded up.

    Parameters
    ----------
    fine
        [C, Z, Y, X], integers (of 64-bit ones only values below 2^60 for "mean") or floats. Where it is cut from a
        larger array it begins at even voxels, and ends at even voxels or with the array.
    method
        "mean" averages blocks of 2 x 2 x 2 (at odd ends what there is of them; integers round half up); "nearest"
        takes the first voxel of each block, as labels need it.

    Returns
    -------
    NDArray
        [C, Z', Y', X'] of the same dtype; for "nearest" a view.

    Raises
    ------
    RequestError
        If the method is another.

    Examples
    --------
    >>> line = np.array([0, 2, 5, 6, 9], np.uint8).reshape(1, 1, 1, 5)
    >>> halve(line, "mean").ravel().tolist(), halve(line, "nearest").ravel().tolist()
    ([1, 6, 9], [0, 5, 9])
    """
    if method not in HALVINGS:
        raise RequestError(f"a level cannot be halved by {method!r}; use {' or '.join(HALVINGS)}")
    if method == "nearest":
        return fine[:, ::2, ::2, ::2]
    pad = [(0, 0), *((0, n % 2) for n in fine.shape[1:])]
    if any(after for _, after in pad):
        fine = np.pad(fine, pad, mode="edge")
    wide = _wide(fine.dtype)
    coarse = np.empty((len(fine), *(n // 2 for n in fine.shape[1:])), fine.dtype)
    for c, z in np.ndindex(coarse.shape[:2]):  # what two planes need stays in the processor's cache
        total = np.add(fine[c, 2 * z], fine[c, 2 * z + 1], dtype=wide)
        total = total[::2] + total[1::2]
        total = total[:, ::2] + total[:, 1::2]
        if wide.kind in "ui":
            total += wide.type(4)
            total >>= wide.type(3)
        else:
            total /= 8
        coarse[c, z] = total
    return coarse


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that holds the sum of eight values."""
    if dtype == np.uint8:
        return np.dtype(np.uint16)
    return np.dtype({"u": np.uint64, "i": np.int64}.get(dtype.kind, np.float32))
