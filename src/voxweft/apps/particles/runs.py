"""The runs of a project: which of them, what became of each, and what is done already.

OVERLAY/.voxweft/particles/   the book: a record a run and result
OVERLAY/.voxweft/work/        results that are not finished
OVERLAY/.voxweft/replaced/    results of other programs that lay where voxweft was asked to write
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from voxweft.apps.particles.options import Work
from voxweft.engine.events import Emit
from voxweft.engine.part import State
from voxweft.engine.report import Report
from voxweft.errors import RequestError, VoxweftError
from voxweft.model.protocols import ForwardSetting
from voxweft.remote import is_remote, object_store
from voxweft.runner.batch import BatchLedger, ItemsError, Outcome, for_each, settled
from voxweft.runner.workers import Workers
from voxweft.stores.copick import RUNS, Project
from voxweft.stores.url import children, exists, local_path, records_at, remove, remove_if_empty

HIDDEN = ".voxweft"
DONE, SKIPPED, FAILED, WAITING = "done", "skipped", "failed", "waiting"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of a run.

    Attributes
    ----------
    run, status
        Its name; "done", "skipped" (finished before), "failed", or "waiting" for another share.
    seconds
        Of its work.
    message
        Why it failed, or what to know of it.
    facts
        What was found in it, plain JSON values.
    """

    run: str
    status: str
    seconds: float = 0.0
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunsReport:
    """What a command did to the runs of a project.

    Attributes
    ----------
    project
        Path of its config.
    result
        What was made, in words: ``predict:octopi/1``.
    runs
        In the order of their names.
    seconds
        Wall clock.
    notes
        What the user should know.
    """

    project: str
    result: str
    runs: tuple[RunResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def n_failed(self) -> int:
        """Runs without a result."""
        return sum(run.status == FAILED for run in self.runs)


class Book:
    """What is done, and by what request: a record a run and result.

    Parameters
    ----------
    project
        Whose overlay holds it.
    result
        What is made of every run, such as "segment predict:octopi/1".
    request
        All that decides it.
    """

    def __init__(self, project: Project, result: str, request: str) -> None:
        self.project, self._overlay = project, project.overlay.url
        self._records = records_at(f"{self._overlay}/{HIDDEN}/particles")
        self._result, self.request = result, request

    def finished(self, run: str, stamp: Any) -> RunResult | None:
        """The result of a run, where it is of this request and this input, and nobody has changed it since."""
        stored = self._stored(run)
        if stored.get("request") != self.request or stored.get("stamp") != stamp:
            return None
        if any(self._digest(key) != digest for key, digest in stored["files"].items()):
            return None
        return RunResult(run, SKIPPED, stored["seconds"], "", stored["facts"])

    def is_ours(self, run: str, key: str) -> bool:
        """Whether a file of the overlay is as voxweft left it."""
        return bool(self._stored(run).get("ours", {}).get(key) == self._digest(key))

    def put(self, run: str, stamp: Any, files: Sequence[str], facts: Mapping[str, Any], seconds: float) -> None:
        """Keep the result of a run; ``files`` are relative to the overlay."""
        made = {key: self._digest(key) for key in files}
        record = {
            "run": run,
            "result": self._result,
            "request": self.request,
            "stamp": stamp,
            "files": made,
            "ours": {**self._stored(run).get("ours", {}), **made},  # also of earlier requests
            "facts": facts,
            "seconds": round(seconds, 3),
        }
        self._records.put(self._key(run), json.dumps(record).encode())

    def work_of(self, run: str, stamp: Any) -> str:
        """Where the arrays of a run lie until they are complete; elsewhere for another request or input."""
        return f"{self._overlay}/{HIDDEN}/work/{self._mark(run)}-{request_digest(self.request, stamp)[:12]}.zarr"

    def forget(self, runs: Mapping[str, str]) -> None:
        """Take away what is left of the work on runs, but for what lies where each of them says, "" for nowhere."""
        folder = f"{self._overlay}/{HIDDEN}/work"
        kept = {self._mark(run): place.rpartition("/")[2].removesuffix(".zarr") for run, place in runs.items()}
        for name in children(folder):
            own = kept.get(name.partition("-")[0])
            if name.endswith(".tmp") or (own is not None and not (own and name.startswith(own))):
                remove(f"{folder}/{name}")
        remove_if_empty(folder)

    def _mark(self, run: str) -> str:
        return hashlib.sha256(f"{self._result} {run}".encode()).hexdigest()[:12]

    def settings(self, device: str, decide: Callable[[], Sequence[ForwardSetting]]) -> tuple[ForwardSetting, ...]:
        """How each network is run on a kind of device."""
        return settled(self._records, f"settings/{self.request[:24]}-{device.partition(':')[0]}.json", decide)

    def has_begun(self, run: str, stamp: Any) -> bool:
        """Whether a run was begun before, and its results may be there."""
        return records_at(f"{self.work_of(run, stamp)}.voxweft").get("plan.json") is not None

    def keep_old(self, key: str) -> None:
        """Put a file or folder of another program out of the way."""
        source, target = f"{self._overlay}/{key}", f"{self._overlay}/{HIDDEN}/replaced/{key}"
        if not is_remote(source):
            new, n = local_path(target), 0
            while new.exists():
                n += 1
                new = local_path(f"{target}.{n}")
            new.parent.mkdir(parents=True, exist_ok=True)
            local_path(source).rename(new)
            return
        store = object_store(self._overlay)
        for page in [*store.list(key)]:
            for item in page:
                store.copy(item["path"], f"{HIDDEN}/replaced/{item['path']}")

    def holds(self, key: str) -> bool:
        """Whether something lies at a place of the overlay."""
        if is_remote(self._overlay):
            return records_at(self._overlay).get(key) is not None or exists(f"{self._overlay}/{key}")
        return local_path(f"{self._overlay}/{key}").exists()

    def _digest(self, key: str) -> str:
        return hashlib.sha256(records_at(self._overlay).get(key) or b"").hexdigest()

    def _stored(self, run: str) -> dict[str, Any]:
        try:
            found = json.loads(self._records.get(self._key(run)) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) and "files" in found else {}

    def _key(self, run: str) -> str:
        return f"{self._mark(run)}.json"


def request_digest(*parts: Any) -> str:
    """A digest of all that decides results; plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def runs_of(project: Project, wanted: Sequence[str]) -> list[str]:
    """The runs that are asked for, or all.

    Raises
    ------
    RequestError
        If there are none, or one of them is not in the project.
    """
    found = project.runs()
    if not found:
        raise RequestError(f"{project.path}: no runs lie below {project.overlay.url}/{RUNS}")
    if missing := [run for run in wanted if run not in found]:
        shown = ", ".join(found[:8]) + (" ..." if len(found) > 8 else "")
        raise RequestError(f"--run-ids {', '.join(missing)}: no such run; the project has {shown}")
    return [run for run in found if run in wanted] if wanted else found


def stamp_of(url: str) -> list[Any]:
    """What changes when an array of a project is written anew: its metadata, and when they were written."""
    data = b"".join(records_at(url).get(key) or b"" for key in (".zattrs", "0/.zarray"))
    written = 0 if is_remote(url) else max((p.stat().st_mtime_ns for p in _metadata(url)), default=0)
    return [hashlib.sha256(data).hexdigest(), written]


def _metadata(url: str) -> list[Path]:
    return [p for p in (local_path(url) / key for key in (".zattrs", "0/.zarray")) if p.exists()]


class Task(Protocol):
    """What is done to every run; called by workers, as :data:`voxweft.runner.batch.Work`."""

    def __call__(self, run: str, share: tuple[int, int], workers: Workers, /) -> Report:
        """Do a run, and continue what was begun; its share is the whole."""

    def stamp(self, project: Project, run: str) -> Any:
        """What changes when the input of a run does; plain JSON. Raises what is said of a run that has none."""

    def keys(self, project: Project, run: str) -> list[str]:
        """The files or folders that are written, below the overlay."""

    def marks(self, key: str) -> list[str]:
        """The files of one of them that tell whether it is as it was left."""

    def finish(self, project: Project, run: str, stamp: Any) -> Mapping[str, Any]:
        """Take away what a run that is complete needs no more; its facts."""


def carry_out(
    runs: Sequence[str],
    task: Task,
    book: Book,
    work: Work,
    prepare: Callable[[list[str]], tuple[Task, Workers]],
    emit: Emit,
) -> tuple[tuple[RunResult, ...], list[str]]:
    """Do a task for runs; one that fails does not stop the others.

    Parameters
    ----------
    runs
        Their names.
    task, book
        What is done; what is done already, which is left alone.
    work
        Which share of the runs.
    prepare
        Of the runs that are left makes the task that they share, and says who works.
    emit
        Told of every event.

    Returns
    -------
    results, notes
        What became of every run; what the user should know.
    """
    project, found, stamps, notes = book.project, dict[str, RunResult](), dict[str, Any](), list[str]()
    for run in runs[work.part_id :: work.num_parts]:
        try:
            stamps[run] = task.stamp(project, run)
        except VoxweftError as error:
            found[run] = RunResult(run, FAILED, message=_in_a_line(str(error)))
            continue
        if not work.overwrite and (done := book.finished(run, stamps[run])):
            found[run] = done
    if left := [run for run in stamps if run not in found]:
        task, workers = prepare(left)
        book.forget({run: book.work_of(run, stamps[run]) for run in left})
        for run in left:
            if not book.has_begun(run, stamps[run]):
                notes += [
                    f"{key} of another program is kept in {HIDDEN}/replaced" for key in _put_away(task, book, run)
                ]
        noted = _Noted(task, book, stamps, found)
        with suppress(ItemsError):  # each of them is noted when it ends
            if len(left) < workers.n:  # all workers on one run after the other
                one = replace(workers, kind="serial", n=1)
                for_each(left, _Together(task, workers), one, num_parts=1, ledger=noted, emit=emit)
            else:
                for_each(left, task, workers, num_parts=1, ledger=noted, emit=emit)
    book.forget({run: "" for run, result in found.items() if result.status in (DONE, SKIPPED)})
    return tuple(found.get(run, RunResult(run, WAITING)) for run in runs), notes


@dataclass(frozen=True, slots=True)
class _Together:
    """A task that several workers share."""

    task: Task
    workers: Workers

    def __call__(self, run: str, share: tuple[int, int], _own: Workers) -> Report:
        return self.task(run, share, self.workers)


class _Noted(BatchLedger):
    """Notes every run when it ends, so that a batch that is killed has lost none."""

    def __init__(self, task: Task, book: Book, stamps: Mapping[str, Any], found: dict[str, RunResult]) -> None:
        self._task, self._book, self._stamps, self._found = task, book, stamps, found

    def done(self, _items: Iterable[Any]) -> set[int]:
        """None: they are all left."""
        return set()

    def put(self, outcome: Outcome) -> None:
        """Note a run."""
        run = str(outcome.item)
        self._found[run] = _result(run, outcome, self._task, self._book, self._stamps[run])

    def put_table(self, items: Iterable[Any]) -> None:
        """There is none."""


def _put_away(task: Task, book: Book, run: str) -> list[str]:
    """Keep what other programs left where a run will write."""
    foreign = [
        key
        for key in task.keys(book.project, run)
        if book.holds(key) and not all(book.is_ours(run, mark) for mark in task.marks(key))
    ]
    for key in foreign:
        book.keep_old(key)
    return foreign


def _result(run: str, outcome: Outcome, task: Task, book: Book, stamp: Any) -> RunResult:
    """What became of a run; one that is complete is noted in the book."""
    if outcome.errors:
        return RunResult(run, FAILED, round(outcome.seconds, 3), _in_a_line(outcome.errors[0]))
    if outcome.report is None or outcome.report.status != State.COMPLETE:
        return RunResult(run, FAILED, outcome.seconds, "it is not complete")
    try:
        facts = task.finish(book.project, run, stamp)
    except VoxweftError as error:
        return RunResult(run, FAILED, outcome.seconds, _in_a_line(str(error)))
    files = [mark for key in task.keys(book.project, run) for mark in task.marks(key)]
    book.put(run, stamp, files, facts, outcome.seconds)
    return RunResult(run, DONE, outcome.seconds, "; ".join(outcome.report.notes), facts)


def _in_a_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines()[:2])
