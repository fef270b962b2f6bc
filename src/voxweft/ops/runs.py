"""Runs: neighbours along x that hold the same. What is counted of labels is counted of runs, of which there are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one or more volumes of labels that lie upon each other.

    Attributes
    ----------
    values
        What each volume holds there, int64 [n, n_volumes]; in one of them at least it is not 0.
    z, y, x, length
        First voxel and voxels of each run, int64 [n].

    Examples
    --------
    >>> runs = Runs.of([np.array([[[7, 7, 0, 7, 2]]])], (0, 5, 0))
    >>> runs.values[:, 0], runs.y, runs.x, runs.length
    (array([7, 7, 2]), array([5, 5, 5]), array([0, 3, 4]), array([2, 1, 1]))
    """

    values: Ints
    z: Ints
    y: Ints
    x: Ints
    length: Ints

    @classmethod
    def of(cls, volumes: Sequence[NDArray[Any]], start: Zyx) -> Runs:
        """The runs of volumes [Z, Y, X] of one shape, whose first voxel is ``start``."""
        shape = volumes[0].shape
        width = shape[2]
        flat = [np.ascontiguousarray(v).reshape(-1) for v in volumes]
        begins = np.zeros(flat[0].shape, np.bool_)
        begins[::width] = True
        for one in flat:
            begins[1:] |= one[1:] != one[:-1]
        at = np.flatnonzero(begins)
        length = np.diff(at, append=len(begins))
        values = np.stack([one[at] for one in flat], axis=1).astype(np.int64)
        kept = values.any(axis=1)
        at, length, values = at[kept], length[kept], values[kept]
        rows, x = np.divmod(at, width)
        z, y = np.divmod(rows, shape[1])
        return cls(values, z + start[0], y + start[1], x + start[2], length)

    def where(self, kept: NDArray[np.bool_]) -> Runs:
        """Some of them."""
        return Runs(self.values[kept], self.z[kept], self.y[kept], self.x[kept], self.length[kept])


def group(keys: Sequence[Ints]) -> tuple[Ints, Ints]:
    """An order in which equal keys follow each other, and where in it each group begins; keys sorted by the first."""
    order = np.lexsort(tuple(reversed(keys)))
    change = np.zeros(len(order), np.bool_)
    change[:1] = True
    for key in keys:
        sorted_key = key[order]
        change[1:] |= sorted_key[1:] != sorted_key[:-1]
    return order, np.flatnonzero(change)


def measured(runs: Runs, keys: Sequence[Ints]) -> tuple[list[Ints], dict[str, Ints]]:
    """The groups of equal keys of runs: their keys, and of each its voxels, box and sums of coordinates.

    Returns
    -------
    keys, table
        A value a group for every key, ascending; int64 "voxels", "start" and "stop" [n, 3] in z y x, "sum" [n, 3].

    Examples
    --------
    >>> runs = Runs.of([np.array([[[7, 7, 0, 7, 2]]])], (0, 5, 0))
    >>> (values,), table = measured(runs, [runs.values[:, 0]])
    >>> values, table["voxels"], table["stop"][1], table["sum"][1]
    (array([2, 7]), array([1, 3]), array([1, 6, 4]), array([ 0, 15,  4]))
    """
    order, first = group(keys)
    if not len(first):
        empty = np.zeros(0, np.int64)
        sides = np.zeros((0, 3), np.int64)
        return [empty for _ in keys], {"voxels": empty, "start": sides, "stop": sides, "sum": sides}
    n, z, y, x = (a[order] for a in (runs.length, runs.z, runs.y, runs.x))
    sums = (n * z, n * y, n * x + n * (n - 1) // 2)
    table = {
        "voxels": np.add.reduceat(n, first),
        "start": np.stack([np.minimum.reduceat(a, first) for a in (z, y, x)], axis=1),
        "stop": np.stack([np.maximum.reduceat(a, first) for a in (z + 1, y + 1, x + n)], axis=1),
        "sum": np.stack([np.add.reduceat(a, first) for a in sums], axis=1),
    }
    return [key[order][first] for key in keys], table


def merged(keys: Sequence[Ints], table: Mapping[str, NDArray[Any]]) -> tuple[list[Ints], dict[str, NDArray[Any]]]:
    """Rows of equal keys as one: "start" is the least, "stop" the largest, all else is summed."""
    order, first = group(keys)
    if not len(first):
        return list(keys), dict(table)
    how = {"start": np.minimum, "stop": np.maximum}
    made = {name: how.get(name, np.add).reduceat(values[order], first, axis=0) for name, values in table.items()}
    return [key[order][first] for key in keys], made


def rows_of(keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each wanted key stands among ascending keys, and whether it is there at all; where not the place is any.

    >>> rows_of(np.array([2, 5, 9]), np.array([9, 3]))
    (array([2, 1]), array([ True, False]))
    """
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, np.asarray(keys[at] == wanted)


def looked_up(labels: NDArray[Any], keys: Ints, targets: Ints) -> Ints:
    """What labels become: the target of the key that each equals, 0 where there is none.

    Parameters
    ----------
    labels
        Integers of any shape.
    keys, targets
        Ascending keys, and a target each: int64 [n].

    Examples
    --------
    >>> looked_up(np.array([0, 5, 9, 6]), np.array([5, 9]), np.array([1, 2]))
    array([0, 1, 2, 0])
    """
    if not len(keys):
        return np.zeros(labels.shape, np.int64)
    lowest, highest = int(keys[0]), int(keys[-1])
    if highest - lowest < max(1 << 16, 4 * labels.size):
        table = np.zeros(highest - lowest + 3, np.int64)
        table[keys - lowest + 1] = targets
        return table[np.clip(labels.astype(np.int64) - lowest + 1, 0, highest - lowest + 2)]
    at = np.minimum(np.searchsorted(keys, labels), len(keys) - 1)
    return np.where(keys[at] == labels, targets[at], 0)


def surface(labels: NDArray[Any], inside: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    """Voxels of objects with a face neighbour that is not of the object; what lies beyond the array counts as the same.

    Parameters
    ----------
    labels
        [Z, Y, X], with one voxel more on every side where there is one.
    inside
        The part that is wanted.

    Examples
    --------
    >>> whole = (slice(None),) * 3
    >>> surface(np.array([[[1, 1, 1, 2, 0]]]), whole)[0, 0]
    array([False, False,  True,  True, False])
    """
    same = labels > 0
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(None, -1), slice(1, None))
        )
        alike = labels[low] == labels[high]
        same[low] &= alike
        same[high] &= alike
    return np.asarray((labels[inside] > 0) & ~same[inside])
