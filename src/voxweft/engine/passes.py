"""The stage that knows patches: passes over a volume, woven into slabs or kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from voxweft.engine.op import Op
from voxweft.engine.output import Output, consecutive, share_of
from voxweft.engine.patch_layers import PatchLayers
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.geometry.columns import Columns
from voxweft.geometry.regrid import Regrid
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.model.card import Normalization
from voxweft.model.protocols import ForwardSetting
from voxweft.ops.activate import Finish
from voxweft.ops.augment import View

KNOWN = "known"  # name of the output that says where anything is known


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
    pad_with
        What lies around a volume that is smaller than the patch: zeros (after normalisation), or its outermost voxels.
    vectors
        The first of three channels each, which are components x y z and turn with a view of the patch.
    channels
        The channels of the swept volume that this pass sees, in this order; None: all of them.
    """

    model: int
    grid: TileGrid
    setting: ForwardSetting
    normalization: tuple[Normalization, ...]
    views: tuple[View, ...] = (View(),)
    tta: str = "none"
    weight: float = 1.0
    pad_with: Literal["zeros", "edge"] = "zeros"
    vectors: tuple[int, ...] = ()
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the logits of patches go that are kept unwoven: one store a part.

    ``compressor`` is a name and a level.
    """

    n_parts: int
    compressor: tuple[str, int] = ("zstd", 3)


@dataclass(frozen=True, slots=True)
class SliceMap:
    """A map that a network returns of every patch of a slice.

    Attributes
    ----------
    name, n_channels
        What it is called; its channels.
    up, down
        Pixels of the map per swept pixel, and swept pixels per pixel of the map; one of both is 1.
    background
        What a channel holds where nothing was computed.
    """

    name: str
    n_channels: int
    up: int = 1
    down: int = 1
    background: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, slots=True)
class Slices:
    """How a sweep whose patches are one plane thick makes labels of whole slices.

    Attributes
    ----------
    op
        ``op(first, n_slices, shape_yx, **arguments)``; see :mod:`voxweft.engine.slices`.
    maps
        What the network returns, in the order in which it is put together.
    context
        Slices on both sides that a slice needs.
    from_first
        Whether a slice needs all slices before it.
    """

    op: Op
    maps: tuple[SliceMap, ...]
    context: int = 0
    from_first: bool = False


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
    more
        Further finishes, of the outputs after the first.
    regrid
        How the swept grid is resampled to that of the outputs; None: they are the same.
    tally
        "voxels": every slab counts the voxels of each label; "confidence": also how sure they are; "": nothing.
    slices
        How labels of whole slices are made; None: blended logits are finished voxel by voxel.
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
    sparse
        Whether only what the mask touches is visited; nothing is written where it is 0 in all of a chunk.
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
    more: tuple[Finish, ...] = ()
    regrid: Regrid | None = None
    tally: Literal["", "voxels", "confidence"] = ""
    slices: Slices | None = None
    sparse: bool = False
    kind: Literal["sweep"] = "sweep"

    @property
    def finishes(self) -> tuple[Finish, ...]:
        """Of all outputs; where confidence is tallied the last is the uncertainty, whether it is written or not."""
        return (self.finish, *self.more)

    @property
    def by_model(self) -> tuple[Pass, ...]:
        """The first pass of each model, in their order."""
        first = {one.model: one for one in reversed(self.passes)}
        return tuple(first[n] for n in sorted(first))

    @property
    def tells_known(self) -> bool:
        """Whether the last output says where anything is known; see :class:`voxweft.engine.known.KnownPlanes`."""
        return bool(self.outputs) and self.outputs[-1].name == KNOWN

    @property
    def keeps_sums(self) -> bool:
        """Whether what a slab has so far can be kept: sums in this machine's memory, on the grid of the output."""
        elsewhere = any(one.setting.device != "cpu" for one in self.passes)
        return not (elsewhere or self.sparse or self.regrid or self.n_tallied or self.tells_known or self.stores)

    @property
    def n_tallied(self) -> int:
        """Labels that are counted, 0 to the largest."""
        return self.finish.largest_label + 1 if self.tally else 0

    @property
    def tallies_confidence(self) -> bool:
        """Whether the uncertainty of voxels is summed."""
        return self.tally == "confidence"

    def n_channels_of(self, one: Pass) -> int:
        """Channels that a pass sees."""
        return self.info.n_channels if one.channels is None else len(one.channels)

    def source_box(self, box: Box) -> Box:
        """The swept voxels that a box of the outputs is made of; of slices all of them, and their neighbours."""
        if self.slices:
            n, height, width = self.info.shape_zyx
            first = 0 if self.slices.from_first else max(0, box.start[0] - self.slices.context)
            return Box((first, 0, 0), (min(n, box.stop[0] + self.slices.context), height, width))
        return self.regrid.reach(box) if self.regrid else box

    @property
    def grid(self) -> TileGrid:
        """The grid of the first pass."""
        return self.passes[0].grid

    @property
    def spec(self) -> OutputSpec:
        """The first array that is written."""
        output = self.outputs[0]
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
        return share_of(self.n_units, index, count)

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
        source = self.source_box(box)
        return sum(math.prod(len(r) for r in one.grid.touching(source)) for one in self.passes)

    def reach(self, box: Box) -> Box:
        """All voxels of the source that a sweep of an output box reads."""
        found, box = [], self.source_box(box)
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
