"""What a run will cost: patches, bytes, memory, and time from a short calibration."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil

from voxweft.apps.execute import build_levels
from voxweft.apps.parts import open_job
from voxweft.apps.prepare import Prepared, devices_of, prepare
from voxweft.backends import load_model
from voxweft.engine.budget import buffers_for
from voxweft.engine.events import Emit, silent
from voxweft.engine.job import lanes_for
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan, make_plan
from voxweft.engine.report import peak_memory_bytes
from voxweft.engine.sweep import sweep
from voxweft.geometry.box import Box
from voxweft.geometry.columns import Run
from voxweft.image.protocols import Volume
from voxweft.image.views import Crop
from voxweft.model.card import Normalization
from voxweft.stores import in_memory, n_levels, open_volume

CALIBRATION_S = 6.0
MAX_PATCHES = 1000
OVERLAPS = {f"--overlap {o}": o for o in (0.25, 0.5)}


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
        Wall clock of the command, from its start; without the pictures of report.html.
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
    source: Any,
    model: Any,
    options: RunOptions | None = None,
    *,
    normalization: tuple[Normalization, ...] = (),
    overlaps: Mapping[str, float] = OVERLAPS,
    emit: Emit = silent,
) -> tuple[Plan, Forecast]:
    """Plan a run and say what it will cost; nothing is written.

    ``overlaps``: other choices whose cost is told, with the overlap (a fraction) that each means.

    A piece from the middle of the volume is run for real, into memory: reading, network, blending, compression and
    resolution levels are all in the numbers.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((40, 40, 40))
    >>> plan, cost = forecast(image, "fake://null?patch=16,16,16")
    >>> cost.n_patches, cost.n_forwards, cost.seconds > 0
    (64, 64, True)
    """
    options = options or RunOptions()
    volume = open_volume(source, level=options.level)
    mask = open_volume(options.mask) if options.mask else None
    prepared = prepare(volume, load_model(model), options, mask=mask, normalization=normalization, emit=emit)
    plan, base_bytes = prepared.plan, peak_memory_bytes()
    start_s = time.time() - psutil.Process().create_time()
    cost = _measure(prepared, volume, options)
    columns = [plan.columns.box(c, range(plan.columns.n_slabs)) & plan.region for c in range(plan.columns.n_columns)]
    decoded = sum(plan.n_decoded(plan.reach(box)) for box in columns)
    itemsize = np.dtype(volume.info.dtype).itemsize * volume.info.n_channels
    n_voxels = sum(box.n_voxels for box in columns)
    levels = sum(0.125**k for k in range(n_levels(plan.spec)))
    buffers = buffers_for(
        volume.info,
        plan.grid,
        plan.finish,
        (plan.columns.column_yx, plan.spec.shard_zyx, plan.layer_z),
        replace(plan.setting, n_lanes=lanes_for(plan.setting.device)),
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
        bytes_read=round(stored * decoded / plan.n_decoded(Box.of(volume.info.shape_zyx))) if stored else None,
        bytes_decoded=decoded * itemsize,
        bytes_written=round(levels * n_voxels * np.dtype(plan.spec.dtype).itemsize * plan.spec.n_channels),
        memory_bytes=base_bytes + buffers.total_bytes,
        seconds=round(start_s + n_computed * cost.patch_s + n_voxels * cost.voxel_s, 2),
        choices=_choices(plan, options, overlaps),
    )


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds that a patch costs (gather, network, weave), and that a voxel of the output costs (all the rest)."""

    patch_s: float
    voxel_s: float


def _measure(prepared: Prepared, volume: Volume, options: RunOptions) -> _Cost:
    """Run crops from the middle for real, into memory: a small one to warm up, then one that takes a few seconds."""
    first = _run_crop(prepared, volume, options, n_patches=8)
    wanted = max(8, round(CALIBRATION_S / max(first.patch_s, 1e-4)))
    return _run_crop(prepared, volume, options, n_patches=min(wanted, MAX_PATCHES))


def _run_crop(prepared: Prepared, volume: Volume, options: RunOptions, n_patches: int) -> _Cost:
    plan = prepared.plan
    side = max(1, round(n_patches ** (1 / max(1, sum(axis.count > 1 for axis in plan.grid.axes)))))
    extent = (math.ceil((side - 1) * t.step) + t.size for t in plan.grid.axes)
    whole = plan.source.shape_zyx
    sides = [min(n, e) for n, e in zip(whole, extent, strict=True)]
    middle = [(a + b) // 2 for a, b in zip(plan.region.start, plan.region.stop, strict=True)]
    start = tuple(min(max(0, m - s // 2), n - s) for m, s, n in zip(middle, sides, whole, strict=True))
    crop = Crop(Box(start, tuple(a + s for a, s in zip(start, sides, strict=True)))).of(volume)
    small = make_plan(
        crop.info,
        plan.card,
        replace(options, bbox="", mask=""),
        normalization=plan.normalization,
        setting=plan.setting,
    )
    sink = in_memory(smallest=max(16, min(crop.info.shape_zyx) // 2))
    sink.create(small.spec)
    job = open_job(replace(prepared, plan=small, volume=crop, mask=None), sink, devices_of(options.device)[0])
    started = time.perf_counter()
    tally = sweep(job, Run(0, range(small.columns.n_slabs)))
    build_levels(sink, job.ledger, small)
    elapsed_s = time.perf_counter() - started
    busy_s = sum(tally.seconds.get(k, 0.0) for k in ("gather", "wait for network", "weave"))
    n_tiles = tally.n_patches + tally.n_skipped
    return _Cost(busy_s / max(1, n_tiles), (elapsed_s - busy_s) / max(1, tally.n_voxels))


def _choices(plan: Plan, options: RunOptions, overlaps: Mapping[str, float]) -> tuple[str, ...]:
    """What other settings would cost, relative to this one."""
    from voxweft.geometry.tiling import TileGrid

    here = plan.grid.n_tiles
    lines = [f"1 of {plan.card.n_folds} folds: x {1 / plan.card.n_folds:.2f}"] if plan.card.n_folds > 1 else []
    for text, overlap in overlaps.items():
        if overlap != options.overlap:
            other = TileGrid.of(plan.source.shape_zyx, plan.grid.patch, overlap, options.fit).n_tiles  # type: ignore[arg-type]
            lines.append(f"{text}: x {other / here:.2f}")
    if plan.n_views > 1:
        lines.append(f"--tta none: x {1 / plan.n_views:.2f}")
    else:
        lines.append(f"--tta mirroring: x {2 ** len(plan.card.mirror_axes)}")
    return tuple(lines)
