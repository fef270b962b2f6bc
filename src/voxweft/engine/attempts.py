"""Who works, or worked, on which part: told to the ledger while it lasts, so that anybody can see it."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import BEAT_S, Ledger
from voxweft.engine.part import Part, State
from voxweft.engine.stage import Stage
from voxweft.engine.totals import Totals

SOON_S = 0.5  # between looks at what was done
SILENT_S = 35.0  # without a sign of life for so long, a worker is lost


@dataclass(slots=True)
class Attempt:
    """One try of one worker at one part.

    Attributes
    ----------
    stage, index, count
        The part; count 0: one of the parts that a call with several workers numbered.
    units
        First and last + 1 of the units that it was given.
    call
        The call that numbered the parts; "" for part I of N.
    host, pid, space
        The worker's process; ``space`` names the space of process ids that ``pid`` belongs to.
    job
        The job of a scheduler that it is part of, such as "slurm 12_3"; else "".
    began, beat
        Unix time of the beginning and of the last sign of life, seconds, by the worker's clock.
    outcome
        Running until it ends, then done, failed or stopped (asked to end). A worker that was killed leaves "running"
        behind; see :attr:`state`.
    error
        Why it failed.
    n_units, n_patches
        What it finished so far; patches that were skipped are counted.
    """

    stage: str
    index: int
    count: int
    units: tuple[int, int] = (0, 0)
    call: str = ""
    host: str = ""
    pid: int = 0
    space: str = ""
    job: str = ""
    began: float = 0.0
    beat: float = 0.0
    outcome: State = State.RUNNING
    error: str = ""
    n_units: int = 0
    n_patches: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Attempt:
        """From a record of the ledger; fields that a later voxweft may add are left out."""
        known = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        units, outcome = tuple(known.get("units", (0, 0))), State(known.get("outcome", State.RUNNING))
        return cls(**known | {"units": units, "outcome": outcome})

    @classmethod
    def at(cls, part: Part) -> Attempt:
        """One that begins."""
        return cls(part.stage, part.index, part.count, (part.units.start, part.units.stop), part.call)

    @property
    def state(self) -> State:
        """``outcome``, but lost where the worker is gone: its process here, or its signs of life elsewhere."""
        if self.outcome != State.RUNNING:
            return self.outcome
        gone = self.space == _process_space() and not _is_there(self.pid)
        return State.LOST if gone or time.time() - self.beat > SILENT_S else State.RUNNING

    @property
    def part(self) -> tuple[str, str, int, int]:
        """What identifies the part."""
        return self.stage, self.call, self.index, self.count

    @property
    def name(self) -> str:
        """The part in words."""
        return f"part {self.index}" + (f" of {self.count}" if self.count else "")

    @property
    def worker(self) -> str:
        """The worker in words."""
        return f"{self.host}, process {self.pid}" + (f", {self.job}" if self.job else "")


@contextmanager
def attempt(ledger: Ledger, one: Attempt, totals: Totals, emit: Emit = silent) -> Iterator[Emit]:
    """Tell the ledger every few seconds that this process works on a part, what it has done, and how it ended.

    ``totals`` are those of the part; whoever listens is told of patches as they are done.

    Yields
    ------
    Emit
        ``emit``, but counting units on their way.

    Raises
    ------
    WriteError
        If the first record cannot be written.
    """
    one.host, one.pid, one.space, one.job = platform.node(), os.getpid(), _process_space(), _job()
    one.began = one.beat = time.time()
    key, ended = uuid.uuid4().hex, threading.Event()
    ledger.put_attempt(key, asdict(one))

    def tell() -> None:
        if not deaf:
            try:
                emit(Event("patches", data={"stage": one.stage, "part": one.index, "n_patches": one.n_patches}))
            except Exception as error:  # noqa: BLE001 - a listener that fails is no end to the signs of life
                deaf.append(error)

    def beat() -> None:
        last, before = time.monotonic(), (0, 0)
        while not ended.wait(SOON_S):
            one.n_patches = totals.n_passed
            now = (one.n_units, one.n_patches)
            if now[1] != before[1]:
                tell()
            due = ledger.beat_s if now != before else BEAT_S
            before = now
            if time.monotonic() - last >= due:
                last, one.beat = time.monotonic(), time.time()
                with suppress(Exception):  # the next one may come through
                    ledger.put_attempt(key, asdict(one))

    def counting(event: Event) -> None:
        if event.kind == "unit":
            one.n_units += 1
        emit(event)

    deaf = list[Exception]()
    thread = threading.Thread(target=beat, daemon=True, name="voxweft-beat")
    thread.start()
    try:
        yield counting
        if deaf:
            raise deaf[0]
        one.outcome = State.DONE
    except Exception as error:
        one.outcome, one.error = State.FAILED, str(error) or type(error).__name__
        raise
    except BaseException:
        one.outcome = State.STOPPED
        raise
    finally:
        ended.set()
        thread.join(BEAT_S)
        one.beat, one.n_patches = time.time(), totals.n_passed
        with suppress(Exception):  # what matters is in the units
            ledger.put_attempt(key, asdict(one))


def attempts_in(ledger: Ledger) -> list[Attempt]:
    """All attempts that a ledger knows of, in the order in which they began."""
    return sorted(
        (Attempt.of(a) for a in ledger.attempts().values() if {"stage", "index", "count"} <= a.keys()),
        key=lambda a: a.began,
    )


def redone(ledger: Ledger, stage: Stage) -> tuple[str, ...]:
    """The parts of a stage that were begun more than once, in words: by whom, and what became of each attempt."""
    lines = []
    attempts = [a for a in attempts_in(ledger) if a.stage == stage.name]
    for part in dict.fromkeys(a.part for a in attempts):
        tries = [a for a in attempts if a.part == part]
        if len(tries) > 1:
            records = [ledger.record(stage.name, unit) for unit in range(*tries[0].units)]
            ends = (
                f"{a.worker}: {a.state}, {_n_written(a, records)} of its {stage.noun} are in the result" for a in tries
            )
            lines.append(f"{tries[0].name} was begun {len(tries)} times ({'; '.join(ends)})")
    return tuple(lines)


def _n_written(one: Attempt, records: Sequence[Mapping[str, Any]]) -> int:
    """Of these units, those that a worker wrote in the time of an attempt; both times are its own clock's."""
    own = (r for r in records if (r.get("host"), r.get("pid")) == (one.host, one.pid))
    until = one.beat if one.outcome != State.RUNNING else time.time()
    return sum(one.began <= r.get("at", 0.0) <= until for r in own)


def _process_space() -> str:
    """The machine and its space of process ids; containers of one host name have several."""
    with suppress(OSError):
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    return platform.node()


def _is_there(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def _job() -> str:
    """What a scheduler calls this job."""
    env = os.environ
    if array := env.get("SLURM_ARRAY_JOB_ID"):
        return f"slurm {array}_{env.get('SLURM_ARRAY_TASK_ID', '')}"
    if job := env.get("SLURM_JOB_ID"):
        return f"slurm {job}"
    if "KUBERNETES_SERVICE_HOST" in env:
        return "pod " + re.sub(r"\s", "", env.get("HOSTNAME", ""))
    return ""
