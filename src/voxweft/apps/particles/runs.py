"""The runs of a project: which of them, what became of each, and what is done already.

OVERLAY/.voxweft/particles/   the book: a record a run and result
OVERLAY/.voxweft/work/        results that are not finished
OVERLAY/.voxweft/replaced/    results of other programs that lay where voxweft was asked to write
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxweft.apps.particles.options import Work
from voxweft.engine.events import Emit
from voxweft.errors import RequestError
from voxweft.model.protocols import ForwardSetting
from voxweft.remote import is_remote, object_store
from voxweft.runner.batch import ItemsError, Outcome, for_each, settled
from voxweft.runner.batch import Work as Job
from voxweft.runner.workers import Workers
from voxweft.stores.copick import Project
from voxweft.stores.url import exists, local_path, records_at

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
        self._overlay = project.overlay.url
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
        return bool(self._stored(run).get("files", {}).get(key) == self._digest(key))

    def put(self, run: str, stamp: Any, files: Sequence[str], facts: Mapping[str, Any], seconds: float) -> None:
        """Keep the result of a run; ``files`` are relative to the overlay."""
        record = {
            "run": run,
            "result": self._result,
            "request": self.request,
            "stamp": stamp,
            "files": {key: self._digest(key) for key in files},
            "facts": facts,
            "seconds": round(seconds, 3),
        }
        self._records.put(self._key(run), json.dumps(record).encode())

    def work_of(self, run: str, stamp: Any) -> str:
        """Where the arrays of a run lie until they are complete; elsewhere for another request or input."""
        digest = hashlib.sha256(json.dumps([run, self._result, self.request, stamp]).encode()).hexdigest()
        return f"{self._overlay}/{HIDDEN}/work/{digest[:24]}.zarr"

    def settings(self, device: str, decide: Callable[[], Sequence[ForwardSetting]]) -> tuple[ForwardSetting, ...]:
        """How each network is run on a kind of device."""
        return settled(self._records, f"settings/{self.request[:24]}-{device.partition(':')[0]}.json", decide)

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
        return f"{hashlib.sha256(f'{self._result} {run}'.encode()).hexdigest()[:24]}.json"


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
        raise RequestError(f"{project.path}: no runs lie below {project.overlay.url}/ExperimentRuns")
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


def done_by(
    runs: Sequence[str],
    job: Job,
    workers: Workers,
    work: Work,
    *,
    after: Callable[[str, Outcome], RunResult],
    emit: Emit,
) -> list[RunResult]:
    """Work on runs; one that fails does not stop the others.

    ``after`` says of a run that did not fail what became of it.
    """
    if not runs:
        return []
    parts = -(-workers.n // min(work.tomo_batch_size or workers.n, len(runs), workers.n))
    try:
        outcomes = for_each(runs, job, workers, num_parts=parts, emit=emit)
    except ItemsError as error:
        outcomes = list(error.outcomes)
    found = []
    for run, outcome in zip(runs, outcomes, strict=True):
        if outcome.errors:
            message = "; ".join(line.strip() for line in outcome.errors[0].splitlines()[:2])
            found.append(RunResult(run, FAILED, round(outcome.seconds, 3), message))
        else:
            found.append(after(run, outcome))
    return found


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._began
