"""The parts of a run: how the work is shared out, and what a worker does with its share."""

from __future__ import annotations

import functools
import itertools
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxweft.apps.prepare import Prepared, reopen
from voxweft.apps.workers import Workers
from voxweft.engine.attempts import Attempt, attempt
from voxweft.engine.compat import sweep_as_vesuvius
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.job import Job, Tally, lanes_for
from voxweft.engine.ledger import Ledger, missing
from voxweft.engine.plan import Plan
from voxweft.engine.report import peak_memory_bytes
from voxweft.engine.sweep import sweep as sweep_column
from voxweft.errors import RequestError, RunError
from voxweft.image.protocols import Sink
from voxweft.launch import run_parts, worker_number, worker_threads
from voxweft.model.protocols import Predictor
from voxweft.stores import open_sink
from voxweft.stores.url import absolute, local_path
from voxweft.version import __version__

PARTS_A_WORKER = 8
REPEATED = 1.02  # patches that may be computed for the sake of more parts / patches without
FEWEST_TO_SPLIT = 2  # slabs


@dataclass(frozen=True, slots=True)
class Share:
    """Consecutive units for one worker: part ``index`` of ``count``, or of a call that numbers its own (count 0)."""

    index: int
    count: int
    units: range


@dataclass(frozen=True, slots=True)
class PartTask:
    """What a worker needs to know of its part; names only, no arrays."""

    share: Share
    plan: Plan
    output: str
    call: str
    devices: tuple[str, ...]
    n_sharing: int
    version: str = __version__

    @property
    def key(self) -> str:
        """Its name among the records of the ledger."""
        return f"{self.call}-{self.share.index}"


def compute(
    prepared: Prepared, sink: Sink, share: tuple[int, int], workers: Workers, emit: Emit
) -> tuple[list[dict[str, Any]], dict[int, Exception]]:
    """Compute the missing slabs of part ``share[1]`` (-1: all) of ``share[0]`` (0: as many as there should be).

    Returns
    -------
    list of dict, dict of int to Exception
        What the parts that ended did; the errors of those that failed, by their numbers. One part does not stop the
        others.
    """
    plan, ledger, here = prepared.plan, Ledger(sink.records), workers.kind == "serial"
    done = ledger.slabs()
    shares = [s for s in share_out(plan, share, workers) if any(missing(plan.columns.runs(s.units), done))]
    if not shares:
        return [], {}
    results, failures = list[dict[str, Any]](), dict[int, Exception]()

    def keep(index: int, outcome: dict[str, Any] | Exception) -> None:
        if not isinstance(outcome, Exception):
            results.append(outcome)
            return
        failures[index] = outcome
        if len(shares) > 1:
            emit(Event("warning", f"part {index} is set aside: {outcome}"))

    with workers.open() as (executor, at_once):
        if here:
            job = functools.cache(lambda: open_job(prepared, sink, workers.devices[0], n_lanes=workers.n_threads))
            for one, outcome in run_parts(executor, lambda one: _sweep_share(job, ledger, one, emit=emit), shares):
                keep(one.index, outcome)
        else:
            parts = Parts(plan, sink, workers, emit)
            tasks = [parts.task(one.units) for one in shares]
            if workers.scheduler and not at_once():
                emit(Event("note", f"no worker has come to {workers.scheduler} yet; the run waits for the first"))
            emit(Event("note", f"parts: {len(tasks)}, workers: {workers.n}; voxweft status {sink.url} shows them"))
            for task, outcome in run_parts(executor, run_part, tasks, at_once, parts.tick, parts.split):
                keep(task.share.index, outcome)
    return results, failures


def share_out(plan: Plan, share: tuple[int, int], workers: Workers) -> list[Share]:
    """The parts that are handed out first.

    For several workers there are eight parts for each, so that a slow or lost one costs little. Where that would
    compute over 2 % of the patches once more, since columns are cut, there are fewer; a worker that has nothing left to
    do then gets half of what another one has (:meth:`Parts.split`).
    """
    count, index = share
    if workers.kind == "serial":
        count = max(1, count)
        return [Share(i, count, plan.columns.units(i, count)) for i in (range(count) if index < 0 else [index])]
    units = range(plan.columns.n_units) if index < 0 else plan.columns.units(index, count)
    if count and index < 0:
        pieces = _cut(units, count)
    else:
        pieces = _cut(units, workers.n)
        allowed = REPEATED * _n_patches(plan, pieces)
        finer = (_cut(units, n) for n in range(workers.n * PARTS_A_WORKER, workers.n, -workers.n))
        pieces = next((p for p in finer if _n_patches(plan, p) <= allowed), pieces)
    return [Share(i, 0, piece) for i, piece in enumerate(pieces)]


