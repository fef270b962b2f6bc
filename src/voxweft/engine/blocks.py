"""Block stages: an operation on every block, computed cell by cell; the next cell is read meanwhile."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.op import Cell, Made, Table, block_op, find_op, joined
from voxweft.engine.opened import OpenedBlocks
from voxweft.engine.stored import StoredLogits
from voxweft.engine.totals import Totals
from voxweft.geometry.box import Box
from voxweft.image.info import OutputSpec
from voxweft.image.order import permute_box
from voxweft.ops.halve import halve
from voxweft.ops.normalize import moments

CELLS_AHEAD = 2
NO_MOMENTS, EMPTY = ("mean", "m2", "lower", "upper"), np.zeros((0, 1))
Values = NDArray[Any] | StoredLogits | None


def compute_blocks(opened: OpenedBlocks, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Compute blocks and write each once; several of a run at the same time where the stage allows it.

    Raises
    ------
    RunError
        From the stores or the operation; what was written before stays and is not computed again.
    """
    stage = opened.stage

    def block(unit: int) -> None:
        if goes_on(unit):
            _compute_block(opened, unit, commit)

    if stage.at_once == 1:
        for unit in units:
            block(unit)
        return
    with ThreadPoolExecutor(stage.at_once, thread_name_prefix="voxweft-blocks") as pool:
        list(pool.map(block, units))


def _compute_block(opened: OpenedBlocks, unit: int, commit: Commit) -> None:
    operation, box, totals = find_op(opened.stage.op, "block"), opened.stage.box(unit), commit.totals
    if _stores_nothing(opened, box):
        commit.sparse(unit, ())
    elif _cells_are_shards(opened):
        made = [(cell.box, one) for cell, one in _made(opened, operation, box, totals)]
        with totals.timed("write"):
            pieces = [(where, one.arrays) for where, one in made if one.arrays]
            commit.sparse(unit, pieces, table=joined([one.table for _, one in made if one.table]))
    else:
        arrays, table = _computed(opened, operation, box, totals)
        with totals.timed("write"):
            commit(unit, arrays, table=table)


def _stores_nothing(opened: OpenedBlocks, box: Box) -> bool:
    """Whether nothing is made of a box, since what it is made from stores nothing there."""
    stage = opened.stage
    for source, readable in zip(stage.sources, opened.sources, strict=True):
        if source.name == stage.only_where and not isinstance(readable, StoredLogits):
            return not readable.holds(source.reads(box) & Box.of(readable.shape_zyx))
    return False


def _cells_are_shards(opened: OpenedBlocks) -> bool:
    """Whether cells, of which only some are made, can be written by themselves."""
    stage = opened.stage
    specs = [output.spec for output in stage.outputs if output.spec]
    return bool(stage.only_where and specs) and all(spec.shard_zyx == stage.cell_zyx for spec in specs)


def _made(
    opened: OpenedBlocks, operation: Callable[..., Made], box: Box, totals: Totals
) -> Iterator[tuple[Cell, Made]]:
    """The cells of a block, and what the operation makes of each; arrays as they are stored."""
    stage, given = opened.stage, {"tables": opened.tables} if opened.tables else {}
    dtypes = [output.spec.dtype for output in stage.outputs if output.spec]
    for cell, values in _cells(opened, box, totals):
        with totals.timed("compute"):
            made = operation(values, cell, **given, **stage.op.arguments)
        pairs = zip(made.arrays, dtypes, strict=True) if made.arrays else ()
        yield cell, Made(tuple(np.ascontiguousarray(array, dtype) for array, dtype in pairs), made.table)


def _computed(
    opened: OpenedBlocks, operation: Callable[..., Made], box: Box, totals: Totals
) -> tuple[tuple[NDArray[Any], ...], Table]:
    """The arrays of a block, one an output, and its table: those of its cells, one after the other."""
    specs = [output.spec for output in opened.stage.outputs if output.spec]
    arrays: tuple[NDArray[Any], ...] = ()
    tables = list[Table]()
    for cell, made in _made(opened, operation, box, totals):
        if made.arrays and cell.box == box:
            arrays = made.arrays
        elif made.arrays:
            arrays = arrays or _zeros(specs, box)
            place = (slice(None), *cell.box.shift(box.start, -1).slices)
            for array, part in zip(arrays, made.arrays, strict=True):
                array[place] = part
        if made.table:
            tables.append(made.table)
    return arrays or _zeros(specs, box), joined(tables)


