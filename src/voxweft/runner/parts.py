"""The parts of a stage: how its units are shared out, and what a worker does with its share."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from voxweft.engine.attempts import Attempt, attempt
from voxweft.engine.commit import Commit
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import find_op
from voxweft.engine.output import broken
from voxweft.engine.part import Part, PartRecord, State
from voxweft.engine.plan import InputRef, PatchesRef, Plan
from voxweft.engine.report import peak_memory_bytes
from voxweft.engine.stage import Stage, Sweep
from voxweft.engine.totals import Totals, lanes_for
from voxweft.errors import RequestError, RunError
from voxweft.image.ref import VolumeRef
from voxweft.launch import TICK_S, run_parts, worker_number, worker_threads
from voxweft.model.protocols import Predictor
from voxweft.model.ref import ModelRef
from voxweft.runner.count import PatchCount, expected_patch_s
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.workers import Workers
from voxweft.stores.url import absolute, local_path
from voxweft.version import __version__

PARTS_A_WORKER = 8
REPEATED = 1.02  # patches that may be computed for the sake of more parts / patches without
FEWEST_TO_SPLIT = 2  # units


@dataclass(frozen=True, slots=True)
class PartTask:
    """What a worker needs to know of its part; names only, no arrays.

    ``operations`` are the plan's own, sent along so that the worker imports the modules that define them.
    """

    part: Part
    plan: Plan
    output: str
    files: Mapping[str, str]
    devices: tuple[str, ...]
    n_sharing: int
    operations: tuple[Callable[..., Any], ...] = ()
    generation: str = ""
    checkpoint_s: float = 0.0
    version: str = __version__


@dataclass(slots=True)
class Outcome:
    """What parts did, and the errors of those that failed, by their names."""

    records: list[PartRecord] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)

    def with_more(self, other: Outcome) -> Outcome:
        """Those of two together."""
        return Outcome([*self.records, *other.records], self.failures | other.failures)


class Crew:
    """Workers at work on the stages of one plan, one stage after the other.

    Parameters
    ----------
    opened, place
        What is to be done; where it goes.
    workers
        Who computes.
    executor, at_once
        Theirs, and how many parts it takes at once.
    emit
        Told of every event.
    """

    def __init__(
        self, opened: Opened, place: Place, workers: Workers, executor: tuple[Any, Callable[[], int]], emit: Emit
    ) -> None:
        self._opened, self._place, self._workers, self._emit = opened, place, workers, emit
        self._executor, self._at_once = executor
        self._ledger = Ledger(place.records)
        self.outcome = Outcome()

    def compute(self, stage: Stage, parts: Sequence[Part]) -> None:
        """Compute what is missing of parts; one that fails does not stop the others."""
        done = self._ledger.done(stage.name)
        todo = [part for part in parts if any(unit not in done for unit in part.units)]
        if not todo:
            return
        serial = self._workers.kind == "serial"
        count = PatchCount(stage, done)
        for n, part in enumerate(todo):
            count.expect(part.index if serial else n, part.units)
        self._emit(Event("begin", data=self._begin(stage, len(done)) | count.told()))
        for part, result in self._here(stage, todo, count) if serial else self._there(stage, todo, count):
            if not isinstance(result, Exception):
                self.outcome.records.append(result)
                continue
            name = str(part.index) if stage == self._opened.plan.main else f"{part.index} of {stage.name}"
            self.outcome.failures[name] = result
            if len(todo) > 1:
                self._emit(Event("warning", f"part {name} is set aside: {result}"))

    def _begin(self, stage: Stage, n_done: int) -> dict[str, Any]:
        data = {"stage": stage.name, "n_units": stage.n_units, "n_done": n_done, "noun": stage.noun}
        if stage != self._opened.plan.main:
            return data
        patch_s = expected_patch_s(self._opened.plan, self._workers.n, self._workers.n_sharing)
        keeps = isinstance(stage, Sweep) and stage.keeps_sums and not self._opened.plan.reads_patches
        data["keeps_s"] = self._place.checkpoint_s if keeps else 0.0
        return data | {"output": self._place.url, "patch_s": patch_s}

    def _here(
        self, stage: Stage, parts: Sequence[Part], count: PatchCount
    ) -> Iterator[tuple[Part, PartRecord | Exception]]:
        device, lanes = self._workers.devices[0], self._workers.n_threads

        def emit(event: Event) -> None:
            if event.kind == "patches":
                count.note(event.data["part"], event.data["n_patches"])
                event = Event("progress", stage.noun, {"stage": stage.name} | count.told())
            self._emit(event)

        def one(part: Part) -> PartRecord:
            return compute_part(self._opened, stage, part, self._place, (device, lanes), emit=emit)

        return run_parts(self._executor, one, parts)

    def _there(
        self, stage: Stage, parts: Sequence[Part], count: PatchCount
    ) -> Iterator[tuple[Part, PartRecord | Exception]]:
        shared = SharedParts(self._opened.plan, stage, self._place, self._workers, self._emit, count)
        tasks = [shared.task(part.units) for part in parts]
        if self._workers.scheduler and not self._at_once():
            text = f"no worker has come to {self._workers.scheduler} yet; the run waits for the first"
            self._emit(Event("note", text))
        if stage == self._opened.plan.main:
            text = f"parts: {len(tasks)}, workers: {self._workers.n}; voxweft status {self._place.url} shows them"
            self._emit(Event("note", text))
        try:
            for task, result in run_parts(self._executor, run_part, tasks, self._at_once, shared.tick, shared.split):
                yield task.part, result
        except KeyboardInterrupt:
            shared.tell()  # so that what is said to be kept is what is kept
            raise


def share_out(stage: Stage, share: tuple[int, int], workers: Workers) -> list[Part]:
    """The parts that are handed out first, of part ``share[1]`` (-1: all) of ``share[0]`` (0: as many as is best).

    For several workers there are eight parts for each, so that a slow or lost one costs little. Where that would
    compute over 2 % of the patches once more, since columns are divided, there are fewer; a worker that has nothing
    left to do then gets half of what another one has (:meth:`SharedParts.split`).
    """
    count, index = share
    if workers.kind == "serial":
        count = max(1, count)
        return [Part(stage.name, i, count, stage.share(i, count)) for i in (range(count) if index < 0 else [index])]
    units = range(stage.n_units) if index < 0 else stage.share(index, count)
    if count and index < 0:
        pieces = _divided(units, count)
    else:
        pieces = _divided(units, workers.n)
        allowed = REPEATED * sum(map(stage.cost, pieces))
        finer = (_divided(units, n) for n in range(workers.n * PARTS_A_WORKER, workers.n, -workers.n))
        pieces = next((p for p in finer if sum(map(stage.cost, p)) <= allowed), pieces)
    return [Part(stage.name, i, 0, piece) for i, piece in enumerate(pieces)]


def _divided(units: range, count: int) -> list[range]:
    """Equal consecutive pieces, none of them empty."""
    ends = [units.start + i * len(units) // count for i in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends) if a < b]


class SharedParts:
    """The parts of one stage for several workers, split where a worker has nothing left to do."""

    def __init__(
        self, plan: Plan, stage: Stage, place: Place, workers: Workers, emit: Emit, count: PatchCount | None = None
    ) -> None:
        self._count, self._ended, self._looked = count or PatchCount(stage, ()), dict[str, Attempt](), 0.0
        self._plan, self._stage, self._ledger = with_absolute_paths(plan), stage, Ledger(place.records)
        self._output, self._files = place.absolute()
        self._generation, self._checkpoint_s = place.generation, place.checkpoint_s
        self._workers, self._call, self._emit = workers, uuid.uuid4().hex[:12], emit
        self._units: list[range] = []
        self._operations = tuple(_operations_of(plan))

    def task(self, units: range) -> PartTask:
        """A further part."""
        self._units.append(units)
        return PartTask(
            Part(self._stage.name, len(self._units) - 1, 0, units, self._call),
            self._plan,
            self._output,
            self._files,
            self._workers.devices,
            self._workers.n_sharing,
            self._operations,
            self._generation,
            self._checkpoint_s,
        )

    def split(self, running: Collection[PartTask]) -> PartTask | None:
        """Half of what the worker that is furthest behind has left; None where that is less than two units."""
        done = self._ledger.done(self._stage.name)
        left = [(task, [u for u in self._units[task.part.index] if u not in done]) for task in running]
        task, units = max(left, key=lambda item: len(item[1]))
        if len(units) < FEWEST_TO_SPLIT:
            return None
        middle, given = units[(len(units) + 1) // 2], self._units[task.part.index]
        try:
            self._ledger.end_early(task.part.key, middle)
        except RunError:  # no reason to end what goes on well
            return None
        self._units[task.part.index] = range(given.start, middle)
        self._count.expect(task.part.index, self._units[task.part.index])
        self._count.expect(len(self._units), range(middle, given.stop))
        return self.task(range(middle, given.stop))

    def tick(self) -> None:
        """:meth:`tell`, as often as there may be news."""
        if time.monotonic() - self._looked >= self._ledger.beat_s - TICK_S / 2:
            self.tell()

    def tell(self) -> None:
        """Tell how much all workers together have done."""
        self._looked = time.monotonic()
        n_done = len(self._ledger.done(self._stage.name))
        if told := self._count.told():
            self._look()
            told = self._count.told()
        data = {"stage": self._stage.name, "n_done": n_done, "n_units": self._stage.n_units}
        self._emit(Event("progress", self._stage.noun, data | told))

    def _look(self) -> None:
        """At the signs of life of those who work for this call; what has ended is read once."""
        found = {key: Attempt.of(record) for key, record in self._ledger.attempts(self._ended).items() if record}
        self._ended |= {key: one for key, one in found.items() if one.outcome != State.RUNNING}
        counts = dict[int, int]()
        for one in (self._ended | found).values():
            if (one.call, one.stage) == (self._call, self._stage.name):
                counts[one.index] = counts.get(one.index, 0) + one.n_patches
        for part, n_patches in counts.items():
            self._count.note(part, n_patches)


def _operations_of(plan: Plan) -> Iterator[Callable[..., Any]]:
    """The functions that a plan names."""
    for stage in plan.stages:
        if not isinstance(stage, Sweep):
            yield find_op(stage.op, "block" if stage.kind == "blocks" else "gather")
        elif stage.slices:
            yield find_op(stage.slices.op, "slice")


def with_absolute_paths(plan: Plan) -> Plan:
    """The plan for workers that may have another working folder."""
    return replace(
        plan,
        inputs=tuple(_absolute_input(one) for one in plan.inputs),
        models=tuple(absolute_model(ref) for ref in plan.models),
    )


def _absolute_input(one: InputRef) -> InputRef:
    if isinstance(one.ref, PatchesRef):
        return replace(one, ref=replace(one.ref, folder=absolute(one.ref.folder)))
    return replace(one, ref=_absolute_volume(one.ref))


def _absolute_volume(ref: VolumeRef) -> VolumeRef:
    return replace(ref, url=absolute(ref.url), volumes=tuple(map(_absolute_volume, ref.volumes)))


def absolute_model(ref: ModelRef) -> ModelRef:
    """The reference for workers that may have another working folder."""
    path = ref.card.path
    return replace(ref, card=replace(ref.card, path=absolute(path) if local_path(path).exists() else path))


_one_at_a_time = threading.Lock()
_networks: dict[Any, Predictor] = {}  # those of the last part, so that the next one need not open them again


def run_part(task: PartTask) -> PartRecord:
    """Compute one part in a worker; everything is opened here, from names. One part at a time in a process.

    Raises
    ------
    RequestError
        If this worker has another voxweft, or finds another model at the same path.
    """
    if task.version != __version__:
        raise RequestError(f"the worker has voxweft {__version__}, the run is of {task.version}; install the same")
    with _one_at_a_time:
        plan, device = task.plan, task.devices[worker_number() % len(task.devices)]
        place = Place.at(task.output, plan, task.files)
        place = replace(place, generation=task.generation, checkpoint_s=task.checkpoint_s)
        ledger, lanes = Ledger(place.records), worker_threads() or lanes_for(device, task.n_sharing)

        def goes_on(unit: int) -> bool:
            end = ledger.end_of(task.part.key)
            return end is None or unit < end

        def opened() -> Opened:
            made = Opened(plan)
            made.predictors = _networks
            place.create(plan, None)
            return made

        stage = plan.stage(task.part.stage)
        try:
            return compute_part(opened, stage, task.part, place, (device, lanes), goes_on=goes_on)
        except RuntimeError:  # perhaps for want of memory
            _networks.clear()
            raise


def compute_part(
    opened: Opened | Callable[[], Opened],
    stage: Stage,
    part: Part,
    place: Place,
    device: tuple[str, int],
    *,
    goes_on: Callable[[int], bool] = lambda _unit: True,
    emit: Emit = silent,
) -> PartRecord:
    """Compute what is missing of a part, and tell the ledger of it.

    ``device``: its name, and how many forward passes it runs at once.
    """
    ledger = Ledger(place.records, place.generation)
    guarded: list[Any] = [sink for sink in place.sinks_of(stage) if hasattr(sink, "guard")]
    for sink in guarded:
        sink.guard = ledger.require_mine_still
    totals = Totals()
    with attempt(ledger, Attempt.at(part), totals, emit) as counting:
        made = opened if isinstance(opened, Opened) else opened()
        commit = Commit(stage, place.sinks_of(stage), ledger, counting, totals)
        commit.checkpoint_s = place.checkpoint_s
        compute = made.stage(stage, place, *device)
        done, begun = ledger.done(stage.name), ledger.begun(stage.name)
        for whole in stage.runs(unit for unit in part.units if unit not in done):
            for run in broken(whole, begun):  # what is kept of a unit is of use to who begins with it
                if goes_on(run.start):
                    compute(run, commit, goes_on)
    return PartRecord(part.stage, part.index, part.count, commit.totals.to_dict(), peak_memory_bytes())
