"""Connected components of what a stage wrote, or of an input: blocks by themselves, then joined, then painted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.gather import Gathered
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Cell, Made, Op, Table, block_op, gather_op
from voxweft.engine.output import Output, Source
from voxweft.engine.plan import VOLUME
from voxweft.engine.stage import Blocks, Gather, Stage, level_stages
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.ops.components import connected
from voxweft.ops.filters import within_limits
from voxweft.ops.join import joined_components, plane_parts
from voxweft.ops.objects import object_rows
from voxweft.ops.runs import merged, surface
from voxweft.runner.objects import MEASURES, object_stages

BLOCK = 256
AT_ONCE = 2
COMPONENTS, JOIN, PAINT = "components", "join", "paint"
MASKED = ((0, "background"), (255, "component"))
NONE = np.zeros(0, np.int64)
SIDES = np.zeros((0, 3), np.int64)
NOTHING: Table = {  # of a block in which nothing is stored
    "count": np.zeros(1, np.int64),
    **{f"{side}_{axis}": NONE for side in ("low", "high") for axis in range(3)},
    **{name: SIDES if name in ("start", "stop", "sum") else NONE for name in ("label", "seeds", *MEASURES)},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a component is.

    Attributes
    ----------
    low, high
        Least value of a voxel, None: all that is not 0; and what a component must reach, or None.
    each
        Whether equal values are connected, as labels are.
    connectivity
        Neighbours of a voxel: 6, 18 or 26.
    min_size, max_size, min_extent
        Voxels of a component, 0: no limit; and of its box along each axis.
    """

    low: float | None = None
    high: float | None = None
    each: bool = False
    connectivity: int = 26
    min_size: int = 0
    max_size: int = 0
    min_extent: int = 0


def component_stages(
    source: str, spec: OutputSpec, rule: Rule, *, labels: str | None = "", mask: str | None = None
) -> list[Stage]:
    """The stages that number the components of a source, list them, and write them.

    Parameters
    ----------
    source
        An input or an earlier stage, of one channel.
    spec
        Of the labels; chunks, shards and extent are those of the mask too.
    rule
        What a component is.
    labels, mask
        Names of the outputs: uint32 labels 1 to N in the order of the blocks in which components begin, and 255 where
        there is one; None: not written.
    """
    shape, block = spec.shape_zyx, spec.shard_zyx
    how = asdict(Foreground(rule.low, rule.high, rule.each, rule.connectivity, block))
    limits = {"min_size": rule.min_size, "max_size": rule.max_size, "min_extent": rule.min_extent}
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    at_once = AT_ONCE if math.prod(block) <= BLOCK**3 else 1
    common: dict[str, Any] = {"shape_zyx": shape, "region": Box.of(shape), "block_zyx": block, "at_once": at_once}
    if rule.low is None or rule.low > 0:
        common["only_where"] = source
    outputs = [] if labels is None else [Output(labels, spec)]
    if mask is not None:
        outputs.append(Output(mask, replace(spec, dtype="uint8", named=MASKED)))
    common["needs"] = () if source == VOLUME else (source,)
    find = Blocks(
        name=COMPONENTS,
        op=Op.of(find_components, how=how),
        sources=(Source(source, halo_zyx=(1, 1, 1)),),
        outputs=(),
        **common,
    )
    common["needs"] = (*common["needs"], JOIN)
    paint = Blocks(
        name=PAINT,
        op=Op.of(paint_components, grid=grid, how=how, wanted=[labels is not None, mask is not None]),
        sources=(Source(source, halo_zyx=(1, 1, 1), only_after=True),),
        outputs=tuple(outputs),
        tables=(JOIN,),
        **common,
    )
    return [
        find,
        Gather(JOIN, Op.of(join_components, grid=grid, seeds=rule.high is not None, **limits), (COMPONENTS,)),
        paint,
        *object_stages(JOIN, spec.geometry, shape, {1: "component"}),
        *(level for n, output in enumerate(outputs) for level in level_stages(output, Box.of(shape), PAINT, n)),
    ]


def n_components(ledger: Ledger) -> int:
    """How many there are, once all blocks are joined."""
    return len(ledger.table(JOIN, 0).get("label", ()))


