"""How a resolution level is made from the level above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError

HALVINGS = ("mean", "nearest")


def halve(fine: NDArray[Any], method: str, factor_zyx: Sequence[int] = (2, 2, 2)) -> NDArray[Any]:
    """Half the resolution of [C, Z, Y, X], along all axes or some, extents rounded up.

    Parameters
    ----------
    fine
        [C, Z, Y, X], integers (of 64-bit ones only values below 2^60 for "mean") or floats. Where it is cut from a
        larger array it begins at even voxels, and ends at even voxels or with the array.
    method
        "mean" averages blocks of 2 x 2 x 2 (at odd ends what there is of them; integers round half up); "nearest"
        takes the first voxel of each block, as labels need it.
    factor_zyx
        2 for an axis that is halved, 1 for one that stays; blocks are as large.

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
    dz, dy, dx = factor_zyx
    if method == "nearest" or dz * dy * dx == 1:
        return fine[:, ::dz, ::dy, ::dx]
    pad = [(0, 0), *((0, n % k) for n, k in zip(fine.shape[1:], factor_zyx, strict=True))]
    if any(after for _, after in pad):
        fine = np.pad(fine, pad, mode="edge")
    wide, n = _wide(fine.dtype), dz * dy * dx
    coarse = np.empty((len(fine), *(n // k for n, k in zip(fine.shape[1:], factor_zyx, strict=True))), fine.dtype)
    for c, z in np.ndindex(coarse.shape[:2]):  # what two planes need stays in the processor's cache
        first = fine[c, dz * z]
        total = first.astype(wide) if dz == 1 else np.add(first, fine[c, 2 * z + 1], dtype=wide)
        total = total if dy == 1 else total[::2] + total[1::2]
        total = total if dx == 1 else total[:, ::2] + total[:, 1::2]
        if wide.kind in "ui":
            total += wide.type(n // 2)
            total >>= wide.type(n.bit_length() - 1)
        else:
            total /= n
        coarse[c, z] = total
    return coarse


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that holds the sum of eight values."""
    if dtype == np.uint8:
        return np.dtype(np.uint16)
    return np.dtype({"u": np.uint64, "i": np.int64}.get(dtype.kind, np.float32))
