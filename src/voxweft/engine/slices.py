"""A sweep of whole slices: the maps of a slice are put together from its patches, and an operation labels it.

    patches of a slice -> network -> maps, blended -> SliceOp -> labels of this slice, or of one before -> slab

A slice operation is an object that is given the slices one by one, in their order, and gives labels [Y, X] back when
it can: a median along the stack makes it wait for the slices that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.forward import ForwardQueue, cores_each, planes_of
from voxweft.engine.masking import MaskPlanes
from voxweft.engine.op import Table, find_op
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.stage import Sweep
from voxweft.engine.totals import Totals
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile, TileGrid
from voxweft.geometry.window import unity_profiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SliceLabels:
    """Labels [Y, X] of a slice, and rows for the table of its slab."""

    z: int
    labels: NDArray[Any]
    rows: Table


class SliceOp(Protocol):
    """Makes labels of the maps of slices; a context, which may hold threads."""

    def __enter__(self) -> SliceOp: ...

    def __exit__(self, *exc: object) -> None: ...

    def push(self, maps: Mapping[str, NDArray[np.float32]], outside: NDArray[np.bool_] | None) -> Iterator[SliceLabels]:
        """Take the maps [C, Y, X] of the next slice, and where it lies outside the mask; give what is ready."""

    def rest(self) -> Iterator[SliceLabels]:
        """What is still on its way, after the last slice."""


def sweep_slices(opened: OpenedSweep, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Compute consecutive slabs of slices and write each one once; fewer where the work does not go on.

    Raises
    ------
    ReadError, WriteError
        From the stores; what was written before stays and is not computed again.
    RunError
        If the network returns values that are not finite.
    """
    import torch

    stage, totals, spec = opened.stage, commit.totals, opened.stage.slices
    if spec is None:
        raise RunError(f"stage {stage.name} does not say how its slices become labels")
    made = stage.swept(units)
    box, maps = stage.source_box(made), SliceMaps(stage)
    _, height, width = stage.columns.shape
    painted = Box((box.start[0], 0, 0), (box.stop[0], height, width))  # the same slices, as large as the result
    make = find_op(spec.op, "slice")
    slice_op: SliceOp = make(box.start[0], stage.info.shape_zyx[0], stage.columns.shape[1:], **spec.op.arguments)
    with (
        slice_op as op,
        torch.inference_mode(),
        MaskPlanes(opened.mask, painted, stage.columns.shape) as mask,
        SlabWriter(stage, units, commit) as writer,
        cores_each(opened.device, opened.n_threads),
        ForwardQueue(opened, maps, totals, planes_of(opened, box, box)) as patches,
    ):

        def write(ready: Iterator[SliceLabels]) -> None:
            with totals.timed("finish"):
                for done in ready:
                    if made.start[0] <= done.z < made.stop[0]:
                        writer.note(done.rows)
                        writer.put(done.z, 0, (done.labels[None, None],), made)
                        writer.advance(done.z + 1)

        def end(outside: NDArray[np.bool_] | None) -> None:
            write(op.push(maps.take(), outside))

        unit = writer.unit
        for z in range(box.start[0], box.stop[0]):
            if writer.unit != unit:
                unit = writer.unit
                if unit is not None and not goes_on(unit):
                    break
            with totals.timed("wait for input"):
                patches.need(z, z + 1)
                mask.need(z, z + 1)
            for tile in _tiles(stage.grid, z):
                if mask.misses(_enlarged(tile.box, spec.maps[0].up) & painted):
                    patches.then(partial(maps.skip, 0, tile))
                    totals.n_skipped += 1
                else:
                    patches.add(0, tile)
            patches.then(partial(end, mask.outside(z, painted)))
        patches.flush()
        write(op.rest())


def _enlarged(box: Box, factor: int) -> Box:
    """A box of slices that are so many times as large."""
    (a, *start), (b, *stop) = box.start, box.stop
    return Box((a, start[0] * factor, start[1] * factor), (b, stop[0] * factor, stop[1] * factor))


