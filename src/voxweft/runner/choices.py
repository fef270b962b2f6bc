"""What cheaper settings buy on a volume, and the one that keeps what is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from voxweft.engine.choices import ChosenOptions, Row, cheapest
from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import parse_duration, spell_duration
from voxweft.engine.ledger import Ledger
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.image.protocols import Records, Volume
from voxweft.model.protocols import Model
from voxweft.runner.asked import load_models
from voxweft.runner.devices import devices_of
from voxweft.runner.forecast import Cost, Forecast, forecast_of, measure_cost
from voxweft.runner.opening import Opened
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.sampling import Comparison, Sampling
from voxweft.stores import open_volume

CALIBRATION_S = 3.0  # for the seconds of a patch when all cores are busy


def forecast_choices(source: Any, model: Any, options: RunOptions, emit: Emit = silent) -> tuple[Plan, Forecast]:
    """As :func:`~voxweft.runner.forecast.forecast`, with a comparison of choices in ``plan.measured["choices"]``."""
    volume = open_volume(source, level=options.level, select=options.select)
    mask = open_volume(options.mask) if options.mask else None
    models = load_models(model, options)
    opened, cost, row = choose(volume, models, options, mask=mask, estimate=True, emit=emit)
    made = forecast_of(opened, ChosenOptions.of(options, row.choice.options), cost)
    return opened.plan, replace(made, choices=(), seconds=round(row.seconds or made.seconds, 2))


def plan_chosen(
    volume: Volume,
    models: Sequence[Model],
    options: RunOptions,
    *,
    mask: Volume | None = None,
    records: Records | None = None,
    n_workers: int = 1,
    emit: Emit = silent,
) -> Opened:
    """As :func:`~voxweft.runner.planning.plan_run`, of what is chosen; a plan that is stored is followed, not measured.

    Raises
    ------
    RequestError
        If no choice keeps what is asked for; nothing was written.
    """
    if records is not None and (stored := Ledger(records).plan()):
        chosen = ChosenOptions.of(options, Plan.from_json(stored).measured.get("choices", {}).get("chosen", {}))
        return plan_run(volume, models, chosen, mask=mask, records=records, n_workers=n_workers, emit=emit)
    return choose(volume, models, options, mask=mask, n_workers=n_workers, emit=emit)[0]


def choose(
    volume: Volume,
    models: Sequence[Model],
    options: RunOptions,
    *,
    mask: Volume | None = None,
    n_workers: int = 1,
    estimate: bool = False,
    emit: Emit = silent,
) -> tuple[Opened, Cost, Row]:
    """Compare choices and plan the request, or with ``--effort auto`` what is chosen; all is told in the plan."""
    asked = ChosenOptions.of(options, {})
    app = AppRequest(estimate=estimate)
    opened = plan_run(volume, models, asked, app=app, mask=mask, n_workers=n_workers, emit=emit)
    begun = time.perf_counter()
    cost = measure_cost(opened, asked, CALIBRATION_S, emit)
    found = Sampling(opened, asked, cost, n_workers).compare(begun, emit, patient=estimate)
    row = next(row for row in found.rows if row.choice.is_asked)
    notes, measured = [], opened.plan.measured
    if options.effort == "auto":
        row = cheapest(found.rows, parse_duration(options.budget), options.tolerance)
        notes = [_in_words(row, found, options.tolerance)]
    if not row.choice.is_asked:
        schemes = opened.plan.sweep.passes[0].normalization if len(models) == 1 else ()
        app = AppRequest(normalization=schemes, settings=found.settings[row.choice.name], networks=opened.predictors)
        chosen = ChosenOptions.of(options, row.choice.options)
        networks = opened.networks
        opened = plan_run(volume, models, chosen, app=app, mask=mask, n_workers=n_workers, emit=emit)
        opened.networks |= networks if row.choice.options.get("precision", "int8") == "int8" else {}
    plan = replace(
        opened.plan,
        notes=(*opened.plan.notes, *notes),
        measured={**measured, "choices": found.to_dict(row)},
    )
    opened = opened.with_plan(plan)
    opened.keep_only(devices_of(options.device)[0])
    return opened, cost, row


def _in_words(row: Row, found: Comparison, tolerance: float) -> str:
    took = f"--effort auto took {row.choice.name}: {spell_duration(row.seconds or 0.0)}"
    if row.flips is None:
        return f"{took}; nothing could be compared in the time for it"
    against = next(one.choice.name for one in found.rows if one.choice.is_reference)
    more = f", more than the tolerance of {tolerance:.3%}" if row.flips > tolerance else ""
    return f"{took}, {row.flips:.3%} of labels other than with {against} (in {row.n_voxels} voxels){more}"
