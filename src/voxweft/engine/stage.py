"""The three kinds of stage: what is computed, divided into units. Frozen data, nothing is open.

    Sweep    patches through networks, woven into slabs       a unit: a slab, or a layer of patches that are kept
    Blocks   an operation on every block of a grid            a unit: a block
    Gather   an operation on the tables of earlier stages     a unit: the whole

All of them answer the same questions, and nobody asks others:

    n_units, noun, label(unit)     how many, what they are called
    box(unit)                      which voxels of its outputs a unit writes
    reads(unit)                    which voxels of earlier stages it needs
    touching(box)                  the units that write into a box
    share(index, count)            the units of part ``index`` of ``count``
    runs(units)                    units that are best computed without a stop between them
    cost(units)                    what they cost, in patches or blocks
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from voxweft.engine.op import Op
from voxweft.engine.output import Output, Source, consecutive, share_of
from voxweft.engine.passes import Pass, Slices, Stores, Sweep
from voxweft.geometry.box import Box, Zyx

__all__ = [
    "Blocks",
    "Gather",
    "Output",
    "Pass",
    "Slices",
    "Source",
    "Stage",
    "Stores",
    "Sweep",
    "consecutive",
    "level_stages",
]


@dataclass(frozen=True, slots=True)
class Blocks:
    """An operation on every block of a regular grid.

        region  +---+-------+-------+--+      units: blocks that meet it, x fastest
                | 0 |   1   |   2   |3 |      a block is computed cell by cell, and written at once
                +---+-------+-------+--+

    Attributes
    ----------
    name, needs
        Of the stage; of the stages that it reads.
    op
        ``op(sources, cell, **arguments) -> Made``; see :func:`voxweft.engine.op.block_op`.
    sources, outputs
        What is read; what is written: arrays of one shape at one level, or nothing but tables.
    shape_zyx, region
        Voxels of the grid; those that are wanted.
    block_zyx
        A block, whole shards of the outputs.
    cell_zyx
        What is computed at once; default: the block.
    at_once
        Blocks that a worker may compute at the same time.
    noun
        What a block is called, in the plural.
    tables
        Of the gathers that are needed those whose tables the operation is given, as ``tables``.
    only_where
        Name of a source; where it stores nothing, nothing is made: such blocks are complete without a look at them.
    """

    name: str
    op: Op
    sources: tuple[Source, ...]
    outputs: tuple[Output, ...]
    shape_zyx: Zyx
    region: Box
    block_zyx: Zyx
    cell_zyx: Zyx | None = None
    at_once: int = 1
    needs: tuple[str, ...] = ()
    noun: str = "blocks"
    tables: tuple[str, ...] = ()
    only_where: str = ""
    kind: Literal["blocks"] = "blocks"

    @property
    def _ranges(self) -> tuple[range, range, range]:
        sides = zip(self.region.start, self.region.stop, self.block_zyx, strict=True)
        z, y, x = (range(a // n, -(-b // n)) for a, b, n in sides)
        return z, y, x

    @property
    def n_units(self) -> int:
        """Number of blocks."""
        return math.prod(map(len, self._ranges))

    def box(self, unit: int) -> Box:
        """The voxels of a block."""
        zs, ys, xs = self._ranges
        rest, x = divmod(unit, len(xs))
        z, y = divmod(rest, len(ys))
        start = tuple(i * n for i, n in zip((zs[z], ys[y], xs[x]), self.block_zyx, strict=True))
        stop = tuple(a + n for a, n in zip(start, self.block_zyx, strict=True))
        return Box(start, stop) & Box.of(self.shape_zyx)  # type: ignore[arg-type]

    def label(self, unit: int) -> str:
        """The unit in words."""
        return f"block {unit} of {self.name}"

    def reads(self, unit: int) -> Mapping[str, Box | None]:
        """What it needs of earlier stages."""
        return {s.name: s.reads(self.box(unit)) for s in self.sources if s.name in self.needs} | {
            name: None for name in self.needs if name not in {s.name for s in self.sources}
        }

    def share(self, index: int, count: int) -> range:
        """The units of part ``index`` of ``count``."""
        return share_of(self.n_units, index, count)

    def pieces(self) -> tuple[range, ...]:
        """Blocks may be divided in any way."""
        return ()

    def runs(self, units: Iterable[int]) -> Iterator[range]:
        """As many as are computed at once."""
        for run in consecutive(units):
            for lo in range(run.start, run.stop, self.at_once):
                yield range(lo, min(run.stop, lo + self.at_once))

    def touching(self, box: Box) -> Iterator[int]:
        """The blocks that meet a box."""
        within = [
            range(max(r.start, a // n) - r.start, min(r.stop, -(-b // n)) - r.start)
            for r, a, b, n in zip(self._ranges, box.start, box.stop, self.block_zyx, strict=True)
        ]
        _, ny, nx = map(len, self._ranges)
        return ((z * ny + y) * nx + x for z, y, x in itertools.product(*within))

    def cost(self, units: range) -> int:
        """Blocks."""
        return len(units)


@dataclass(frozen=True, slots=True)
class Gather:
    """An operation on the tables of earlier stages, or on what they wrote, in one place.

    Attributes
    ----------
    name, needs
        Of the stage; of the stages that must be complete before.
    op
        ``op(gathered, **arguments) -> Made``; see :func:`voxweft.engine.op.gather_op`.
    outputs
        Files that it writes.
    """

    name: str
    op: Op
    needs: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
    noun: str = "results"
    kind: Literal["gather"] = "gather"

    @property
    def n_units(self) -> int:
        """One."""
        return 1

    def box(self, _unit: int) -> None:
        """No voxels."""

    def label(self, _unit: int) -> str:
        """The unit in words."""
        return self.name

    def reads(self, _unit: int) -> Mapping[str, Box | None]:
        """All of the stages before."""
        return dict.fromkeys(self.needs)

    def share(self, index: int, count: int) -> range:
        """All of it, or nothing."""
        return share_of(1, index, count)

    def pieces(self) -> tuple[range, ...]:
        """One unit cannot be divided."""
        return ()

    def runs(self, units: Iterable[int]) -> Iterator[range]:
        """The one unit."""
        yield from consecutive(units)

    def touching(self, _box: Box) -> Iterator[int]:
        """The one unit."""
        return iter((0,))

    def cost(self, units: range) -> int:
        """One."""
        return len(units)


Stage = Sweep | Blocks | Gather


LARGE = 512  # voxels an axis of a block of which little is stored


def level_stages(
    output: Output, region: Box, source: str, index: int = 0, *, sparse: bool = False
) -> tuple[Blocks, ...]:
    """The halved resolution levels of an output, each made from the one before; none where no pyramid is wanted.

    ``index``: which output of the source it is. ``sparse``: little of it is stored; only that is looked at.
    """
    spec, found = output.spec, list[Blocks]()
    if spec is None:
        return ()
    factors = spec.level_factors
    for level in range(1, len(factors)):
        z, y, x = (k // before for k, before in zip(factors[level], factors[level - 1], strict=True))
        some = {} if (z, y, x) == (2, 2, 2) else {"factor_zyx": [z, y, x]}
        here = replace(output, level=level, attributes={})
        wanted = _coarser(region, factors[level]) & Box.of(here.shape_zyx)
        of = output.name if index else source if output.name else ""
        name = f"{of}-level-{level}" if of else f"level-{level}"
        before, block = found[-1].name if found else source, spec.shard_zyx
        if sparse:
            block = tuple(max(1, LARGE // n) * n for n in block)  # type: ignore[assignment]
        found.append(
            Blocks(
                name=name,
                op=Op("voxweft.engine.blocks:halve_block", {"method": spec.halving, **some}),
                sources=(Source(before, 0 if found else index, finer_zyx=(z, y, x)),),
                outputs=(here,),
                shape_zyx=here.shape_zyx,
                region=wanted,
                block_zyx=block,
                cell_zyx=spec.chunk_zyx,
                needs=(before,),
                only_where=before if sparse else "",
            )
        )
    return tuple(found)


def _coarser(box: Box, factors: Zyx) -> Box:
    """The voxels of a level of which any part lies in a box of level 0."""
    start = (a // k for a, k in zip(box.start, factors, strict=True))
    stop = (-(-b // k) for b, k in zip(box.stop, factors, strict=True))
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
