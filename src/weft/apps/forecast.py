"""What a run will cost: patches, bytes, memory, and time from a short calibration."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.apps.prepare import Prepared, devices_of, prepare
from weft.apps.run import open_job
from weft.backends import load_model
from weft.engine.budget import buffers_for
from weft.engine.events import Emit, silent
from weft.engine.job import Tally
from weft.engine.ledger import Ledger, missing
from weft.engine.options import RunOptions
from weft.engine.plan import Plan
from weft.engine.report import peak_memory_bytes
from weft.engine.sweep import sweep
from weft.geometry.box import Box
from weft.geometry.columns import Columns, Run
from weft.stores import open_sink, open_volume

CALIBRATION_S = 6.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is expected to cost on this machine, in one process.

    Attributes
    ----------
    n_patches, n_patches_computed, waste
        Patches of the grid that meet the region; with those that columns compute twice; their ratio.
    n_forwards
        Forward passes: patches x augmentation x folds.
    n_columns, n_slabs
        Of the plan.
    bytes_read, bytes_decoded
        Stored bytes of the input that are fetched (None where unknown), and voxels decoded, in bytes.
    bytes_written
        Output before compression, all resolution levels.
    memory_bytes
        Peak resident memory.
    seconds
        Wall clock.
    choices
        Relative cost of other settings, as text.
    """

    n_patches: int
    n_patches_computed: int
    waste: float
    n_forwards: int
    n_columns: int
    n_slabs: int
    bytes_read: int | None
    bytes_decoded: int
    bytes_written: int
    memory_bytes: int
    seconds: float
    choices: tuple[str, ...] = ()


def forecast(
    source: Any, model: Any, options: RunOptions | None = None, *, emit: Emit = silent
) -> tuple[Plan, Forecast]:
    """Plan a run and say what it will cost; nothing is written.

    The network, the blending, the reading and the writing of a few patches from the middle of the volume are measured
    by sweeping them for real, into memory.
    """
    started = time.perf_counter()
    options = options or RunOptions()
    volume = open_volume(source, level=options.level)
    mask = open_volume(options.mask) if options.mask else None
    prepared = prepare(volume, load_model(model), options, mask=mask, emit=emit)
    start_s = time.perf_counter() - started
    plan = prepared.plan
    cost = _measure(prepared, options)
    columns = [plan.columns.box(c, range(plan.columns.n_slabs)) & plan.region for c in range(plan.columns.n_columns)]
    halo = sum(_reach(plan, box).n_voxels for box in columns)
    itemsize = np.dtype(volume.info.dtype).itemsize * volume.info.n_channels
    n_voxels = sum(plan.columns.box(c, range(plan.columns.n_slabs)).n_voxels for c in range(plan.columns.n_columns))
    levels = 8 / 7 if plan.spec.pyramid != "none" else 1.0
    buffers = buffers_for(
        volume.info,
        plan.grid,
        plan.finish,
        (plan.columns.column_yx, plan.columns.slab_z, plan.layer_z),
        plan.setting,
    )
    n_computed = plan.n_patches_computed
    stored = volume.info.stored_bytes
    return plan, Forecast(
        n_patches=plan.n_tiles(plan.region),
        n_patches_computed=n_computed,
        waste=round(plan.waste, 3),
        n_forwards=n_computed * plan.n_views * plan.card.n_folds,
        n_columns=plan.columns.n_columns,
        n_slabs=plan.columns.n_slabs,
        bytes_read=round(stored * halo / Box.of(volume.info.shape_zyx).n_voxels) if stored else None,
        bytes_decoded=halo * itemsize,
        bytes_written=round(n_voxels * np.dtype(plan.spec.dtype).itemsize * plan.spec.n_channels * levels),
        memory_bytes=cost.base_bytes + buffers.total_bytes,
        seconds=round(start_s + n_computed * cost.patch_s + n_voxels * cost.voxel_s, 2),
        choices=_choices(plan, options),
    )


@dataclass(frozen=True, slots=True)
class _Cost:
    patch_s: float
    voxel_s: float
    base_bytes: int


def _measure(prepared: Prepared, options: RunOptions) -> _Cost:
    """Sweep boxes in the middle of the volume into memory: one patch to warm up, then as many as a few seconds allow.

    Patches and output voxels are charged apart: what a patch costs (gather, network, weave), and what a voxel of the
    output costs (waiting for input, finishing, writing, resolution levels).
    """
    device = devices_of(options.device)[0]
    warm = _sample(prepared, device, n_patches=1)
    patch_s = _per_patch(warm)
    wanted = max(2, round(CALIBRATION_S / max(patch_s, 1e-4)))
    tally = _sample(prepared, device, n_patches=wanted)
    rest = sum(tally.seconds.get(k, 0.0) for k in ("wait for input", "finish", "wait for output", "write"))
    return _Cost(_per_patch(tally), rest / max(1, tally.n_voxels), peak_memory_bytes())


def _per_patch(tally: Tally) -> float:
    busy = sum(tally.seconds.get(k, 0.0) for k in ("gather", "wait for network", "weave"))
    return busy / max(1, tally.n_patches + tally.n_skipped)


def _sample(prepared: Prepared, device: str, n_patches: int) -> Tally:
    """Sweep a box in the middle that meets about that many patches."""
    plan = prepared.plan
    shape = plan.source.shape_zyx
    side = max(1, round(n_patches ** (1 / 3)))
    box = plan.region
    middle = tuple((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
    half = tuple(max(8, int(axis.step * side) // 2) for axis in plan.grid.axes)
    start = tuple(max(0, m - h) for m, h in zip(middle, half, strict=True))
    stop = tuple(min(n, m + h) for n, m, h in zip(shape, middle, half, strict=True))
    region = Box(start, stop)  # type: ignore[arg-type]
    columns = Columns(shape, region, (shape[1], shape[2]), plan.columns.slab_z)
    small = replace(plan, region=region, columns=columns, mask="")
    sink = open_sink("memory://")
    sink.create(small.spec)
    job = open_job(replace(prepared, plan=small, mask=None), sink, device)
    tally = Tally()
    for run in missing([Run(0, range(columns.n_slabs))], Ledger(sink.records).slabs()):
        tally.add(sweep(job, run))
    return tally


def _reach(plan: Plan, box: Box) -> Box:
    """All voxels that a sweep of a box reads."""
    zs, ys, xs = plan.grid.touching(box)
    first, last = plan.grid.tile((zs[0], ys[0], xs[0])), plan.grid.tile((zs[-1], ys[-1], xs[-1]))
    return Box(first.box.start, last.box.stop) & Box.of(plan.source.shape_zyx)


def _choices(plan: Plan, options: RunOptions) -> tuple[str, ...]:
    """What other settings would cost, relative to this one."""
    from weft.geometry.tiling import TileGrid

    here = plan.grid.n_tiles
    lines = [f"1 of {plan.card.n_folds} folds: x {1 / plan.card.n_folds:.2f}"] if plan.card.n_folds > 1 else []
    for overlap in (0.25, 0.5):
        if overlap != options.overlap:
            other = TileGrid.of(plan.source.shape_zyx, plan.grid.patch, overlap, options.fit).n_tiles  # type: ignore[arg-type]
            lines.append(f"--overlap {overlap}: x {other / here:.2f}")
    if plan.n_views > 1:
        lines.append(f"--tta none: x {1 / plan.n_views:.2f}")
    else:
        lines.append(f"--tta mirroring: x {2 ** len(plan.card.mirror_axes)}")
    return tuple(lines)
