"""From coded slices to objects of a stack: tables of pieces, matching, and the code of every piece looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.panoptic.codes import DIVISOR, class_of, classes_from
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Cell, Made, Table, block_op, gather_op, joined
from voxweft.ops.filters import large_enough
from voxweft.ops.matching import Overlaps, Pieces, Rules, track_backward, track_forward
from voxweft.ops.runs import Runs, group, looked_up, measured, merged, rows_of

Ints = NDArray[np.int64]


@block_op
def slice_tables(sources: Sequence[NDArray[Any]], cell: Cell, *, reach: int) -> Made:
    """The pieces of a cell and what they share with pieces up to ``reach`` slices further.

    ``sources[0]`` holds codes [1, Z, Y, X] with ``reach`` slices more on both sides. Rows "piece_..." are those of
    pieces, by slice and code; rows "shared_..." those of pairs of pieces of different slices.
    """
    (labels,), box, (read,) = sources[0], cell.box, cell.reads
    begin = box.start[0] - read.start[0]
    own = labels[begin : begin + box.shape[0]]
    (z, code), table = measured(runs := Runs.of([own], box.start), [runs.z, runs.values[:, 0]])
    rows = {"piece_z": z, "piece_code": code} | {f"piece_{name}": values for name, values in table.items()}
    shared = []
    for distance in range(1, reach + 1):
        behind = labels[begin + distance : begin + distance + box.shape[0]]
        pairs = (
            Runs.of([own[: len(behind)], behind], box.start) if len(behind) else Runs.of([own[:0], own[:0]], box.start)
        )
        pairs = pairs.where(pairs.values.min(axis=1, initial=1) > 0)
        order, first = group([pairs.z, pairs.values[:, 0], pairs.values[:, 1]])
        at = order[first]
        pixels = np.add.reduceat(pairs.length[order], first) if len(first) else np.zeros(0, np.int64)
        shared.append(
            {
                "shared_z": pairs.z[at],
                "shared_distance": np.full(len(at), distance),
                "shared_a": pairs.values[at, 0],
                "shared_b": pairs.values[at, 1],
                "shared_pixels": pixels,
            }
        )
    return Made(table=rows | dict(joined(shared)))


class Stack:
    """The pieces of all slices of a stack, from the tables of :func:`slice_tables`.

    Attributes
    ----------
    z, code, table
        Slice and code of every piece, ascending, and what was measured of it.
    """

    def __init__(self, gathered: Gathered, tables: str, n_slices: int, slices: str = "") -> None:
        rows = joined([table for _, table in gathered.tables(tables) if table])
        self.n_slices = n_slices
        keys = [np.asarray(rows.get(f"piece_{name}", _NONE), np.int64) for name in ("z", "code")]
        measures = {name: rows[f"piece_{name}"] for name in ("voxels", "start", "stop", "sum") if rows}
        (self.z, self.code), self.table = merged(keys, measures or _EMPTY)
        shared = [np.asarray(rows.get(f"shared_{name}", _NONE), np.int64) for name in ("z", "distance", "a", "b")]
        pixels = np.asarray(rows.get("shared_pixels", _NONE), np.int64)
        (z, distance, a, b), found = merged(shared, {"pixels": pixels})
        self._keys = self.z * _WIDE + self.code
        self._overlaps = Overlaps(
            np.searchsorted(self._keys, z * _WIDE + a),
            np.searchsorted(self._keys, (z + distance) * _WIDE + b),
            found["pixels"],
        )
        self.confidence = self._confidence(gathered, slices)

    def of_class(self, number: int) -> tuple[Ints, Pieces, Overlaps]:
        """The pieces of a class: their indices here, and they and their overlaps as matching takes them."""
        inside = class_of(self.code) == number
        index = np.flatnonzero(inside)
        first = np.searchsorted(self.z[index], np.arange(self.n_slices + 1))
        pieces = Pieces(first, self.code[index] % DIVISOR, np.asarray(self.table["voxels"], np.int64)[index])
        both = inside[self._overlaps.a] & inside[self._overlaps.b]
        place = np.cumsum(inside) - 1
        return (
            index,
            pieces,
            Overlaps(place[self._overlaps.a[both]], place[self._overlaps.b[both]], self._overlaps.pixels[both]),
        )

    def rows(self, objects: Ints) -> dict[str, NDArray[Any]]:
        """A row a piece: where it is, what it belongs to, how sure it is."""
        of = class_of(self.code)
        sure = self.confidence
        return {"z": self.z, "code": self.code, "class": of, "object": objects, "confidence": sure} | self.table

    def _confidence(self, gathered: Gathered, slices: str) -> NDArray[np.float64]:
        """Mean probability of every piece; NaN where none is known."""
        found = np.full(len(self.z), np.nan)
        rows = joined([table for _, table in gathered.tables(slices) if table]) if slices else {}
        if rows:
            keys = np.asarray(rows["z"], np.int64) * _WIDE + np.asarray(rows["code"], np.int64)
            at, known = rows_of(self._keys, keys)
            found[at[known]] = np.asarray(rows["confidence"])[known]
        return found


_NONE = np.zeros(0, np.int64)
_EMPTY = {"voxels": _NONE, "start": np.zeros((0, 3), np.int64), "stop": np.zeros((0, 3), np.int64)}
_EMPTY |= {"sum": np.zeros((0, 3), np.int64)}
_WIDE = 1 << 32  # codes are below


@gather_op
def match_slices(
    gathered: Gathered,
    *,
    tables: str,
    slices: str,
    n_slices: int,
    classes: Sequence[Any],
    rules: Mapping[str, Any],
    min_size: int,
    min_extent: int,
) -> Made:
    """Objects of the stack: of every piece (rows by slice and code) the object that it belongs to, 0 for none.

    Objects are numbered from 1 in each class, in the order in which matching made them; those that are smaller than
    ``min_size`` voxels or thinner than ``min_extent`` along an axis are left out. Stuff is one object.
    """
    stack = Stack(gathered, tables, n_slices, slices)
    made = np.zeros(len(stack.z), np.int64)
    for one in classes_from(classes):
        index, pieces, overlaps = stack.of_class(one.number)
        if not one.is_thing:
            made[index] = 1
            continue
        how = Rules(**rules)
        labels = track_backward(pieces, overlaps, track_forward(pieces, overlaps, how), how)
        made[index] = large_enough(
            labels, {name: values[index] for name, values in stack.table.items()}, min_size, min_extent
        )
    return Made(table=stack.rows(made))


@gather_op
def number_slices(
    gathered: Gathered,
    *,
    tables: str,
    slices: str,
    n_slices: int,
    classes: Sequence[Any],
    divisor: int,
) -> Made:
    """Objects of slices by themselves: class x divisor + number; 1, 2, and so on where the divisor is 0.

    A divisor that is too small for the objects of a slice is multiplied by 10 until it is not.
    """
    stack = Stack(gathered, tables, n_slices, slices)
    number, of = stack.code % DIVISOR, class_of(stack.code)
    wide = divisor
    while wide and number.max(initial=0) >= wide:
        wide *= 10
    if wide:
        made = of * wide + number
    else:  # classes follow each other
        order = np.lexsort((stack.code, stack.z))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        first = np.searchsorted(stack.z, stack.z)
        made = rank - first + 1
    more = {"divisor": np.array([divisor, wide])}
    return Made(table=stack.rows(made) | more)


def objects_at(codes: NDArray[Any], z: int, table: Table) -> Ints:
    """The objects of coded slices [Z, Y, X] whose first is slice ``z``, by the table of a matching."""
    made = np.zeros(codes.shape, np.int64)
    for k, plane in enumerate(codes):
        lo, hi = np.searchsorted(table["z"], [z + k, z + k + 1])
        made[k] = looked_up(plane, table["code"][lo:hi], table["object"][lo:hi])
    return made
