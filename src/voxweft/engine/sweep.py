"""The sweep: read, forward, weave, finish, write; planes go in at one end and finished slabs come out at the other."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.forward import ForwardQueue, one_core_each
from voxweft.engine.masking import MaskPlanes
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.stage import Sweep
from voxweft.engine.stored import StoredQueue
from voxweft.engine.totals import Totals
from voxweft.engine.weave import Weaver
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile

AHEAD = 1  # patch layers that may be begun while an earlier one is not finished
STRIP_VOXELS = {"cpu": 1 << 18, "cuda": 1 << 26}


@dataclass(frozen=True, slots=True)
class PatchLayer:
    """The patches of one pass that begin on one plane of a column; ``end``: planes below are final after it."""

    one: int
    z_index: int
    tiles: tuple[Tile, ...]
    end: int


def patch_layers(stage: Sweep, box: Box) -> list[PatchLayer]:
    """The layers of all passes that meet a box, in the order of their first planes."""
    found = []
    for one, pass_ in enumerate(stage.passes):
        zs, ys, xs = pass_.grid.touching(box)
        for z in zs:
            tiles = tuple(pass_.grid.tile((z, y, x)) for y in ys for x in xs)
            found.append((tiles[0].box.start[0], one, z, tiles))
    found.sort(key=lambda layer: layer[:3])
    ends = [*(start for start, *_ in found[1:]), box.stop[0]]
    return [
        PatchLayer(one, z, tiles, min(end, box.stop[0])) for (_, one, z, tiles), end in zip(found, ends, strict=True)
    ]


def sweep(opened: OpenedSweep, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Compute consecutive slabs of a column and write each one once; fewer where the work does not go on.

    Raises
    ------
    ReadError, WriteError
        From the stores; what was written before stays and is not computed again.
    RunError
        If the network returns values that are not finite.
    """
    import torch

    stage, totals = opened.stage, commit.totals
    box, whole = stage.swept(units), Box.of(stage.info.shape_zyx)
    reach = stage.reach(box)
    weaver = Weaver(stage, box, opened.device)
    with (
        torch.inference_mode(),
        MaskPlanes(opened.mask, reach, stage.info.shape_zyx) as mask,
        SlabWriter(stage, units, commit) as writer,
        one_core_each(opened.device),
        _source(opened, weaver, totals, reach, box) as patches,
    ):
        cursor, n_finished = box.start[0], 0  # the first plane that is not finished; layers that are
        unit = writer.unit
        for n, layer in enumerate(patch_layers(stage, box)):
            if writer.unit != unit:
                unit = writer.unit
                if unit is not None and not goes_on(unit):
                    break
            planes = layer.tiles[0].box & whole
            with totals.timed("wait for input"):
                patches.need(planes.start[0], planes.stop[0])
                mask.need(min(cursor, planes.start[0]), planes.stop[0])
            patches.then(partial(weaver.begin_layer, layer.one, layer.z_index))
            for tile in layer.tiles:
                if mask.misses(tile.box & box):
                    patches.then(partial(weaver.skip, layer.one, tile))
                    totals.n_skipped += 1
                else:
                    patches.add(layer.one, tile)

            def finish(end: int = layer.end) -> None:
                nonlocal cursor, n_finished
                n_finished += 1
                if cursor < end:
                    _finish_planes(opened, weaver, mask, (cursor, end, box), writer, totals)
                    cursor = end

            patches.then(finish)
            if n - n_finished >= AHEAD:
                patches.flush()
        patches.flush()


def _source(opened: OpenedSweep, weaver: Weaver, totals: Totals, reach: Box, own: Box) -> ForwardQueue | StoredQueue:
    """Where logits come from: the network, or patches that were kept."""
    if opened.patches is not None:
        return StoredQueue(opened.patches, weaver, totals)
    return ForwardQueue(opened, weaver, totals, reach, own)


def _finish_planes(
    opened: OpenedSweep,
    weaver: Weaver,
    mask: MaskPlanes,
    planes: tuple[int, int, Box],
    writer: SlabWriter,
    totals: Totals,
) -> None:
    """Turn final planes into output, strip by strip, and hand them to the writer."""
    lo, hi, box = planes
    finish = opened.stage.finish
    background = np.array(finish.background if finish.output == "logits" else [0] * finish.n_channels)[:, None]
    with totals.timed("finish"):
        blended, uncovered = weaver.take(lo, hi)
        if not bool(blended.sum().isfinite()):
            raise RunError(
                f"the network returned NaN or Inf for planes z {lo} to {hi - 1}",
                "Look at the input there, or use --precision fp32.",
            )
        height, width = blended.shape[2:]
        rows = max(1, STRIP_VOXELS[opened.device.partition(":")[0]] // width)
        for z in range(lo, hi):
            outside = mask.outside(z, box)
            for y in range(0, height, rows):
                strip = (slice(None), slice(z - lo, z - lo + 1), slice(y, y + rows))
                values = finish(blended[strip])
                for empty in (uncovered[z - lo] if uncovered is not None else None, outside):
                    if empty is not None:
                        values[:, 0, empty[y : y + rows]] = background
                writer.put(z, y, values, box)
    writer.advance(hi)


class SlabWriter:
    """Collects finished planes into slabs and writes each in a thread, one at a time."""

    def __init__(self, stage: Sweep, units: range, commit: Commit) -> None:
        self._stage, self._commit, self._totals = stage, commit, commit.totals
        self._units = iter(units)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-write")
        self._pending: Future[None] | None = None
        self._started = time.perf_counter()
        self._patches = 0
        self._spare: list[NDArray[Any]] = []
        self._open_next()

    def __enter__(self) -> SlabWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._wait()
        finally:
            self._thread.shutdown(wait=True)

    @property
    def unit(self) -> int | None:
        """The slab that is being filled; None after the last."""
        return self._unit

    def put(self, z: int, y: int, values: NDArray[Any], box: Box) -> None:
        """Place a strip [C, 1, rows, width] whose row 0 is row ``y`` of the swept box."""
        if z >= self._box.stop[0]:
            self._close()
        z0, y0, x0 = self._box.start
        row, left = box.start[1] + y - y0, box.start[2] - x0
        self._buffer[:, z - z0, row : row + values.shape[2], left : left + values.shape[3]] = values[:, 0]

    def advance(self, z: int) -> None:
        """All planes below ``z`` are in; write the slab if it is complete."""
        if self._unit is not None and z >= min(self._box.stop[0], self._stage.region.stop[0]):
            self._close()

    def _open_next(self) -> None:
        self._unit = next(self._units, None)
        if self._unit is None:
            return
        self._box = self._stage.slab_box(self._unit)
        size = (self._stage.finish.n_channels, *self._box.shape)
        if self._spare and self._spare[0].shape == size:
            self._buffer = self._spare.pop()
            self._buffer.fill(0)
        else:
            self._buffer = np.zeros(size, self._stage.finish.dtype)

    def _close(self) -> None:
        with self._totals.timed("wait for output"):
            self._wait()
        now = time.perf_counter()
        record = {"n_patches": self._totals.n_patches - self._patches, "seconds": round(now - self._started, 3)}
        self._started, self._patches = now, self._totals.n_patches
        self._pending = self._thread.submit(self._write, self._unit or 0, self._buffer, record)
        self._open_next()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, unit: int, buffer: NDArray[Any], record: dict[str, Any]) -> None:
        self._commit(unit, (buffer,), record=record)
        self._spare = [buffer]