@dataclass(frozen=True, slots=True)
class Foreground:
    """Which voxels belong to components: those of at least ``low``, all that are not 0, or with ``each`` equal ones.

    ``high``: what a component must reach; ``connectivity``: neighbours of a voxel; ``block``: voxels of a block.
    """

    low: float | None
    high: float | None
    each: bool
    connectivity: int
    block: Sequence[int]

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is labelled of values."""
        return values if self.each else (values != 0 if self.low is None else values >= self.low)


@block_op
def find_components(sources: Sequence[NDArray[Any] | None], cell: Cell, *, how: Mapping[str, Any]) -> Made:
    """The components of a block: how many, where, and which parts of shared planes they have; rows of tables."""
    rule = Foreground(**how)
    values, seeds, own = _inside(sources[0], cell, rule)
    ids = connected(values, rule.connectivity)
    table: dict[str, Any] = {"count": np.array([ids.max(initial=0)], np.int64)}
    for axis in range(3):
        table[f"low_{axis}"] = plane_parts(values, ids, axis, 0, rule.connectivity)
        behind = own[axis] < values.shape[axis]
        table[f"high_{axis}"] = (
            plane_parts(values, ids, axis, own[axis], rule.connectivity) if behind else np.zeros(0, np.int64)
        )
    inner = ids[: own[0], : own[1], : own[2]]
    near = np.zeros(own, np.bool_)
    if sources[0] is not None:  # the foreground beside a voxel is of its component
        near = surface(rule(sources[0][0]), cell.box.shift(cell.reads[0].start, -1).slices)
    rows = object_rows(inner, cell.box, near)
    seeded = np.ones(len(rows["label"]), np.int64)
    if seeds is not None:
        seeded = np.isin(rows["label"], np.unique(inner[seeds])).astype(np.int64)
    return Made(table=table | rows | {"seeds": seeded})


@gather_op
def join_components(
    gathered: Gathered, *, grid: Sequence[int], seeds: bool, min_size: int, max_size: int, min_extent: int
) -> Made:
    """The object of every component of every block: 1 to N, 0 for what is left out."""
    tables: list[Mapping[str, Any]] = [table or NOTHING for _, table in gathered.tables(COMPONENTS)]
    counts = [int(table["count"][0]) for table in tables]
    first, whole = joined_components(counts, (grid[0], grid[1], grid[2]), [dict(table) for table in tables])
    at = np.concatenate([base + table["label"] - 1 for base, table in zip(first, tables, strict=False)])
    measures = {n: np.concatenate([t[n] for t in tables]) for n in (*MEASURES, "seeds")}
    (found,), table = merged([whole[at]], measures)
    kept = within_limits(table, min_size, min_extent, max_size)
    if seeds:
        kept &= table["seeds"] > 0
    number = np.zeros(int(whole.max(initial=-1)) + 1, np.int64)
    number[found] = np.where(kept, np.cumsum(kept), 0)
    rows = {name: table[name][kept] for name in MEASURES}
    label = np.arange(1, kept.sum() + 1)
    return Made(table={"first": first, "object": number[whole], "class": np.ones_like(label), "label": label, **rows})


@block_op
def paint_components(
    sources: Sequence[NDArray[Any] | None],
    cell: Cell,
    *,
    how: Mapping[str, Any],
    grid: Sequence[int],
    tables: Mapping[str, Table],
    wanted: Sequence[bool] = (True, False),
) -> Made:
    """The same components once more, as the objects that they belong to, and as a mask; what is ``wanted`` of both."""
    rule = Foreground(**how)
    values, _, own = _inside(sources[0], cell, rule)
    ids = connected(values, rule.connectivity)
    z, y, x = (a // b for a, b in zip(cell.box.start, rule.block, strict=True))
    unit = (z * grid[1] + y) * grid[2] + x
    lo, hi = tables[JOIN]["first"][unit : unit + 2]
    lut = np.concatenate([[0], tables[JOIN]["object"][lo:hi]]).astype(np.uint32)
    labels = lut[ids[: own[0], : own[1], : own[2]]]
    arrays: tuple[NDArray[Any], ...] = (labels[None], np.where(labels > 0, 255, 0).astype(np.uint8)[None])
    return Made(tuple(array for array, asked in zip(arrays, wanted, strict=True) if asked))


def _inside(
    read: NDArray[Any] | None, cell: Cell, rule: Foreground
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, Zyx]:
    """What is labelled, with one plane more behind the block; where components may begin; the block's own extent."""
    box, own = cell.box, cell.box.shape
    start = tuple(a - b for a, b in zip(box.start, cell.reads[0].start, strict=True))
    whole = tuple(slice(a, None) for a in start)
    if read is None:
        stop = tuple(min(n + 1, b - a) for n, a, b in zip(own, box.start, cell.reads[0].stop, strict=True))
        return np.zeros(stop, np.uint8), None, own
    values = read[0][whole]
    inner = values[: own[0], : own[1], : own[2]]
    seeds = inner >= rule.high if rule.high is not None else None
    return np.ascontiguousarray(rule(values)), seeds, own
