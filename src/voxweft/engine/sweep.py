"""The sweep: read, forward, weave, finish, write; planes go in at one end and finished slabs come out at the other."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.forward import ForwardQueue, one_core_each
from voxweft.engine.job import Job, Tally, commit
from voxweft.engine.masking import MaskLayers
from voxweft.engine.staged import StoredQueue
from voxweft.engine.weave import Profiles, Weaver
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.columns import Run

AHEAD = 1  # layers that may be begun while an earlier one is not finished
STRIP_VOXELS = {"cpu": 1 << 18, "cuda": 1 << 26}


def sweep(job: Job, run: Run) -> Tally:
    """Compute consecutive slabs of a column and write each one once; fewer where the job does not go on.

    Raises
    ------
    ReadError, WriteError
        From the stores; what was written before stays and is not computed again.
    RunError
        If the network returns values that are not finite.
    """
    import torch

    plan, tally = job.plan, Tally()
    box = plan.columns.box(run.column, run.slabs) & plan.region
    zs, ys, xs = plan.grid.touching(box)
    reach = plan.reach(box)
    profiles = Profiles.of(plan.grid, plan.window, plan.sigma_scale)
    weaver = Weaver(plan.grid, profiles, box, plan.finish.n_accumulated, plan.finish.differences, job.device)
    with (
        torch.inference_mode(),
        MaskLayers(job.mask, reach, plan.source.shape_zyx) as mask,
        SlabWriter(job, run, tally) as writer,
        one_core_each(job.device),
        _source(job, weaver, tally, reach, box) as patches,
    ):
        cursor, n_finished = box.start[0], 0  # the first plane that is not finished; layers that are
        slab = writer.slab
        for n, z in enumerate(zs):
            if writer.slab != slab:
                slab = writer.slab
                if slab is not None and not job.goes_on(run.column, slab):
                    break
            layer = plan.grid.tile((z, ys[0], xs[0])).box & Box.of(plan.source.shape_zyx)
            with tally.timed("wait for input"):
                patches.need(layer.start[0], layer.stop[0])
                mask.need(min(cursor, layer.start[0]), layer.stop[0])
            patches.then(partial(weaver.begin_layer, z))
            for tile in (plan.grid.tile((z, y, x)) for y in ys for x in xs):
                if mask.misses(tile.box & box):
                    patches.then(partial(weaver.skip, tile))
                    tally.n_skipped += 1
                else:
                    patches.add(tile)
            end = plan.grid.tile((z + 1, 0, 0)).box.start[0] if z < zs[-1] else box.stop[0]

            def finish(end: int = min(end, box.stop[0])) -> None:
                nonlocal cursor, n_finished
                n_finished += 1
                if cursor < end:
                    _finish_planes(job, weaver, mask, (cursor, end, box), writer, tally)
                    cursor = end

            patches.then(finish)
            if n - n_finished >= AHEAD:
                patches.flush()
        patches.flush()
    return tally


def _source(job: Job, weaver: Weaver, tally: Tally, reach: Box, own: Box) -> ForwardQueue | StoredQueue:
    """Where logits come from: the network, or what an earlier stage wrote."""
    if job.stored is not None:
        return StoredQueue(job.stored, weaver, tally)
    return ForwardQueue(job, weaver, tally, reach, own)


def _finish_planes(
    job: Job,
    weaver: Weaver,
    mask: MaskLayers,
    planes: tuple[int, int, Box],
    writer: SlabWriter,
    tally: Tally,
) -> None:
    """Turn final planes into output, strip by strip, and hand them to the writer."""
    lo, hi, box = planes
    finish = job.plan.finish
    background = np.array(finish.background if finish.output == "logits" else [0] * finish.n_channels)[:, None]
    with tally.timed("finish"):
        blended, bare = weaver.take(lo, hi)
        if not bool(blended.sum().isfinite()):
            raise RunError(
                f"the network returned NaN or Inf for planes z {lo} to {hi - 1}",
                "Look at the input there, or use --precision fp32.",
            )
        height, width = blended.shape[2:]
        rows = max(1, STRIP_VOXELS[job.device.partition(":")[0]] // width)
        for z in range(lo, hi):
            outside = mask.outside(z, box)
            unseen = job.stored.outside(z, box) if job.stored else None
            for y in range(0, height, rows):
                strip = (slice(None), slice(z - lo, z - lo + 1), slice(y, y + rows))
                values = finish(blended[strip])
                for empty in (bare[z - lo] if bare is not None else None, outside, unseen):
                    if empty is not None:
                        values[:, 0, empty[y : y + rows]] = background
                writer.put(z, y, values, box)
    writer.advance(hi)


class SlabWriter:
    """Collects finished planes into slabs and writes each in a thread, one at a time."""

    def __init__(self, job: Job, run: Run, tally: Tally) -> None:
        self._job, self._run, self._tally = job, run, tally
        self._slabs = iter(run.slabs)
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
    def slab(self) -> int | None:
        """The slab that is being filled; None after the last."""
        return self._slab

    def put(self, z: int, y: int, values: NDArray[Any], box: Box) -> None:
        """Place a strip [C, 1, rows, width] whose row 0 is row ``y`` of the swept box."""
        if z >= self._box.stop[0]:
            self._close()
        z0, y0, x0 = self._box.start
        row, left = box.start[1] + y - y0, box.start[2] - x0
        self._buffer[:, z - z0, row : row + values.shape[2], left : left + values.shape[3]] = values[:, 0]

    def advance(self, z: int) -> None:
        """All planes below ``z`` are in; write the slab if it is complete."""
        if self._slab is not None and z >= min(self._box.stop[0], self._job.plan.region.stop[0]):
            self._close()

    def _open_next(self) -> None:
        self._slab = next(self._slabs, None)
        if self._slab is None:
            return
        plan = self._job.plan
        self._box = plan.columns.box(self._run.column, range(self._slab, self._slab + 1))
        size = (plan.finish.n_channels, *self._box.shape)
        if self._spare and self._spare[0].shape == size:
            self._buffer = self._spare.pop()
            self._buffer.fill(0)
        else:
            self._buffer = np.zeros(size, plan.finish.dtype)

    def _close(self) -> None:
        with self._tally.timed("wait for output"):
            self._wait()
        now = time.perf_counter()
        record = {"n_patches": self._tally.n_patches - self._patches, "seconds": round(now - self._started, 3)}
        self._started, self._patches = now, self._tally.n_patches
        self._pending = self._thread.submit(self._write, self._slab or 0, self._buffer, record)
        self._open_next()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, slab: int, buffer: NDArray[Any], record: dict[str, Any]) -> None:
        commit(self._job, self._tally, (self._run.column, slab), buffer, record)
        self._spare = [buffer]
