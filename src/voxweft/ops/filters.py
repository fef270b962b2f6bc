"""Objects that are too small or too thin are left out, and the others numbered without a gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.runs import looked_up, merged


def within_limits(
    table: Mapping[str, NDArray[Any]], min_size: int, min_extent: int, max_size: int = 0
) -> NDArray[np.bool_]:
    """Which objects, by their "voxels" [n], "start" and "stop" [n, 3], are neither too small, too thin nor too large.

    ``min_extent``: least voxels of the box along each axis; ``max_size`` 0: any size.

    >>> boxes = {"start": np.zeros((2, 3), int), "stop": np.array([[4, 4, 4], [9, 9, 2]])}
    >>> within_limits({"voxels": np.array([30, 80]), **boxes}, 20, 3)
    array([ True, False])
    """
    kept = table["voxels"] >= min_size
    if max_size:
        kept = kept & (table["voxels"] <= max_size)
    extent = (table["stop"] - table["start"]).min(axis=1, initial=np.iinfo(np.int64).max)
    return np.asarray(kept & (extent >= min_extent))


def large_enough(
    labels: NDArray[np.int64], table: Mapping[str, NDArray[Any]], min_size: int, min_extent: int
) -> NDArray[np.int64]:
    """Labels numbered 1 to N in their order; 0 for objects that are too small or too thin.

    Parameters
    ----------
    labels
        The object of each piece, from 1; 0 for none: int64 [n].
    table
        "voxels" [n], "start" and "stop" [n, 3] of the pieces.
    min_size, min_extent
        Least voxels of an object, and least voxels of its box along each axis.

    Examples
    --------
    >>> boxes = {"start": np.zeros((3, 3), int), "stop": np.full((3, 3), 4)}
    >>> large_enough(np.array([7, 9, 7]), {"voxels": np.array([3, 5, 4]), **boxes}, 6, 4)
    array([1, 0, 1])
    """
    (found,), whole = merged([labels], {name: np.asarray(table[name]) for name in ("voxels", "start", "stop")})
    kept = within_limits(whole, min_size, min_extent) & (found > 0)
    return looked_up(labels, found, np.where(kept, np.cumsum(kept), 0))
