"""From a plan to finished outputs: all stages, by all workers, with a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

from voxweft.engine.attempts import redone
from voxweft.engine.events import Emit, Event
from voxweft.engine.ledger import REPORT_KEY, Ledger
from voxweft.engine.part import Part, State
from voxweft.engine.plan import PatchesRef, Plan
from voxweft.engine.report import Report, environment, peak_memory_bytes
from voxweft.engine.stage import Stage, Sweep, consecutive
from voxweft.engine.totals import Totals
from voxweft.errors import IncompleteError, RequestError, RunError, VolumeError, VoxweftError, first_line
from voxweft.runner.execution import Execution
from voxweft.runner.exporting import file_of, require_held, write_file
from voxweft.runner.memory import explained, with_less
from voxweft.runner.opening import NETWORKS, Opened
from voxweft.runner.parts import Crew, Outcome, share_out, with_absolute_paths
from voxweft.runner.place import IN_MEMORY, Place
from voxweft.runner.planning import follow
from voxweft.runner.records import check_output, provenance, require_apart, tells_another_plan
from voxweft.runner.verify import strike_lost
from voxweft.runner.workers import Workers
from voxweft.shown import counted
from voxweft.stores import open_sink

LOST = "files of finished units were gone, which are computed again: {}"


def run_plan(opened: Opened, place: Place, workers: Workers, execution: Execution, emit: Emit) -> Report:
    """Store or follow the plan, compute what is missing of every stage that has a place, and report.

    Raises
    ------
    RunError
        If parts failed; the others are complete, and the report names those that are not.
    """
    started, place = time.perf_counter(), replace(place, checkpoint_s=workers.checkpoint_s)
    opened = opened.with_plan(with_absolute_paths(opened.plan))  # a plan is followed from any folder
    urls = [_url(one.ref) for one in opened.plan.inputs]
    if workers.kind != "serial" and IN_MEMORY in (place.url, *urls):
        raise RequestError("other processes cannot see what lies in this one's memory; give paths, or executor serial")
    for written in filter(None, (place.url, file_of(place.sink))):
        _require_apart_from(urls, written)
    require_held(place.sink, opened.plan)
    if execution.overwrite:
        remove_all(place)
        place.remove(opened.plan)
    else:
        _require_beside(opened.plan, place)
    opened, place, ledger, outcome = _begun(opened, place, workers, execution, emit)
    plan, stages = opened.plan, _wanted(opened.plan, place)
    lost: list[str] = []
    if not outcome.failures and _is_complete(stages, ledger):
        about = provenance(plan, execution.command)
        if lost := _struck(plan, ledger, stages, place, about, emit):
            emit(Event("note", LOST.format("; ".join(lost[:3]))))
            outcome = outcome.with_more(_compute(opened, place, stages, workers, execution, emit))
            if not outcome.failures and (again := _struck(plan, ledger, stages, place, about, emit)):
                raise IncompleteError(f"{place.url}: files are removed while they are written: {'; '.join(again[:3])}")
    if not outcome.failures:
        ledger.require_mine()
    report = _report(plan, place, outcome, stages, time.perf_counter() - started)
    warnings = (*report.warnings, *([LOST.format("; ".join(lost[:3]))] if lost else []))
    report = replace(report, environment=environment(workers.devices[0]), command=execution.command, warnings=warnings)
    name = REPORT_KEY if execution.part_id < 0 else f"parts/{execution.part_id}-of-{execution.num_parts}.json"
    is_idle = not outcome.records and not lost and ledger.report(name).get("status") == State.COMPLETE
    if not execution.prepare and not is_idle:  # the figures of the run that computed are worth more
        ledger.put_report(name, report.to_dict())
    if report.status == State.COMPLETE and name != REPORT_KEY:
        ledger.put_report(REPORT_KEY, _of_all_parts(report, ledger).to_dict())
    report = _with_file(report, place, execution, emit)
    emit(Event("done", report.status, report.to_dict()))
    if outcome.failures:
        if len(outcome.failures) == 1 and workers.kind == "serial":
            raise outcome.failures.popitem()[1]
        raise _failure(outcome.failures, len(outcome.records))
    return report


def _require_apart_from(urls: Sequence[str], written: str) -> None:
    for url in urls:
        require_apart(url, written)


def _with_file(report: Report, place: Place, execution: Execution, emit: Emit) -> Report:
    """Write the file that was asked for in place of an OME-Zarr, once everything is there."""
    if report.status != State.COMPLETE or execution.prepare or not file_of(place.sink):
        return report
    return replace(report, beside={**report.beside, "file": write_file(place.sink, emit)})


def _require_beside(plan: Plan, place: Place) -> None:
    """Refuse to begin where something else lies in the place of an output beside the result."""
    if Ledger(place.records).plan() is not None:
        return
    for output in (o for stage in plan.stages for o in stage.outputs if o.spec and o.name and not o.level):
        sink = place.sink_of(output)
        if sink.exists():
            raise RequestError(f"{sink.url} exists, where {output.name} would be written; move it, or give --overwrite")


def remove_all(place: Place) -> None:
    """Delete a result, and what the plan that it was made by has beside it."""
    with suppress(VoxweftError):
        if earlier := Ledger(place.records).plan():
            replace(place, _beside={}).remove(Plan.from_json(earlier))
    if place.sink:
        place.sink.remove()


def _begun(
    opened: Opened, place: Place, workers: Workers, execution: Execution, emit: Emit
) -> tuple[Opened, Place, Ledger, Outcome]:
    """The plan that is stored, computed; stored anew with less of everything as long as the device lacks memory."""
    while True:
        opened, ledger, first = store_or_follow(opened, place, workers.devices[0], emit)
        place = replace(place, generation=ledger.generation)
        anew = first or (place.sink is not None and place.sink.exists() and tells_another_plan(place.url, ledger))
        place.create(opened.plan, provenance(opened.plan, execution.command) if anew else None)
        if execution.prepare:
            return opened, place, ledger, Outcome()
        outcome = _compute(opened, place, _wanted(opened.plan, place), workers, execution, emit)
        less = with_less(opened, outcome, ledger) if execution.part_id < 0 else None
        if less is None:
            return opened, place, ledger, explained(outcome)
        emit(Event("warning", less[1]))
        place.remove(opened.plan)
        opened, place = less[0], replace(place, _beside={})


def _wanted(plan: Plan, place: Place) -> list[Stage]:
    return [stage for stage in plan.stages if place.wants(stage)]


def run_job(
    opened: Opened,
    output: Any,
    files: Callable[[str], Mapping[str, str]],
    workers: Workers,
    execution: Execution,
    emit: Emit,
) -> Report:
    """Run a plan into an output that may hold a part of it already, or refuse another one's; as :func:`run_plan`.

    ``files``: of the URL of the output, where each file of the plan is to be written.
    """
    main = next(o.spec for s in opened.plan.stages for o in s.outputs if o.spec and not o.name)
    sink = open_sink(output, layout=main.layout, order=main.order)
    check_output(sink, execution)
    if not execution.overwrite and (stored := Ledger(sink.records).plan()):
        opened = follow(Plan.from_json(stored), opened, workers.devices[0])
    return run_plan(opened, Place.of(sink, files(sink.url)), workers, execution, emit)


def store_or_follow(opened: Opened, place: Place, device: str, emit: Emit) -> tuple[Opened, Ledger, bool]:
    """Store the plan, or follow the one that is stored; its ledger, and whether this was the first."""
    ledger = Ledger(place.records)
    for digest, network in opened.networks.items():  # before the plan that needs them
        place.records.create(NETWORKS + digest, network)
    stored, first = ledger.store_or_follow(opened.plan.to_json())
    if not first and Plan.from_json(stored) != opened.plan:
        opened = follow(Plan.from_json(stored), opened, device)
    plan = opened.plan
    emit(Event("plan", _in_words(plan), {"digest": plan.digest}))
    for note in plan.notes:
        emit(Event("note", note))
    return opened, ledger, first


def _in_words(plan: Plan) -> str:
    patches = [counted(s.n_patches_computed, "patches") for s in plan.stages if isinstance(s, Sweep) and not s.stores]
    return ", ".join([counted(plan.main.n_units, plan.main.noun), *patches[:1]])


def _url(ref: Any) -> str:
    return ref.folder if isinstance(ref, PatchesRef) else str(ref.url)


def _compute(
    opened: Opened, place: Place, stages: Sequence[Stage], workers: Workers, execution: Execution, emit: Emit
) -> Outcome:
    """All stages one after the other; of one part of several, what can be done before the other parts end."""
    ledger, share = Ledger(place.records), (execution.num_parts, execution.part_id)
    if _is_complete(stages, ledger):
        return Outcome()
    with ExitStack() as stack:
        executor = stack.enter_context(workers.open())
        crew = Crew(opened, place, workers, executor, emit)
        for stage in stages:
            if share[1] < 0:
                parts: Sequence[Part] = share_out(stage, (share[0] if stage == opened.plan.main else 0, -1), workers)
            else:
                parts = _parts_of_one(opened.plan, stage, share, workers, ledger)
            crew.compute(stage, parts)
            if len(ledger.done(stage.name)) == stage.n_units:
                ledger.forget_checkpoints(stage.name)
            if crew.outcome.failures:
                break
        return crew.outcome


def _is_complete(stages: Sequence[Stage], ledger: Ledger) -> bool:
    return all(len(ledger.done(stage.name)) == stage.n_units for stage in stages)


def _struck(
    plan: Plan, ledger: Ledger, stages: Sequence[Stage], place: Place, about: Mapping[str, Any], emit: Emit
) -> list[str]:
    """The units whose files are gone, in words; they are struck from the ledger, and metadata are made again."""
    try:
        lost = strike_lost(plan, ledger, stages, place, emit)
    except VolumeError:
        place.create(plan, about)
        lost = strike_lost(plan, ledger, stages, place, emit)
    if lost:
        place.create(plan, None)  # to be written to again
    return lost


def _parts_of_one(plan: Plan, stage: Stage, share: tuple[int, int], workers: Workers, ledger: Ledger) -> Sequence[Part]:
    """What part ``share[1]`` of ``share[0]`` does of a stage, without waiting for other parts.

    Of a stage that needs others: its own units whose needs are there; or, where all that the stage needs is complete,
    everything that is missing, so that the part that ends last completes the output.
    """
    if not stage.needs:
        return share_out(stage, share, workers)
    done = {name: ledger.done(name) for name in stage.needs}
    complete = {name: len(units) == plan.stage(name).n_units for name, units in done.items()}
    if all(complete.values()):
        return share_out(stage, (0, -1), workers)

    def is_ready(unit: int) -> bool:
        return all(
            complete[name] or (box is not None and done[name].issuperset(plan.stage(name).touching(box)))
            for name, box in stage.reads(unit).items()
        )

    units = [unit for unit in stage.share(share[1], share[0]) if is_ready(unit)]
    return [Part(stage.name, share[1], share[0], run) for run in consecutive(units)]


def _report(plan: Plan, place: Place, outcome: Outcome, stages: Sequence[Stage], elapsed_s: float) -> Report:
    """What this call did."""
    ledger = Ledger(place.records)
    done = {stage.name: len(ledger.done(stage.name)) for stage in stages}
    whole = _is_complete(stages, ledger)
    status = State.FAILED if outcome.failures else State.COMPLETE if whole else State.PARTIAL
    total = Totals.sum_of(record.totals for record in outcome.records)
    return Report(
        output=place.url,
        beside={
            output.name: place.sink_of(output).url
            for stage in stages
            for output in stage.outputs
            if output.spec and output.name and not output.level
        },
        plan_digest=plan.digest,
        status=status,
        n_units=plan.main.n_units,
        n_units_done=done.get(plan.main.name, 0),
        totals=total.to_dict(),
        elapsed_s=round(elapsed_s, 3),
        peak_memory_bytes=max([peak_memory_bytes(), *(record.peak_memory_bytes for record in outcome.records)]),
        notes=plan.notes,
        warnings=warnings_of(total),
        parts=tuple(asdict(record) for record in outcome.records),
        failures={name: str(error) for name, error in outcome.failures.items()},
        redone=tuple(
            line if stage == plan.main else f"{stage.name}: {line}"
            for stage in stages
            for line in redone(ledger, stage)
        ),
        stages={stage.name: (done[stage.name], stage.n_units) for stage in stages},
    )


def warnings_of(totals: Totals) -> tuple[str, ...]:
    """What a person should be told of what was read."""
    n = totals.n_nonfinite
    return (f"{n} voxels of the input were NaN or Inf and were taken as 0",) if n else ()


def _of_all_parts(last: Report, ledger: Ledger) -> Report:
    """The report of the part that ended last, with the work of all parts."""
    reports = ledger.part_reports()
    return replace(
        last,
        totals=Totals.sum_of(report["totals"] for report in reports).to_dict(),
        elapsed_s=max(r["elapsed_s"] for r in reports),
        peak_memory_bytes=max(r["peak_memory_bytes"] for r in reports),
        parts=tuple(p for r in reports for p in r["parts"]),
    )


def _failure(failures: Mapping[str, Exception], n_complete: int) -> RunError:
    """An error that names the parts that failed."""
    reasons: dict[str, list[str]] = {}
    for name, error in sorted(failures.items()):
        reasons.setdefault(first_line(error), []).append(name)
    lines = [f"part {', '.join(names)}: {reason}" for reason, names in [*reasons.items()][:2]]
    others = "The others are complete. " if n_complete else ""
    return RunError(
        f"{len(failures)} of {len(failures) + n_complete} parts failed and were set aside; "
        f"{'; '.join(lines).rstrip('.')}.\n"
        f"{others}See report.json beside the output, and run the same command again for the rest."
    )
