"""What a job will cost: slices, tiles, memory, and the time, from one slice in the middle."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from voxweft.apps.panoptic.codes import classes_of
from voxweft.apps.panoptic.job import SweptJob, is_divided, opened_model, opened_sweep, plan_job
from voxweft.apps.panoptic.look import open_image
from voxweft.apps.panoptic.slices import one_slice
from voxweft.apps.panoptic.stages import rules_of
from voxweft.engine.passes import Sweep
from voxweft.engine.plan import Plan
from voxweft.engine.slices import maps_of_slice
from voxweft.runner.devices import budget_of, devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.workers import Workers

WARM_UP = 3


def forecast(app: str, source: Any, model: Any, options: SweptJob, execution: Execution) -> tuple[Plan, dict[str, str]]:
    """The plan of a job and what it costs, in rows to be shown; nothing is written.

    One slice of each plane goes through the network four times, and the last time counts.
    """
    device = devices_of(options.device)[0]
    workers = Workers.of(execution, devices_of(options.device))
    budget = budget_of(options.memory, device, workers.n_sharing)
    found, base = opened_model(model, options), open_image(source, options)
    plan, volumes = plan_job(app, base, found, options, (device, budget, is_divided(execution, workers)))
    rules = replace(rules_of(options, classes_of(found.card, options.semantic_only)), median=1)
    sweeps = [stage for stage in plan.stages if isinstance(stage, Sweep)]
    network_s, rest_s, slices, tiles = 0.0, 0.0, [], []
    for stage in sweeps:
        n = stage.info.shape_zyx[0]
        opened = opened_sweep(stage, volumes, found, device)
        for _ in range(WARM_UP):  # TorchScript is made ready in its first runs
            maps_of_slice(opened, n // 2)
        before = time.perf_counter()
        maps = maps_of_slice(opened, n // 2)
        between = time.perf_counter()
        one_slice(0, maps, rules)
        rest_s += n * (time.perf_counter() - between)
        network_s += n * (between - before) / (opened.n_lanes if stage.grid.n_tiles == n else 1)
        slices.append(f"{n} of {stage.columns.shape[1]} x {stage.columns.shape[2]} pixels")
        tiles.append(f"{stage.grid.n_tiles} of {stage.grid.patch[1]} x {stage.grid.patch[2]}")
    pixels = max(math.prod(stage.columns.shape[1:]) for stage in sweeps)
    slab = max(stage.columns.slab_z * math.prod(stage.columns.shape[1:]) * 4 for stage in sweeps)
    rows = {
        "volume": f"{base.info.shape_zyx} z y x, {base.info.dtype}, {base.info.format}",
        "slices": "; ".join(slices),
        "network": f"{'; '.join(tiles)}, on {device}",
        "slabs": ", ".join(f"{stage.n_units} of {stage.columns.slab_z} slices" for stage in sweeps),
        "memory": f"{(3 * slab + 40 * pixels) / 1e9:.2f} GB beside the network",
        "time": f"{max(network_s, rest_s) / 60:.1f} min for the slices",
    }
    return plan, rows | ({"notes": "\n".join(plan.notes)} if plan.notes else {})
