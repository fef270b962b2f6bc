"""The last pass over the voxels: every code becomes its object, block by block, and what is made is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.panoptic.codes import class_of
from voxweft.apps.panoptic.tracking import objects_at
from voxweft.apps.panoptic.voting import Stacks, voted
from voxweft.engine.op import Cell, Made, Table, block_op, joined
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.image.order import inverse, permute_box
from voxweft.ops.objects import dilated, eroded, object_rows
from voxweft.ops.runs import surface

Ints = NDArray[np.int64]
LARGEST = (1 << 32) - 1


@block_op
def paint_stack(
    sources: Sequence[NDArray[Any]],
    cell: Cell,
    *,
    stacks: Mapping[str, Any],
    divisor: int,
    change: tuple[int, int],
    only_one: bool = False,
    tables: Mapping[str, Table],
) -> Made:
    """Objects of one stack, from its codes and those around that thinning and measuring need.

    ``stacks``: fields of :class:`~voxweft.apps.panoptic.voting.Stacks`; ``change``: voxels taken off, and then added;
    ``only_one``: of several classes the array of all of them, and no other.
    """
    one = Stacks(**stacks)
    layers = [found[0] for _, found in one.objects(sources, cell.reads, tables)]
    made = _painted(layers, cell, one.classes, _wide(tables[one.matched[0]], divisor), change)
    return Made(made.arrays[:1], made.table) if only_one else made


@block_op
def paint_slices(
    sources: Sequence[NDArray[Any]],
    cell: Cell,
    *,
    order: tuple[int, int, int],
    matched: str,
    classes: Sequence[int],
    tables: Mapping[str, Table],
) -> Made:
    """Objects of slices by themselves, as one array: their numbers say the class already. A row an object.

    ``order``: how the slices lie, see :class:`~voxweft.apps.panoptic.voting.Stacks`.
    """
    back = inverse(order)
    codes, read, box = sources[0][0].transpose(back), permute_box(cell.reads[0], back), permute_box(cell.box, back)
    found, of = objects_at(codes, read.start[0], tables[matched]), class_of(codes)
    inside = box.shift(read.start, -1).slices
    flat, rows = (slice(0, 1), *inside[1:]), []
    for k in range(inside[0].start, inside[0].stop):
        z = read.start[0] + k
        plane = permute_box(Box((z, *box.start[1:]), (z + 1, *box.stop[1:])), order)
        for number in classes:
            labels = np.where(of[k : k + 1] == number, found[k : k + 1], 0)
            near = surface(labels, flat)
            made = object_rows(labels[flat].transpose(order), plane, near.transpose(order))
            rows.append({"class": np.full(len(made["label"]), number), **made})
    return Made((_as_stored(found[inside].transpose(order)),), joined(rows))


@block_op
def paint_consensus(
    sources: Sequence[NDArray[Any]],
    cell: Cell,
    *,
    stacks: Mapping[str, Any],
    agreed: str,
    divisor: int,
    change: tuple[int, int],
    tables: Mapping[str, Table],
) -> Made:
    """Objects on which stacks agree; as :func:`paint_stack`."""
    several = Stacks(**stacks)
    layers = list(voted(sources, cell.reads, several, tables[agreed], tables))
    return _painted(layers, cell, several.classes, _wide(tables[agreed], divisor), change)


def _painted(layers: Sequence[Ints], cell: Cell, classes: Sequence[int], divisor: int, change: tuple[int, int]) -> Made:
    """One array a class; of several classes a panoptic one before them. And a row an object."""
    read = cell.reads[0]
    inside, rows, arrays = cell.box.shift(read.start, -1).slices, [], []
    for number, layer in zip(classes, layers, strict=True):
        labels = dilated(eroded(layer, change[0]), change[1])
        made = object_rows(labels[inside], cell.box, surface(labels, inside))
        rows.append({"class": np.full(len(made["label"]), number), **made})
        arrays.append(labels[inside])
    if len(classes) > 1:
        whole = np.zeros(cell.box.shape, np.int64)
        for number, labels in zip(classes, arrays, strict=True):
            np.copyto(whole, labels + number * divisor, where=labels > 0)
        arrays.insert(0, whole)
    return Made(tuple(_as_stored(labels) for labels in arrays), joined(rows))


def _as_stored(labels: Ints) -> NDArray[np.uint32]:
    if labels.max(initial=0) > LARGEST:
        raise RunError("the numbers of the objects do not fit in 32 bits; give a smaller --max-objects-per-class")
    return labels.astype(np.uint32)[None]


def _wide(table: Table, divisor: int) -> int:
    """The divisor, multiplied by 10 until all objects of a class fit below it.

    >>> _wide({"object": np.array([1, 12000])}, 10000)
    100000
    """
    most = int(np.asarray(table["object"]).max(initial=0))
    divisor = divisor or 10
    while most >= divisor:
        divisor *= 10
    return divisor
