"""One view of a run, from its ledger alone: what is done, who is at work, what failed, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from voxweft.engine.attempts import Attempt, attempts_in
from voxweft.engine.ledger import Ledger
from voxweft.engine.part import Part, State
from voxweft.engine.plan import Plan
from voxweft.engine.stage import Stage, Sweep
from voxweft.errors import RequestError
from voxweft.runner.patches import records_of
from voxweft.runner.records import plan_of
from voxweft.stores import open_sink
from voxweft.stores.file_formats import ending_of
from voxweft.stores.url import records_at

STATES = (State.DONE, State.RUNNING, State.FAILED, State.STOPPED, State.LOST, State.WAITING)


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part of the main stage and the last attempt at it: done, running, failed, stopped, lost or waiting."""

    name: str
    state: State
    n_units_done: int = 0
    n_units: int = 0
    worker: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run.

    Attributes
    ----------
    output
        Where the result lies.
    state
        Complete, running, failed (nobody is at work, and parts failed), stopped (nobody is at work, and parts were
        stopped or lost), or waiting (for somebody to go on with what is left).
    noun
        What is counted: "slabs", "blocks", "layers of patches", ...
    n_units, n_units_done
        Of the main stage, and complete.
    n_running
        Workers that are at work.
    units_per_s, voxels_per_s
        What those at work do together, judged by what was done so far; 0 where nobody is, or nothing is known.
    seconds_left
        Until the last of them, at that speed; None where it is not known.
    parts
        Parts that are known: all of I of N, or those of the last call with several workers.
    stages
        Of each stage the units that are complete, and all.
    at
        Unix time of this view, seconds.
    n_patches_running
        Patches that those at work have done.
    """

    output: str
    state: State
    noun: str
    n_units: int
    n_units_done: int
    n_running: int
    units_per_s: float
    voxels_per_s: float
    seconds_left: float | None
    parts: tuple[PartStatus, ...]
    stages: Mapping[str, tuple[int, int]]
    at: float
    n_patches_running: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def n_parts(self, state: State) -> int:
        """How many parts are in a state."""
        return sum(part.state == state for part in self.parts)


def status(output: str | Path) -> Status:
    """The state of a run, wherever it runs: OUTPUT of a run, or a folder of patches.

    Raises
    ------
    RequestError
        If no run was begun there.

    Examples
    --------
    >>> import tempfile, numpy as np, voxweft
    >>> image = np.random.default_rng(0).random((20, 20, 20))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = voxweft.run(image, f"{folder}/o.zarr", "fake://null?patch=16,16,16")
    ...     found = status(f"{folder}/o.zarr")
    >>> found.state, found.n_units_done
    ('complete', 1)
    """
    output = str(output)
    plan, ledger = _planned(output)
    stage, report, attempts = plan.main, ledger.report(), attempts_in(ledger)
    done = {one.name: ledger.done(one.name) for one in plan.stages}
    own = [_as_divided(a, ledger) for a in attempts if a.stage == stage.name]
    parts = _parts(stage, own, done[stage.name])
    at_work = any(a.state == State.RUNNING for a in attempts)
    if report.get("status") == State.FAILED and not at_work:
        parts = _failed(parts, report.get("failures", {}))
    later = {  # of the stages after the main one, each part by its last attempt
        tries[-1].state
        for one in plan.stages
        if one != stage and len(done[one.name]) < one.n_units
        for tries in _by_part([a for a in attempts if a.stage == one.name]).values()
    }
    speed, n_done = _speed(stage, own), len(done[stage.name])
    begun = sum(_n_units(stage, a) - a.n_units for a in own if a.state == State.RUNNING)
    whole = n_done == stage.n_units and (bool(stage.pieces()) or report.get("status") == State.COMPLETE)
    voxels = 0.0 if stage.kind == "gather" or stage.pieces() else stage.region.n_voxels / max(1, stage.n_units)
    return Status(
        output=output,
        state=State.COMPLETE if whole else _state_of({p.state for p in parts} | later, at_work),
        noun=stage.noun,
        n_units=stage.n_units,
        n_units_done=n_done,
        n_running=sum(a.state == State.RUNNING for a in attempts),
        units_per_s=round(speed, 6),
        voxels_per_s=round(speed * voxels, 1),
        seconds_left=round(max(0.0, stage.n_units - n_done - begun) / speed, 1) if speed > 0 else None,
        n_patches_running=sum(a.n_patches for a in own if a.state == State.RUNNING),
        parts=tuple(parts),
        stages={one.name: (len(done[one.name]), one.n_units) for one in plan.stages},
        at=time.time(),
    )


def _planned(output: str) -> tuple[Plan, Ledger]:
    ledger = Ledger(records_at(records_of(output)))
    if stored := ledger.plan():
        return Plan.from_json(stored), ledger
    if output.rstrip("/").endswith(".zarr") or ending_of(output):
        return plan_of(open_sink(output))
    raise RequestError(f"{output!r} is no output of a run; give its OME-Zarr (*.zarr), or a folder of voxweft predict")


def _as_divided(attempt: Attempt, ledger: Ledger) -> Attempt:
    """The attempt with the units that are left to it, where a worker with nothing to do was given the others."""
    if attempt.count:
        return attempt
    start, stop = attempt.units
    end = ledger.end_of(Part(attempt.stage, attempt.index, 0, range(start, stop), attempt.call).key)
    return attempt if end is None else replace(attempt, units=(start, min(stop, end)))


def _failed(parts: Sequence[PartStatus], failures: Mapping[str, str]) -> list[PartStatus]:
    """The parts, those failed that the report of the run calls so."""
    reasons = {f"part {n}": reason for n, reason in failures.items()}
    return [
        replace(p, state=State.FAILED, error=reasons[p.name]) if p.name in reasons and p.state != State.DONE else p
        for p in parts
    ]


def _speed(stage: Stage, attempts: Sequence[Attempt]) -> float:
    """Units a second of those that are at work, judged by all attempts."""
    seconds = sum(a.beat - a.began for a in attempts if a.n_units or a.n_patches)
    n_running = sum(a.state == State.RUNNING for a in attempts)
    return n_running * sum(_n_units(stage, a) for a in attempts) / seconds if seconds > 0 else 0.0


def _n_units(stage: Stage, one: Attempt) -> float:
    """Units that an attempt finished, and its share of those that it is at work on, by their patches."""
    n_patches = stage.cost(range(*one.units)) if isinstance(stage, Sweep) and one.n_patches and not stage.sparse else 0
    whole = one.units[1] - one.units[0]
    return max(one.n_units, min(whole, whole * one.n_patches / n_patches)) if n_patches else one.n_units


def _state_of(states: set[State], at_work: bool) -> State:
    """The state of a run that is not complete, from those of its parts."""
    if at_work:
        return State.RUNNING
    if State.FAILED in states:
        return State.FAILED
    return State.STOPPED if states & {State.STOPPED, State.LOST} else State.WAITING


def _parts(stage: Stage, attempts: Sequence[Attempt], done: set[int]) -> list[PartStatus]:
    """Parts 0 to N - 1, those that nobody has begun included; or those of the last call that numbers its own."""
    last = [a for a in attempts if (a.call, a.count) == (attempts[-1].call, attempts[-1].count)]
    count = len(stage.pieces()) or (last[-1].count if last else 0)
    tried = _by_part(attempts if stage.pieces() else last)
    if not count:
        return [_part(tries, done.intersection(range(*tries[-1].units)), tries[-1].units) for tries in tried.values()]
    parts = []
    for i in range(count):
        units = stage.share(i, count)
        there = done.intersection(units)
        if tries := tried.get((stage.name, "", i, count)):
            parts.append(_part(tries, there, (units.start, units.stop)))
        else:
            state = State.DONE if len(there) == len(units) else State.WAITING
            parts.append(PartStatus(f"part {i} of {count}", state, len(there), len(units)))
    return parts


def _by_part(attempts: Sequence[Attempt]) -> dict[tuple[str, str, int, int], list[Attempt]]:
    parts: dict[tuple[str, str, int, int], list[Attempt]] = {}
    for one in sorted(attempts, key=lambda a: (a.part, a.began)):
        parts.setdefault(one.part, []).append(one)
    return parts


def _part(attempts: Sequence[Attempt], done: set[int], units: tuple[int, int]) -> PartStatus:
    """The last attempt decides, unless another one is still at work, or everything is there."""
    last, n_units = next((a for a in attempts if a.state == State.RUNNING), attempts[-1]), units[1] - units[0]
    state = State.DONE if len(done) == n_units or last.state == State.DONE else last.state
    return PartStatus(last.name, state, len(done), n_units, last.worker, last.error if state == State.FAILED else "")
