"""What a run will cost: patches, bytes, memory, and time from a short calibration."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil

from voxweft.engine.budget import buffers_for
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import spell_duration
from voxweft.engine.named import takes_options, with_named
from voxweft.engine.options import RunOptions
from voxweft.engine.part import Part
from voxweft.engine.plan import VOLUME, Plan
from voxweft.engine.planning import Findings, plan_sweep
from voxweft.engine.report import peak_memory_bytes
from voxweft.engine.sparse import survey
from voxweft.engine.stage import Sweep, level_stages
from voxweft.engine.totals import Totals, lanes_for
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Volume
from voxweft.image.views import Crop
from voxweft.model.card import Normalization
from voxweft.model.protocols import Model
from voxweft.runner.asked import load_models
from voxweft.runner.count import expected_patch_s
from voxweft.runner.devices import devices_of
from voxweft.runner.emptiness import Emptiness
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.shown import Shown
from voxweft.stores import in_memory, open_volume

CALIBRATION_S, LOOK_S = 1.0, 0.5  # for running a piece; for finding out how much of the volume is empty
MAX_PATCHES = 1000
START_S = 30.0  # that a command takes to begin, at most; an older process began long ago
OVERLAPS = {f"--overlap {o}": o for o in (0.25, 0.5)}


@dataclass(frozen=True, slots=True)
class Forecast(Shown):
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


@takes_options(RunOptions)
def forecast(
    source: Any, model: Any, options: RunOptions | None = None, *, emit: Emit = silent, **named: Any
) -> tuple[Plan, Forecast]:
    """Plan a run and say what it will cost; nothing is written.

    A piece of the volume is run for real, into memory: reading, network, blending, compression and
    resolution levels are all in the numbers.

    Parameters
    ----------
    source, model, options, emit, **named
        As for :func:`voxweft.run`.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((40, 40, 40))
    >>> plan, cost = forecast(image, "fake://null?patch=16,16,16")
    >>> cost.n_patches, cost.n_forwards, cost.seconds > 0
    (64, 64, True)
    """
    asked = with_named(named, RunOptions, options)
    return forecast_for(source, load_models(model, asked), asked, emit=emit)


def forecast_for(
    source: Any,
    models: Sequence[Model],
    options: RunOptions,
    *,
    normalization: tuple[Normalization, ...] = (),
    overlaps: Mapping[str, float] = OVERLAPS,
    mask: Volume | None = None,
    emit: Emit = silent,
) -> tuple[Plan, Forecast]:
    """As :func:`forecast`, for an app.

    ``overlaps``: other choices whose cost is told, with the overlap (a fraction) that each means. ``mask``: in place of
    the one that the options name.
    """
    volume = open_volume(source, level=options.level, select=options.select)
    mask = open_volume(options.mask) if options.mask and mask is None else mask
    app = AppRequest("run", normalization, estimate=True)
    opened = plan_run(volume, models, options, app=app, mask=mask, emit=emit)
    return opened.plan, forecast_of(opened, options, measure_cost(opened, options, emit=emit), overlaps)


def forecast_of(opened: Opened, options: RunOptions, cost: Cost, overlaps: Mapping[str, float] = OVERLAPS) -> Forecast:
    """What a plan will cost, from what its patches and voxels do."""
    plan, stage, card = opened.plan, opened.plan.sweep, opened.plan.models[0].card
    itemsize = np.dtype(stage.info.dtype).itemsize * stage.info.n_channels
    n_patches, n_computed, decoded, n_voxels, buffer_bytes = extent_of(opened, stage)
    stored = None if stage.sparse else stage.info.stored_bytes
    return Forecast(
        n_patches=n_patches,
        n_patches_computed=n_computed,
        waste=round(n_computed / max(1, n_patches), 3),
        n_forwards=round(n_computed * stage.n_forwards * card.n_folds),
        n_columns=stage.columns.n_columns,
        n_slabs=stage.columns.n_slabs,
        bytes_read=round(stored * decoded / stage.n_decoded(Box.of(stage.info.shape_zyx))) if stored else None,
        bytes_decoded=decoded * itemsize,
        bytes_written=0 if stage.stores else round(sum(_bytes_of(o.spec) for o in stage.outputs if o.spec) * n_voxels),
        memory_bytes=cost.base_bytes + buffer_bytes,
        seconds=round(cost.job_s(n_computed, n_voxels), 2),
        choices=_choices(plan, options, overlaps),
    )


def extent_of(opened: Opened, stage: Sweep) -> tuple[int, int, int, int, int]:
    """Of a sweep: patches, those that are computed, voxels decoded and written, bytes of the buffers."""
    if stage.sparse:
        return _of_mask(stage, opened.volume(stage.mask))
    columns = [stage.swept(run) for run in stage.runs(range(stage.columns.n_units))]
    decoded = sum(stage.n_decoded(stage.reach(box)) for box in columns)
    division = (stage.columns.column_yx, stage.spec.shard_zyx, stage.plane_block)
    lanes = lanes_for(stage.passes[0].setting.device)
    buffers = buffers_for(stage.info, stage.passes, stage.finishes, division, lanes, stage.regrid)
    n_voxels = sum(box.n_voxels for box in columns)
    return stage.n_tiles(stage.region), stage.n_patches_computed, decoded, n_voxels, buffers.total_bytes


def _of_mask(stage: Sweep, mask: Volume) -> tuple[int, int, int, int, int]:
    """Of a sparse sweep: patches, those that are computed, voxels decoded and written, bytes of the buffers."""
    seen, chunk = survey(stage, mask), stage.spec.chunk_zyx
    cells = tuple(side // c for side, c in zip(stage.columns.column_yx, chunk[1:], strict=True))
    each = buffers_for(stage.info, stage.passes, stage.finishes, (chunk[1:], chunk, stage.plane_block))
    n_bytes = each.batch_bytes + seen.n_live(*cells) * (each.total_bytes - each.batch_bytes)
    decoded = seen.n_chunks * math.prod(stage.info.chunk_zyx)
    return seen.n_patches, seen.n_patches, decoded, seen.n_cells * math.prod(chunk), n_bytes


def _bytes_of(spec: OutputSpec) -> float:
    """Of a voxel of an array with all its levels, before compression."""
    share = sum(1 / math.prod(factors) for factors in spec.level_factors)
    return share * np.dtype(spec.dtype).itemsize * spec.n_channels


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs on this machine.

    Attributes
    ----------
    patch_s, voxel_s
        Seconds of a patch that is run (gather, network, weave), and of a voxel of the output (all the rest).
    share_run
        Of all patches, those that are run; the others are skipped, and cost nothing.
    start_s, base_bytes
        Seconds from the start of the process to the end of planning; its memory by then.
    """

    patch_s: float
    voxel_s: float
    share_run: float
    start_s: float = 0.0
    base_bytes: int = 0

    def job_s(self, n_patches: float, n_voxels: int) -> float:
        """Seconds of a job of so many patches, run or skipped, and voxels."""
        return self.start_s + n_patches * self.share_run * self.patch_s + n_voxels * self.voxel_s


