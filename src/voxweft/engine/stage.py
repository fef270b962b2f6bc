"""The three kinds of stage: what is computed, cut into units. Frozen data, nothing is open.

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
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from voxweft.engine.op import Op
from voxweft.engine.patch_layers import PatchLayers
from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.model.card import Normalization
from voxweft.model.frozen import FrozenDict
from voxweft.model.protocols import ForwardSetting
from voxweft.ops.activate import Finish
from voxweft.ops.augment import View


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a stage writes.

    Attributes
    ----------
    name
        "" for the result itself; others have a name, and lie beside it unless they were given a place.
    spec
        The array; None for a file that a gather writes.
    level
        Resolution level of the array, 0 is the finest.
    attributes
        What the array says of itself, plain JSON values.
    """

    name: str = ""
    spec: OutputSpec | None = None
    level: int = 0
    attributes: Mapping[str, Any] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", FrozenDict(self.attributes))

    @property
    def shape_zyx(self) -> Zyx:
        """Voxels of the level; of a file none."""
        if self.spec is None:
            return (0, 0, 0)
        z, y, x = (-(-n // 2**self.level) for n in self.spec.shape_zyx)
        return z, y, x


@dataclass(frozen=True, slots=True)
class Source:
    """What a block or a gather reads.

    Attributes
    ----------
    name
        Of an input of the plan, or of an earlier stage.
    output
        Which output of that stage.
    finer_zyx
        Voxels of the source per voxel that is made, an axis.
    halo_zyx
        Voxels of the source that are read beyond the block, on both sides.
    """

    name: str
    output: int = 0
    finer_zyx: Zyx = (1, 1, 1)
    halo_zyx: Zyx = (0, 0, 0)

    def reads(self, box: Box) -> Box:
        """What is read for a box; it may leave the source.

        >>> str(Source("image", finer_zyx=(2, 2, 2), halo_zyx=(1, 0, 0)).reads(Box((4, 0, 0), (6, 3, 3))))
        '7:13,0:6,0:6'
        """
        start = (a * f - h for a, f, h in zip(box.start, self.finer_zyx, self.halo_zyx, strict=True))
        stop = (b * f + h for b, f, h in zip(box.stop, self.finer_zyx, self.halo_zyx, strict=True))
        return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Pass:
    """One way over the volume: a model, an augmentation, a grid.

    Attributes
    ----------
    model
        Index of the model in the plan.
    grid
        Patch positions over the whole volume.
    setting
        How the network is run.
    normalization
        One scheme a channel, or one for all, with the numbers that they need.
    views
        Views of every patch; their logits are averaged before they are woven.
    tta
        What the views are called.
    weight
        Of this pass among all; they need not sum to one.
    """

    model: int
    grid: TileGrid
    setting: ForwardSetting
    normalization: tuple[Normalization, ...]
    views: tuple[View, ...] = (View(),)
    tta: str = "none"
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the logits of patches go that are kept unwoven: one store a part.

    ``compressor`` is a name and a level.
    """

    n_parts: int
    compressor: tuple[str, int] = ("zstd", 3)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Patches through networks, woven along z and written in slabs; or kept by themselves, in ``stores``.

    Attributes
    ----------
    name, source, needs
        Of the stage; of the input or stage that is swept; of the stages that must be complete before.
    info
        What is swept.
    passes
        At least one; one accumulator takes all.
    window, sigma_scale
        Blend weights of a patch.
    finish, outputs
        What becomes of the blended logits, and the array they are written to.
    region
        The box that is wanted.
    columns, plane_block
        How the output is divided; planes read at once.
    skip_empty
        Whether patches of equal voxels are left out.
    mask
        Name of the input that says where the result counts, or "".
    stores
        Where patches are kept; None: they are woven.
    """

    name: str
    source: str
    info: VolumeInfo
    passes: tuple[Pass, ...]
    window: str
    sigma_scale: float
    finish: Finish
    outputs: tuple[Output, ...]
    region: Box
    columns: Columns
    plane_block: int
    skip_empty: bool = True
    mask: str = ""
    stores: Stores | None = None
    needs: tuple[str, ...] = ()
    kind: Literal["sweep"] = "sweep"

    @property
    def grid(self) -> TileGrid:
        """The grid of the first pass."""
        return self.passes[0].grid

    @property
    def spec(self) -> OutputSpec:
        """The array that is written."""
        (output,) = self.outputs
        if output.spec is None:
            raise RequestError(f"stage {self.name} writes no array")
        return output.spec

    @property
    def noun(self) -> str:
        """What a unit is called, in the plural."""
        return "layers of patches" if self.stores else "slabs"

    @property
    def kept(self) -> PatchLayers | None:
        """The layers of the patches that are kept by themselves."""
        if not self.stores:
            return None
        return PatchLayers(self.grid, self.columns, self.region, self.stores.n_parts)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.kept.n_layers if self.kept else self.columns.n_units

    def box(self, unit: int) -> Box | None:
        """The slab; None for patches that are kept by themselves."""
        return None if self.stores else self.slab_box(unit)

    def slab_box(self, unit: int) -> Box:
        """The voxels of a slab."""
        return self.columns.box(*self._slab(unit))

    def label(self, unit: int) -> str:
        """The unit in words."""
        if self.kept:
            return "layer {1} of part {0}".format(*self.kept.place(unit))
        column, slab = self._slab(unit)
        return f"slab {slab[0]} of column {column}"

    def reads(self, _unit: int) -> Mapping[str, Box | None]:
        """All of the stages before: patches reach far."""
        return dict.fromkeys(self.needs)

    def share(self, index: int, count: int) -> range:
        """The units of part ``index`` of ``count``."""
        if self.kept and self.stores and count == self.stores.n_parts:
            return self.kept.layers_of(index)
        return _share(self.n_units, index, count)

    def pieces(self) -> tuple[range, ...]:
        """Shares that must not be divided; empty where there are none."""
        return tuple(self.kept.layers_of(i) for i in range(self.kept.n_parts)) if self.kept else ()

    def runs(self, units: Iterable[int]) -> Iterator[range]:
        """Consecutive units of one column, or of one store."""
        kept = self.kept
        for run in consecutive(units):
            lo = run.start
            while lo < run.stop:
                end = kept.layers_of(kept.place(lo)[0]).stop if kept else lo - lo % self.columns.n_slabs
                end = end if kept else end + self.columns.n_slabs
                yield range(lo, min(end, run.stop))
                lo = min(end, run.stop)

    def touching(self, box: Box) -> Iterator[int]:
        """The units that write into a box; all of them where patches are kept by themselves."""
        return iter(range(self.n_units)) if self.stores else self.columns.touching(box)

    def cost(self, units: range) -> int:
        """Patches that are computed for them."""
        if self.stores:
            return len(units)
        return sum(self.n_tiles(self.swept(run)) for run in self.runs(units))

    def swept(self, run: range) -> Box:
        """The wanted voxels of a run of slabs."""
        column, first = divmod(run.start, self.columns.n_slabs)
        return self.columns.box(column, range(first, first + len(run))) & self.region

    def n_tiles(self, box: Box) -> int:
        """Patches that a sweep of an output box computes, in all passes."""
        return sum(math.prod(len(r) for r in one.grid.touching(box)) for one in self.passes)

    def reach(self, box: Box) -> Box:
        """All voxels of the source that a sweep of an output box reads."""
        found = []
        for one in self.passes:
            zs, ys, xs = one.grid.touching(box)
            first, last = one.grid.tile((zs[0], ys[0], xs[0])), one.grid.tile((zs[-1], ys[-1], xs[-1]))
            found.append(Box(first.box.start, last.box.stop))
        start = tuple(map(min, zip(*(b.start for b in found), strict=True)))
        stop = tuple(map(max, zip(*(b.stop for b in found), strict=True)))
        return Box(start, stop) & Box.of(self.info.shape_zyx)

    def n_decoded(self, box: Box) -> int:
        """Voxels of the chunks that reading a box of the source decodes."""
        sides = zip(box.start, box.stop, self.info.chunk_zyx, strict=True)
        return math.prod((-(-b // c) - a // c) * c for a, b, c in sides)

    @property
    def n_patches_computed(self) -> int:
        """Patches that all columns compute when each is swept in one go."""
        return self.cost(range(self.columns.n_units))

    @property
    def n_forwards(self) -> float:
        """Forward passes of a patch by augmentation, on average over the passes (folds are inside the model)."""
        return sum(len(one.views) for one in self.passes) / len(self.passes)

    @property
    def waste(self) -> float:
        """Patches computed / patches of the grids that meet the region."""
        return self.n_patches_computed / max(1, self.n_tiles(self.region))

    def _slab(self, unit: int) -> tuple[int, range]:
        column, slab = divmod(unit, self.columns.n_slabs)
        return column, range(slab, slab + 1)


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
        What is computed at once; default: the block. An operation that gives a table is called once a block.
    at_once
        Blocks that a worker may compute at the same time.
    noun
        What a block is called, in the plural.
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
        return _share(self.n_units, index, count)

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
        return _share(1, index, count)

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


def _share(n_units: int, index: int, count: int) -> range:
    """Shares differ by at most one unit; some are empty where there are more parts than units.

    >>> [_share(5, i, 3) for i in range(3)]
    [range(0, 1), range(1, 3), range(3, 5)]
    """
    if count < 1 or not 0 <= index < count:
        raise RequestError(f"--part-id {index} with --num-parts {count}: use 0 to {max(count, 1) - 1}")
    return range(index * n_units // count, (index + 1) * n_units // count)


def consecutive(units: Iterable[int]) -> Iterator[range]:
    """Ascending numbers as ranges.

    >>> list(consecutive([0, 1, 2, 5, 6, 9]))
    [range(0, 3), range(5, 7), range(9, 10)]
    """
    for _, group in itertools.groupby(enumerate(sorted(units)), key=lambda pair: pair[1] - pair[0]):
        numbers = [unit for _, unit in group]
        yield range(numbers[0], numbers[-1] + 1)


def level_stages(output: Output, region: Box, source: str) -> tuple[Blocks, ...]:
    """The halved resolution levels of an output, each made from the one before; none where no pyramid is wanted."""
    spec, found = output.spec, list[Blocks]()
    if spec is None:
        return ()
    for level in range(1, len(spec.level_shapes)):
        start, stop = (tuple(-(-n // 2**level) for n in corner) for corner in (region.start, region.stop))
        here = replace(output, level=level, attributes={})
        wanted = Box(tuple(max(0, a - 1) for a in start), stop) & Box.of(here.shape_zyx)
        name = f"{source}-level-{level}" if output.name else f"level-{level}"
        found.append(
            Blocks(
                name=name,
                op=Op("voxweft.engine.blocks:halve_block", {"method": spec.halving}),
                sources=(Source(found[-1].name if found else source, finer_zyx=(2, 2, 2)),),
                outputs=(here,),
                shape_zyx=here.shape_zyx,
                region=wanted,
                block_zyx=spec.shard_zyx,
                cell_zyx=spec.chunk_zyx,
                needs=(found[-1].name if found else source,),
            )
        )
    return tuple(found)