def _cut(units: range, count: int) -> list[range]:
    """Equal consecutive pieces, none of them empty."""
    ends = [units.start + i * len(units) // count for i in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends) if a < b]


def _n_patches(plan: Plan, pieces: Sequence[range]) -> int:
    """Patches that are computed for so many parts."""
    runs = (run for units in pieces for run in plan.columns.runs(units))
    return sum(plan.n_tiles(plan.columns.box(run.column, run.slabs) & plan.region) for run in runs)


class Parts:
    """The parts of one call with several workers, split where a worker has nothing left to do."""

    def __init__(self, plan: Plan, sink: Sink, workers: Workers, emit: Emit) -> None:
        self._plan, self._output, self._ledger = _with_absolute_paths(plan), absolute(sink.url), Ledger(sink.records)
        self._workers, self._call, self._emit = workers, uuid.uuid4().hex[:12], emit
        self._units: list[range] = []

    def task(self, units: range) -> PartTask:
        """A further part."""
        self._units.append(units)
        share = Share(len(self._units) - 1, 0, units)
        return PartTask(share, self._plan, self._output, self._call, self._workers.devices, self._workers.n_sharing)

    def split(self, running: Collection[PartTask]) -> PartTask | None:
        """Half of what the worker that is furthest behind has left; None where that is less than a slab."""
        done = {self._plan.columns.unit(*slab) for slab in self._ledger.slabs()}
        left = [(task, [u for u in self._units[task.share.index] if u not in done]) for task in running]
        task, units = max(left, key=lambda item: len(item[1]))
        if len(units) < FEWEST_TO_SPLIT:
            return None
        middle, given = units[(len(units) + 1) // 2], self._units[task.share.index]
        try:
            self._ledger.cut_part(task.key, middle)
        except RunError:  # no reason to end what goes on well
            return None
        self._units[task.share.index] = range(given.start, middle)
        return self.task(range(middle, given.stop))

    def tick(self) -> None:
        """Tell how much all workers together have done."""
        n_done, n_slabs = len(self._ledger.slabs()), self._plan.columns.n_units
        self._emit(Event("progress", data={"n_done": n_done, "n_slabs": n_slabs}))


def _with_absolute_paths(plan: Plan) -> Plan:
    """The plan for workers that may have another working folder."""
    path = plan.card.path
    return replace(
        plan,
        source=replace(plan.source, url=absolute(plan.source.url)),
        mask=absolute(plan.mask) if plan.mask else "",
        card=replace(plan.card, path=absolute(path) if local_path(path).exists() else path),
    )


def open_job(prepared: Prepared, sink: Sink, device: str, emit: Emit = silent, n_lanes: int = 0) -> Job:
    """Make the network ready, unless that was done, and put everything a sweep needs together."""
    plan, lanes = prepared.plan, n_lanes or lanes_for(device)
    setting = replace(plan.setting, device=device, n_lanes=lanes)
    predictor = prepared.predictor or (prepared.model.open(setting) if prepared.model else None)
    ledger, stored = Ledger(sink.records), prepared.stored
    return Job(plan, prepared.volume, predictor, sink, ledger, prepared.mask, device, lanes, emit, stored)


_one_at_a_time = threading.Lock()
_ready: dict[Any, Predictor] = {}  # the network of the last part, so that the next one need not open it again


def run_part(task: PartTask) -> dict[str, Any]:
    """Compute one part in a worker; everything is opened here, from names. One part at a time in a process.

    Raises
    ------
    RequestError
        If this worker has another voxweft, or finds another model at the same path.
    """
    if task.version != __version__:
        raise RequestError(f"the worker has voxweft {__version__}, the run is of {task.version}; install the same")
    with _one_at_a_time:
        sink = open_sink(task.output, layout=task.plan.spec.layout, order=task.plan.spec.order)
        ledger = Ledger(sink.records)

        def goes_on(column: int, slab: int) -> bool:
            end = ledger.cut_of(task.key)
            return end is None or task.plan.columns.unit(column, slab) < end

        return _sweep_share(lambda: replace(_open_here(task, sink), goes_on=goes_on), ledger, task.share, task.call)


def _open_here(task: PartTask, sink: Sink) -> Job:
    plan = task.plan
    device = task.devices[worker_number() % len(task.devices)]
    lanes = worker_threads() or lanes_for(device, task.n_sharing)
    key = (plan.card.path, plan.card.digest, repr(plan.arguments), plan.setting, device, lanes)
    job = open_job(reopen(plan, _ready.get(key)), sink, device, n_lanes=lanes)
    sink.create(plan.spec)
    if job.predictor:
        _ready.clear()
        _ready[key] = job.predictor
    return job


def _sweep_share(
    open_: Callable[[], Job], ledger: Ledger, share: Share, call: str = "", emit: Emit = silent
) -> dict[str, Any]:
    units = (share.units.start, share.units.stop)
    with attempt(ledger, Attempt(share.index, share.count, units, call), emit) as counting:
        job = replace(open_(), emit=counting)
        tally, sweep = Tally(), sweep_as_vesuvius if job.plan.request.get("compat") else sweep_column
        for run in missing(job.plan.columns.runs(share.units), ledger.slabs()):
            if job.goes_on(run.column, run.slabs[0]):
                tally.add(sweep(job, run))
    return {"index": share.index, "count": share.count, "tally": tally, "peak_memory_bytes": peak_memory_bytes()}
