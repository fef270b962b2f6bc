"""Consensus of several stacks: what their objects share, counted block by block, and the objects that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.panoptic.codes import class_of, classes_from
from voxweft.apps.panoptic.tracking import objects_at
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Cell, Made, Table, block_op, gather_op, joined
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.image.order import inverse
from voxweft.ops.consensus import Votes, consensus
from voxweft.ops.filters import large_enough
from voxweft.ops.runs import Runs, looked_up, measured, merged
from voxweft.runner.objects import mean_confidence

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stacks:
    """The stacks of a volume, as block operations are told of them: plain values, one of each a stack.

    Attributes
    ----------
    orders
        How each lies: axis k of the volume is axis ``order[k]`` of the stack, whose slices come first.
    matched
        The gather that says to which object a code belongs; "" for a stack that holds objects already.
    classes
        Numbers of the classes.
    divisor
        Of stacks that hold objects: they are class x divisor + number, or numbers where it is 0.
    """

    orders: Sequence[Sequence[int]]
    matched: Sequence[str]
    classes: Sequence[int]
    divisor: int = 0

    def objects(
        self, sources: Sequence[NDArray[Any]], reads: Sequence[Box], tables: Mapping[str, Table]
    ) -> Iterator[tuple[int, list[Ints]]]:
        """Of each class the objects of all stacks in what was read of them [Z, Y, X], in the axes of the volume."""
        for number in self.classes:
            found = []
            for values, read, order, name in zip(sources, reads, self.orders, self.matched, strict=True):
                if not name:
                    labels = np.asarray(values[0], np.int64)
                    own = labels // self.divisor == number if self.divisor else labels > 0
                    found.append(np.where(own, labels - number * self.divisor, 0))
                    continue
                z, y, x = order
                back = inverse((z, y, x))
                swept = values[0].transpose(back)
                codes = np.where(class_of(swept) == number, swept, 0) if len(self.classes) > 1 else swept
                found.append(objects_at(codes, read.start[back[0]], tables[name]).transpose((z, y, x)))
            yield number, found


@block_op
def shared_objects(
    sources: Sequence[NDArray[Any]],
    cell: Cell,
    *,
    stacks: Mapping[str, Any],
    tables: Mapping[str, Table] | None = None,
) -> Made:
    """The combinations of objects that occur in a cell: class, objects of the stacks, voxels and box."""
    rows = []
    for number, found in Stacks(**stacks).objects(sources, cell.reads, tables or {}):
        runs = Runs.of(found, cell.box.start)
        keys, table = measured(runs, [runs.values[:, k] for k in range(len(found))])
        named = {f"object_{k}": key for k, key in enumerate(keys)}
        rows.append({"class": np.full(len(keys[0]), number), **named, **table})
    return Made(table=joined(rows))


@gather_op
def agree(
    gathered: Gathered,
    *,
    shared: str,
    matched: Sequence[str],
    n_stacks: int,
    classes: Sequence[Any],
    votes: Mapping[str, Any],
    min_size: int,
    min_extent: int,
) -> Made:
    """The object of every combination, 1 to N in each class, 0 for none; see :func:`voxweft.ops.consensus.consensus`.

    Of stuff a voxel stays where enough stacks have it.
    """
    rows = joined([table for _, table in gathered.tables(shared) if table])
    names = ["class", *(f"object_{k}" for k in range(n_stacks))]
    if not rows:
        return Made(table={name: np.zeros(0, np.int64) for name in (*names, "object", "voxels")})
    measures = {name: rows[name] for name in ("voxels", "start", "stop", "sum")}
    keys, table = merged([np.asarray(rows[name], np.int64) for name in names], measures)
    of, members = keys[0], np.stack(keys[1:], axis=1)
    made = np.zeros(len(of), np.int64)
    for one in classes_from(classes):
        inside = of == one.number
        if not one.is_thing:
            made[inside] = (members[inside] > 0).sum(axis=1) >= votes["voxel"]
            continue
        found = consensus(members[inside], table["voxels"][inside], Votes(**votes))
        made[inside] = large_enough(
            found, {name: values[inside] for name, values in table.items()}, min_size, min_extent
        )
    sure = _confidence(gathered, matched, of, members)
    return Made(table=dict(zip(names, keys, strict=True)) | {"object": made, "confidence": sure} | table)


def voted(
    sources: Sequence[NDArray[Any]],
    reads: Sequence[Box],
    stacks: Stacks,
    agreed: Table,
    tables: Mapping[str, Table],
) -> Iterator[Ints]:
    """The objects of what was read [Z, Y, X], an array a class."""
    for number, found in stacks.objects(sources, reads, tables):
        inside = agreed["class"] == number
        columns = [agreed[f"object_{k}"][inside] for k in range(len(found))]
        sizes = [int(c.max(initial=0)) + 1 for c in columns]
        if np.prod([float(n) for n in sizes]) >= 2.0**62:
            raise RunError("there are too many objects for a consensus in one run; divide the volume by --roi")
        keys = _joint(columns, sizes)
        order = np.argsort(keys)
        seen = _joint([np.where(s < n, s, 0) for s, n in zip(found, sizes, strict=True)], sizes)
        flat = seen.reshape(-1)  # what is looked up is runs, of which there are few
        begins = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        made = looked_up(flat[begins], keys[order], agreed["object"][inside][order])
        yield np.repeat(made, np.diff(begins, append=len(flat))).reshape(seen.shape)


def _joint(columns: Sequence[NDArray[Any]], sizes: Sequence[int]) -> Ints:
    """One number for each combination."""
    made = np.asarray(columns[0], np.int64)
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        made = made * size + column
    return made


def _confidence(gathered: Gathered, matched: Sequence[str], of: Ints, members: Ints) -> NDArray[np.float64]:
    """Mean over the stacks of how sure the objects of each combination are; NaN where none is known."""
    found = [
        mean_confidence(gathered.ledger.table(name, 0), of, members[:, k]) for k, name in enumerate(matched) if name
    ]
    stacks = np.array(found).reshape(len(found), len(of))
    n = np.isfinite(stacks).sum(axis=0)
    return np.where(n > 0, np.nansum(stacks, axis=0) / np.maximum(n, 1), np.nan)
