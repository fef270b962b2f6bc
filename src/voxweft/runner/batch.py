"""Many inputs, one job: each item is one or more parts, and all parts of all items share the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.report import Report
from voxweft.errors import RunError
from voxweft.launch import run_parts, worker_number
from voxweft.runner.workers import Workers

Work = Callable[[Any, tuple[int, int], Workers], Report]
"""``work(item, (number of parts, part), workers)``: does one part of an item where it is called, and continues what an
earlier call of it left. A function of a module, so that it can be sent to other processes; so must be the item."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: the report of the part of it that ended last, and the errors of its parts."""

    item: Any
    report: Report | None = None
    errors: tuple[str, ...] = ()


class ItemsError(RunError):
    """Some items failed; ``outcomes`` holds all, the others are complete."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = [o for o in outcomes if o.errors]
        reasons = "; ".join(f"{_name(o.item)}: {o.errors[0].splitlines()[0]}" for o in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(
            f"{len(failed)} of {len(outcomes)} items failed: {reasons}{more}.\n"
            "The others are complete. Run the same again for those that are not."
        )
        self.outcomes = outcomes


def _name(item: Any) -> str:
    """An item in words: a pair of input and output by its input."""
    return str(item[0] if isinstance(item, tuple) and item else item)


@dataclass(frozen=True, slots=True)
class ItemTask:
    """One part of one item, for a worker."""

    n: int
    item: Any
    share: tuple[int, int]
    work: Work
    workers: Workers

    def __call__(self) -> Report:
        """Do it."""
        devices = self.workers.devices
        own = replace(self.workers, devices=(devices[worker_number() % len(devices)],))
        return self.work(self.item, self.share, own)


def for_each(
    items: Sequence[Any], work: Work, workers: Workers, *, num_parts: int = 0, emit: Emit = silent
) -> list[Outcome]:
    """Do the same to every item; one that fails does not stop the others.

    Parameters
    ----------
    items, work
        What to work on; what does one part of one item.
    workers
        Who works.
    num_parts
        Parts of each item; 0: one, or more where there are fewer items than workers.
    emit
        Told of the parts that are done, and of items that fail.

    Raises
    ------
    ItemsError
        If items failed, after all others are done.
    """
    count = num_parts or max(1, -(-workers.n // max(1, len(items))))
    alone = Workers("serial", 1, workers.n_sharing, workers.devices)
    tasks = [ItemTask(n, item, (count, i), work, alone) for n, item in enumerate(items) for i in range(count)]
    outcomes, n_done = [Outcome(item) for item in items], 0
    emit(Event("begin", data={"n_units": len(tasks), "n_done": 0, "noun": "parts of items"}))
    with workers.open() as (executor, at_once):
        for task, result in run_parts(executor, ItemTask.__call__, tasks, at_once):
            n_done, one = n_done + 1, outcomes[task.n]
            if isinstance(result, Exception):
                outcomes[task.n] = replace(one, errors=(*one.errors, str(result) or type(result).__name__))
                emit(Event("warning", f"{_name(task.item)}: {result}"))
            elif one.report is None or one.report.n_units_done <= result.n_units_done:
                outcomes[task.n] = replace(one, report=result)
            emit(Event("progress", "parts of items", {"n_done": n_done, "n_units": len(tasks)}))
    if any(o.errors for o in outcomes):
        raise ItemsError(outcomes)
    return outcomes