def _zeros(specs: Sequence[OutputSpec], box: Box) -> tuple[NDArray[Any], ...]:
    return tuple(np.zeros((spec.n_channels, *box.shape), spec.dtype) for spec in specs)


def _cells(opened: OpenedBlocks, box: Box, totals: Totals) -> Iterator[tuple[Cell, list[Values]]]:
    """The cells of a block with what they read, a few read ahead."""
    stage = opened.stage
    boxes = [cell & box for cell in box.cells(stage.cell_zyx)] if stage.cell_zyx else [box]
    boxes = [cell for cell in boxes if not _stores_nothing(opened, cell)]
    ahead: deque[Future[tuple[Cell, list[Values]]]] = deque()
    with ThreadPoolExecutor(CELLS_AHEAD, thread_name_prefix="voxweft-read") as threads:
        todo = iter(boxes)
        try:
            while True:
                for further in itertools.islice(todo, 1 + CELLS_AHEAD - len(ahead)):
                    ahead.append(threads.submit(_read, opened, further))
                if not ahead:
                    return
                with totals.timed("read"):
                    cell, values = ahead.popleft().result()
                totals.bytes_read += _n_bytes(values)
                yield cell, values
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def _read(opened: OpenedBlocks, box: Box) -> tuple[Cell, list[Values]]:
    reads, values = list[Box](), list[Values]()
    for source, readable in zip(opened.stage.sources, opened.sources, strict=True):
        if isinstance(readable, StoredLogits):
            reads.append(box)
            values.append(readable)
            continue
        within = source.reads(box) & Box.of(readable.shape_zyx)
        reads.append(permute_box(within, source.order))
        found = readable.read(within)
        values.append(found if found is None else found.transpose(0, *(axis + 1 for axis in source.order)))
    return Cell(box, tuple(reads)), values


def _n_bytes(values: Sequence[Values]) -> int:
    return sum(v.nbytes for v in values if isinstance(v, np.ndarray))


@block_op
def halve_block(
    sources: Sequence[NDArray[Any]], cell: Cell, *, method: str, factor_zyx: Sequence[int] = (2, 2, 2)
) -> Made:
    """A cell of a resolution level from the level above it; see :func:`voxweft.ops.halve.halve`."""
    return Made((halve(sources[0], method, factor_zyx),))


@block_op
def moments_block(sources: Sequence[NDArray[Any]], _cell: Cell, *, masked: bool = False) -> Made:
    """Moments of a cell as a table, perhaps of its non-zero voxels only; see :func:`voxweft.ops.normalize.moments`."""
    if not masked:
        return Made(table=moments(sources[0]))
    inside = sources[0][:, sources[0].any(axis=0)]
    return Made(table=moments(inside) if inside.size else {"count": np.zeros(0)} | dict.fromkeys(NO_MOMENTS, EMPTY))


@block_op
def nonzero_block(sources: Sequence[NDArray[Any]], cell: Cell) -> Made:
    """First and one past the last non-zero voxel of a cell, int64 [1, 3]; ``stop`` is 0 where there is none."""
    filled = sources[0].any(axis=0)
    along = [np.asarray(np.logical_or.reduce(filled, axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    if not along[0].any():
        return Made(table={"start": np.zeros((1, 3), np.int64), "stop": np.zeros((1, 3), np.int64)})
    sides = list(zip(along, cell.box.start, strict=True))
    start = np.array([[a + int(one.argmax()) for one, a in sides]])
    stop = np.array([[a + len(one) - int(one[::-1].argmax()) for one, a in sides]])
    return Made(table={"start": start, "stop": stop})
