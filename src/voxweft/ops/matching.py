"""Objects of slices followed through a stack, from their areas and overlaps alone.

    slice 0    [  1  ]      [ 2 ]
    slice 1    [  1    ]   [  2  ]      forward: the best pairs by intersection over union keep their label;
    slice 2    [   1  ][3]  [ 2 ]       a piece mostly within a larger one takes its label, the rest are new
    slice 3    [      1  ]  [ 2 ]       backward: pieces that meet later become one

The rules are empanada's; of them are the Hungarian method, both thresholds, and that a label's pieces count as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pieces:
    """The objects of all slices of a stack, slice by slice and in a slice by their numbers.

    Attributes
    ----------
    first
        Index of the first piece of each slice, and one more: int64 [n_slices + 1].
    number, area
        Number of the piece in its slice, from 1; its pixels: int64 [n].
    """

    first: Ints
    number: Ints
    area: Ints

    @property
    def n_slices(self) -> int:
        """Slices of the stack."""
        return len(self.first) - 1

    @property
    def slice_of(self) -> Ints:
        """The slice of each piece, int64 [n]."""
        return np.repeat(np.arange(self.n_slices), np.diff(self.first))


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixels that two pieces of different slices share, where one slice is laid upon the other.

    Attributes
    ----------
    a, b
        Indices of the pieces, ``a`` in the earlier slice: int64 [n].
    pixels
        How many they share, int64 [n].
    """

    a: Ints
    b: Ints
    pixels: Ints

    def where(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> Overlaps:
        """Some of them, or in another order."""
        return Overlaps(self.a[kept], self.b[kept], self.pixels[kept])


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes two pieces one object.

    Attributes
    ----------
    iou, ioa
        Least intersection over union of a pair; least share of a piece that lies within a label before it.
    max_gap
        Slices that may lack an object which goes on behind them.
    max_iou_jump
        A link is left out where a link before or behind it has an intersection over union larger by more than this:
        what one slice merges by mistake stays apart. 0: never.
    """

    iou: float = 0.25
    ioa: float = 0.25
    max_gap: int = 0
    max_iou_jump: float = 0.0


def track_forward(pieces: Pieces, overlaps: Overlaps, rules: Rules) -> Ints:
    """The label of each piece, from the first slice to the last: int64 [n].

    Labels of the first slice are its numbers; new ones go on from the largest.
    """
    labels = np.zeros(len(pieces.number), np.int64)
    steps = _Steps(pieces, _without_jumps(pieces, overlaps, rules))
    start, stop = pieces.first[:2] if pieces.n_slices else (0, 0)
    labels[start:stop] = pieces.number[start:stop]
    following = int(labels[start:stop].max(initial=0)) + 1
    for z in range(1, pieces.n_slices):
        here = np.arange(pieces.first[z], pieces.first[z + 1])
        if not len(here):
            continue
        for distance in range(1, min(z, rules.max_gap + 1) + 1):
            waiting = here[labels[here] == 0]
            if not len(waiting):
                break
            before = np.arange(pieces.first[z - distance], pieces.first[z - distance + 1])
            if distance > 1:  # labels that are seen in between have not ended
                between = np.arange(pieces.first[z - distance + 1], pieces.first[z + 1])
                before = before[~np.isin(labels[before], labels[between])]
            links = steps.between(z - distance, z)
            found = _matched(pieces, links, labels, before, waiting, waiting, rules)
            labels[waiting] = found
        new = here[labels[here] == 0]
        labels[new] = np.arange(following, following + len(new))
        following += len(new)
    return labels


def track_backward(pieces: Pieces, overlaps: Overlaps, labels: Ints, rules: Rules) -> Ints:
    """Labels after a second way, from the last slice to the first: pieces that meet later get one label."""
    made = labels.copy()
    steps = _Steps(pieces, _without_jumps(pieces, overlaps, rules))
    for z in range(pieces.n_slices - 2, -1, -1):
        here, behind = (np.arange(pieces.first[k], pieces.first[k + 1]) for k in (z, z + 1))
        if not len(here) or not len(behind):
            continue
        links = steps.between(z, z + 1)
        turned = Overlaps(links.b, links.a, links.pixels)
        found = _matched(pieces, turned, made, behind, here, labels[here], rules)
        made[here] = np.where(found > 0, found, made[here])
    return made


class _Steps:
    """Overlaps by the pair of slices that they join."""

    def __init__(self, pieces: Pieces, overlaps: Overlaps) -> None:
        slice_of = pieces.slice_of
        a, b = slice_of[overlaps.a], slice_of[overlaps.b]
        order = np.lexsort((overlaps.b, overlaps.a, b, a))
        self._overlaps = overlaps.where(order)
        keys = a[order] * (pieces.n_slices + 1) + b[order]
        self._keys, self._n = keys, pieces.n_slices + 1

    def between(self, a: int, b: int) -> Overlaps:
        """Those of two slices."""
        key = a * self._n + b
        lo, hi = np.searchsorted(self._keys, [key, key + 1])
        found = self._overlaps
        return Overlaps(found.a[lo:hi], found.b[lo:hi], found.pixels[lo:hi])


def _matched(
    pieces: Pieces, links: Overlaps, labels: Ints, before: Ints, here: Ints, groups: Ints, rules: Rules
) -> Ints:
    """The labels that pieces ``here`` take from pieces ``before``, 0 where none; those of a group count as one."""
    # rows: labels before, in the order in which they come; columns: groups here, ascending
    _, first, row_of = np.unique(labels[before], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    row_of, names = rank[row_of], labels[before][np.sort(first)]
    _, column_of = np.unique(groups, return_inverse=True)
    n_rows, n_columns = len(names), int(column_of.max()) + 1
    row_area = np.bincount(row_of, pieces.area[before], n_rows)
    column_area = np.bincount(column_of, pieces.area[here], n_columns)
    inside = np.isin(links.a, before) & np.isin(links.b, here)
    rows = row_of[np.searchsorted(before, links.a[inside])]
    columns = column_of[np.searchsorted(here, links.b[inside])]
    pairs, which = np.unique(rows * n_columns + columns, return_inverse=True)
    shared = np.bincount(which, links.pixels[inside], len(pairs))
    rows, columns = pairs // n_columns, pairs % n_columns
    iou = shared / (row_area[rows] + column_area[columns] - shared)
    taken = np.full(n_columns, -1)
    for row, column, value in _best_pairs(rows, columns, iou):
        if value >= rules.iou:
            taken[column] = row
    ioa = (shared / column_area[columns]).astype(np.float32)
    order = np.lexsort((rows, -ioa, columns))
    column_first = np.unique(columns[order], return_index=True)[1]
    for k in order[column_first]:  # the largest share of each column, of equal ones the first row
        if taken[columns[k]] < 0 and ioa[k] >= rules.ioa:
            taken[columns[k]] = rows[k]
    found = np.where(taken >= 0, names[taken], 0) if n_rows else np.zeros(n_columns, np.int64)
    return np.asarray(found[column_of])


def _best_pairs(rows: Ints, columns: Ints, weights: NDArray[Any]) -> list[tuple[int, int, float]]:
    """The pairs of largest total weight, each row and each column in one pair at most; group by connected group."""
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return []
    n_rows, n_columns = int(rows.max()) + 1, int(columns.max()) + 1
    n = n_rows + n_columns
    _, group = connected_components(coo_array((np.ones(len(rows)), (rows, columns + n_rows)), shape=(n, n)), False)
    order = np.argsort(group[rows], kind="stable")
    ends = np.flatnonzero(np.diff(group[rows][order])) + 1
    found = []
    for members in np.split(order, ends):
        if len(members) == 1:
            k = members[0]
            found.append((int(rows[k]), int(columns[k]), float(weights[k])))
            continue
        r, ri = np.unique(rows[members], return_inverse=True)
        c, ci = np.unique(columns[members], return_inverse=True)
        matrix = np.zeros((len(r), len(c)))
        matrix[ri, ci] = weights[members]
        for i, j in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
            found.append((int(r[i]), int(c[j]), float(matrix[i, j])))
    return found


def _without_jumps(pieces: Pieces, overlaps: Overlaps, rules: Rules) -> Overlaps:
    """Overlaps without those whose intersection over union is much below that of the piece's link on its other side."""
    if not rules.max_iou_jump:
        return overlaps
    a, b, n = overlaps.a, overlaps.b, overlaps.pixels
    iou = n / (pieces.area[a] + pieces.area[b] - n)
    next_to = pieces.slice_of[b] == pieces.slice_of[a] + 1
    forward, backward = (np.zeros(len(pieces.area)) for _ in range(2))
    np.maximum.at(forward, a[next_to], iou[next_to])
    np.maximum.at(backward, b[next_to], iou[next_to])
    usual = np.maximum(backward[a], forward[b])
    return overlaps.where(iou >= usual - rules.max_iou_jump)
