"""One view of a run, from its ledger alone: what is done, who is at work, what failed, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from voxweft.apps.execute import COMPLETE, plan_of
from voxweft.apps.stored import records_of
from voxweft.engine.attempts import DONE, FAILED, LOST, RUNNING, STOPPED, Attempt, attempts_in
from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import Plan
from voxweft.engine.staged import tiles_of_part
from voxweft.errors import RequestError
from voxweft.stores import open_sink
from voxweft.stores.url import records_at

WAITING = "waiting"
STATES = (DONE, RUNNING, FAILED, STOPPED, LOST, WAITING)


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part and the last attempt at it; ``state`` is done, running, failed, stopped, lost or waiting."""

    name: str
    state: str
    n_slabs_done: int = 0
    n_slabs: int = 0
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
        "complete", "running", "failed" (nobody is at work, and parts failed), "stopped" (nobody is at work, and parts
        were stopped or lost), or "waiting" (for somebody to go on with what is left).
    unit
        What is counted: "slabs", or for a folder of logits "layers of patches".
    n_slabs, n_slabs_done
        Of the whole run, and complete.
    n_running
        Workers that are at work.
    slabs_per_s, voxels_per_s
        What those at work do together, judged by what was done so far; 0 where nobody is, or nothing is known.
    seconds_left
        Until the last slab, at that speed; None where it is not known.
    parts
        Parts that are known: all of I of N, or those of the last call with several workers.
    at
        Unix time of this view, seconds.
    """

    output: str
    state: str
    unit: str
    n_slabs: int
    n_slabs_done: int
    n_running: int
    slabs_per_s: float
    voxels_per_s: float
    seconds_left: float | None
    parts: tuple[PartStatus, ...]
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def n_parts(self, state: str) -> int:
        """How many parts are in a state."""
        return sum(part.state == state for part in self.parts)


def status(output: str | Path) -> Status:
    """The state of a run, wherever it runs: OUTPUT of a run, or a folder of logits.

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
    >>> found.state, found.n_slabs_done
    ('complete', 1)
    """
    output = str(output)
    ledger = Ledger(records_at(records_of(output)))
    if stored := ledger.plan():
        return _of_logits(output, Plan.from_json(stored), ledger)
    if not output.rstrip("/").endswith(".zarr"):
        raise RequestError(
            f"{output!r} is no output of a run; give its OME-Zarr (*.zarr), or a folder of voxweft predict"
        )
    plan, ledger = plan_of(open_sink(output))
    columns, report = plan.columns, ledger.report()
    done = {columns.unit(*slab) for slab in ledger.slabs()}
    attempts = attempts_in(ledger)
    last = _of_last_call([a for a in attempts if a.index >= 0])
    if last and (count := last[-1].count):
        units = [columns.units(i, count) for i in range(count)]
        parts = _all_parts(last, [len(u) for u in units], [len(done.intersection(u)) for u in units])
    else:
        given = ((mine, range(*mine[-1].units)) for mine in _by_part(last).values())
        parts = [_part(mine, len(done.intersection(units)), len(units)) for mine, units in given]
    if report.get("status") == FAILED and not any(a.state == RUNNING for a in attempts):
        reasons = {f"part {n}": reason for n, reason in report.get("failures", {}).items()}
        known = [p.name in reasons and p.state != DONE for p in parts]
        parts = [replace(p, state=FAILED, error=reasons[p.name]) if k else p for p, k in zip(parts, known, strict=True)]
    complete = len(done) == columns.n_units and report.get("status") == COMPLETE
    counts = (columns.n_units, len(done), plan.region.n_voxels / columns.n_units)
    return _status(output, "slabs", counts, attempts, parts, complete)


def _of_logits(folder: str, plan: Plan, ledger: Ledger) -> Status:
    """The state of ``voxweft predict`` in a folder."""
    count = int(plan.request.get("num_parts", 1))
    sizes = [sum(len(layers) for layers in tiles_of_part(plan, i, count)) for i in range(count)]
    done = [len(ledger.layers(i)) for i in range(count)]
    attempts = attempts_in(ledger)
    parts, counts = _all_parts(attempts, sizes, done), (sum(sizes), sum(done), 0.0)
    return _status(folder, "layers of patches", counts, attempts, parts, sum(done) == sum(sizes))


def _all_parts(attempts: Sequence[Attempt], sizes: Sequence[int], done: Sequence[int]) -> list[PartStatus]:
    """Parts 0 to N - 1, those that nobody has begun included."""
    tried, parts = _by_part(attempts), []
    for i, (size, n_done) in enumerate(zip(sizes, done, strict=True)):
        if mine := tried.get(("", i, len(sizes))):
            parts.append(_part(mine, n_done, size))
        else:
            parts.append(PartStatus(f"part {i} of {len(sizes)}", DONE if n_done == size else WAITING, n_done, size))
    return parts


def _of_last_call(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that number their parts as the last one does."""
    return [a for a in attempts if (a.call, a.count) == (attempts[-1].call, attempts[-1].count)]


def _by_part(attempts: Sequence[Attempt]) -> dict[tuple[str, int, int], list[Attempt]]:
    parts: dict[tuple[str, int, int], list[Attempt]] = {}
    for one in sorted(attempts, key=lambda a: (a.part, a.began)):
        parts.setdefault(one.part, []).append(one)
    return parts


def _part(attempts: Sequence[Attempt], n_done: int, n_slabs: int) -> PartStatus:
    """The last attempt decides, unless another one is still at work, or everything is there."""
    last = next((a for a in attempts if a.state == RUNNING), attempts[-1])
    state = DONE if n_done == n_slabs or last.state == DONE else last.state
    return PartStatus(last.name, state, n_done, n_slabs, last.worker, last.error if state == FAILED else "")


def _status(
    output: str,
    unit: str,
    counts: tuple[int, int, float],
    attempts: Sequence[Attempt],
    parts: Sequence[PartStatus],
    complete: bool,
) -> Status:
    n_slabs, n_done, voxels_a_slab = counts
    running = [a for a in attempts if a.state == RUNNING]
    seconds = sum(a.beat - a.began for a in attempts if a.n_slabs)
    speed = len(running) * sum(a.n_slabs for a in attempts) / seconds if seconds > 0 else 0.0
    states = {p.state for p in parts}
    if complete:
        state = COMPLETE
    elif running:
        state = RUNNING
    elif FAILED in states:
        state = FAILED
    else:
        state = STOPPED if states & {STOPPED, LOST} else WAITING
    return Status(
        output=output,
        state=state,
        unit=unit,
        n_slabs=n_slabs,
        n_slabs_done=n_done,
        n_running=len(running),
        slabs_per_s=round(speed, 6),
        voxels_per_s=round(speed * voxels_a_slab, 1),
        seconds_left=round((n_slabs - n_done) / speed, 1) if speed > 0 else None,
        parts=tuple(parts),
        at=time.time(),
    )