def maps_of_slice(opened: OpenedSweep, z: int) -> dict[str, NDArray[np.float32]]:
    """The maps [C, Y, X] of one slice, by their names."""
    import torch

    _, height, width = opened.stage.info.shape_zyx
    box, maps = Box((z, 0, 0), (z + 1, height, width)), SliceMaps(opened.stage)
    with (
        torch.inference_mode(),
        cores_each(opened.device, opened.n_threads),
        ForwardQueue(opened, maps, Totals(), planes_of(opened, box, box)) as patches,
    ):
        patches.need(z, z + 1)
        for tile in _tiles(opened.stage.grid, z):
            patches.add(0, tile)
        patches.flush()
    return maps.take()


def _tiles(grid: TileGrid, z: int) -> Iterator[Tile]:
    return (grid.tile((z, y, x)) for y in range(grid.axes[1].count) for x in range(grid.axes[2].count))


class SliceMaps:
    """The maps of one slice, blended from its patches, each at its own resolution.

    Patches begin on pixels that are pixels of every map too, so maps are blended as they are, with the window at their
    resolution: the mean of it where a map is coarser.
    """

    def __init__(self, stage: Sweep) -> None:
        self._grid, self._maps = stage.grid, stage.slices.maps if stage.slices else ()
        _, self._height, self._width = stage.info.shape_zyx
        y, x = (unity_profiles(axis, stage.window, stage.sigma_scale) for axis in self._grid.axes[1:])
        self._windows = [(_at(y, m.up, m.down), _at(x, m.up, m.down)) for m in self._maps]
        self._single = self._grid.axes[1].count == self._grid.axes[2].count == 1
        self._sums: list[NDArray[np.float32]] = []

    def add(self, _one: int, tile: Tile, logits: torch.Tensor) -> None:
        """The maps of a patch, one after the other in a row: float32 [n]."""
        values, at = logits.cpu().numpy(), 0
        if not np.isfinite(values.sum()):
            raise RunError(f"the network returned NaN or Inf for slice {tile.box.start[0]}", "Look at the input there.")
        for n, one in enumerate(self._maps):
            side_y, side_x = (p * one.up // one.down for p in self._grid.patch[1:])
            end = at + one.n_channels * side_y * side_x
            self._put(n, tile, values[at:end].reshape(one.n_channels, side_y, side_x))
            at = end

    def skip(self, _one: int, tile: Tile) -> None:
        """A patch that was not computed."""
        for n, one in enumerate(self._maps):
            sides = [p * one.up // one.down for p in self._grid.patch[1:]]
            empty = np.array(one.background, np.float32)[:, None, None]
            self._put(n, tile, np.broadcast_to(empty, (one.n_channels, *sides)))

    def take(self) -> dict[str, NDArray[np.float32]]:
        """The maps [C, Y, X] of the slice, without what was padded; the next slice begins."""
        found = {}
        for one, total in zip(self._maps, self._sums, strict=True):
            height, width = (-(-n * one.up // one.down) for n in (self._height, self._width))
            found[one.name] = total[:, :height, :width]
        self._sums = []
        return found

    def _put(self, n: int, tile: Tile, values: NDArray[np.float32]) -> None:
        if self._single:
            self._sums.append(values)
            return
        one, (wy, wx) = self._maps[n], self._windows[n]
        if n == len(self._sums):
            sides = [axis.extent * one.up // one.down for axis in self._grid.axes[1:]]
            self._sums.append(np.zeros((one.n_channels, *sides), np.float32))
        _, iy, ix = tile.index
        place = tuple(
            slice(axis.start(i) * one.up // one.down, (axis.start(i) + axis.size) * one.up // one.down)
            for axis, i in zip(self._grid.axes[1:], (iy, ix), strict=True)
        )
        self._sums[n][(slice(None), *place)] += values * (wy[iy][:, None] * wx[ix])


def _at(profiles: NDArray[np.float32], up: int, down: int) -> NDArray[np.float32]:
    """Profiles [count, patch] at another resolution."""
    fine = np.repeat(profiles, up, axis=1)
    return np.asarray(fine.reshape(len(fine), -1, down).mean(axis=2), np.float32)