def measure_cost(opened: Opened, options: RunOptions, wanted_s: float = CALIBRATION_S, emit: Emit = silent) -> Cost:
    """Run a crop of about so many seconds for real, into memory; from the middle, or where that is empty from near it.

    Where the plan was made without running the network, a small crop comes first, to warm up.
    """
    age_s = time.time() - psutil.Process().create_time()
    start_s, base_bytes = min(age_s, START_S), peak_memory_bytes()
    emit(Event("phase", f"running a piece of the volume, in about {spell_duration(wanted_s)}"))
    found = Emptiness.of(opened.plan.sweep, opened.volume(VOLUME), LOOK_S)
    each_s = expected_patch_s(opened.plan, 1, 1) or _run_crop(opened, options, found, n_patches=8).patch_s
    wanted = max(8, round(wanted_s / max(each_s, 1e-4)))
    cost = _run_crop(opened, options, found, n_patches=min(wanted, MAX_PATCHES))
    return replace(cost, start_s=start_s, base_bytes=base_bytes)


def _run_crop(opened: Opened, options: RunOptions, where: Emptiness, n_patches: int) -> Cost:
    stage, volume = opened.plan.sweep, opened.volume(VOLUME)
    side = max(1, round(n_patches ** (1 / max(1, sum(axis.count > 1 for axis in stage.grid.axes)))))
    extent = (math.ceil((side - 1) * t.step) + t.size for t in stage.grid.axes)
    whole = stage.info.shape_zyx
    sides = [min(n, e) for n, e in zip(whole, extent, strict=True)]
    start = tuple(min(max(0, m - s // 2), n - s) for m, s, n in zip(where.middle, sides, whole, strict=True))
    crop = Crop(Box(start, tuple(a + s for a, s in zip(start, sides, strict=True)))).of(volume)
    found = Findings(
        normalization=tuple(one.normalization for one in stage.by_model),
        settings=tuple(one.setting for one in stage.by_model),
    )
    device = devices_of(options.device)[0]
    small = plan_sweep(crop.info, opened.plan.models, replace(options, bbox="", mask="", sparse=False), found)
    small = _with_levels(small, smallest=max(16, min(crop.info.shape_zyx) // 2))
    place = Place.of(in_memory(), beside={output.name: in_memory() for output in small.sweep.outputs if output.name})
    place.create(small, None)
    trial, totals = opened.with_plan(small, {VOLUME: crop}), Totals()
    started = time.perf_counter()
    for one in small.stages:
        part = Part(one.name, 0, 1, range(one.n_units))
        totals.add(Totals(**compute_part(trial, one, part, place, (device, lanes_for(device))).totals))
    elapsed_s = time.perf_counter() - started
    busy_s = sum(totals.seconds.get(k, 0.0) for k in ("gather", "wait for network", "weave"))
    return Cost(busy_s / max(1, totals.n_patches), (elapsed_s - busy_s) / max(1, totals.n_voxels), where.share_run)


def _with_levels(plan: Plan, smallest: int) -> Plan:
    """The plan with resolution levels down to this side, so that a small volume has some."""
    outputs = [replace(o, spec=replace(o.spec, smallest=smallest)) for o in plan.sweep.outputs if o.spec]
    sweep = replace(plan.sweep, outputs=tuple(outputs))
    levels = [stage for n, one in enumerate(outputs) for stage in level_stages(one, sweep.region, sweep.name, n)]
    return replace(plan, stages=(sweep, *levels))


def _choices(plan: Plan, options: RunOptions, overlaps: Mapping[str, float]) -> tuple[str, ...]:
    """What other settings would cost, relative to this one."""
    stage, card = plan.sweep, plan.models[0].card
    here = stage.grid.n_tiles
    lines = [f"1 of {card.n_folds} folds: x {1 / card.n_folds:.2f}"] if card.n_folds > 1 else []
    for text, overlap in overlaps.items():
        if overlap != options.overlap:
            other = TileGrid.of(stage.info.shape_zyx, stage.grid.patch, overlap, options.fit).n_tiles  # type: ignore[arg-type]
            lines.append(f"{text}: x {other / here:.2f}")
    n_views = sum(len(one.views) for one in stage.passes if one.model == 0)
    if n_views > 1:
        lines.append(f"--tta none: x {1 / n_views:.2f}")
    else:
        lines.append(f"--tta mirroring: x {2 ** len(card.mirror_axes)}")
    return tuple(lines)
