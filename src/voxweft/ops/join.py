"""Connected components of a volume in blocks: each block is labelled by itself, and shared planes tell what is one.

    block A  | . . . . . |p|      A is labelled with one more plane p behind its end, which is B's first plane
    block B              |p| . . . . |

Both label p as a plane too, and since it is the same plane they number its parts in the same way: part k lies in one
component of A and in one of B, which are therefore one. No voxel is kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx
from voxweft.ops.components import connected

Ints = NDArray[np.int64]
IN_PLANE = {6: 4, 18: 8, 26: 8}


def plane_parts(values: NDArray[Any], ids: NDArray[Any], axis: int, index: int, connectivity: int) -> Ints:
    """The component of each part of a plane of a block, in the order of the parts.

    >>> values = np.array([[[1, 0, 1]], [[1, 1, 1]]], np.uint8)
    >>> plane_parts(values, connected(values, 6), 0, 0, 6)
    array([1, 1])
    """
    plane, inside = values.take(index, axis), ids.take(index, axis)
    parts = connected(plane, IN_PLANE[connectivity])
    found = np.zeros(int(parts.max(initial=0)) + 1, np.int64)
    found[parts.ravel()] = inside.ravel()
    return found[1:]


def joined_components(counts: Sequence[int], grid_zyx: Zyx, faces: Sequence[dict[str, Ints]]) -> tuple[Ints, Ints]:
    """Which components of blocks are one.

    Parameters
    ----------
    counts
        Components of each block, x fastest.
    grid_zyx
        Blocks along each axis.
    faces
        Of each block :func:`plane_parts` of its first planes, "low_0" to "low_2", and of the planes behind its last,
        "high_0" to "high_2".

    Returns
    -------
    first, whole
        Index of the first component of each block, and one more; a number for each component, equal for those that are
        one, from 0 in the order of their first components.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    _, ny, nx = grid_zyx
    step = (ny * nx, nx, 1)
    pairs = []
    for block, found in enumerate(faces):
        place = (block // (ny * nx), block // nx % ny, block % nx)
        for axis in range(3):
            if place[axis] + 1 < grid_zyx[axis]:
                behind = block + step[axis]
                ours, theirs = found[f"high_{axis}"], faces[behind][f"low_{axis}"]
                pairs.append(np.stack([first[block] + ours - 1, first[behind] + theirs - 1]))
    a, b = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    n = int(first[-1])
    _, numbers = connected_components(coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(n, n)), directed=False)
    _, begins, index = np.unique(numbers, return_index=True, return_inverse=True)
    return first, np.argsort(np.argsort(begins))[index]
