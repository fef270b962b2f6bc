"""Many items, one job: all parts of all items share the workers, and every worker keeps what it has opened.

items  ->  tasks (item, part), the costly ones first  ->  whoever is free takes the next
           batch ledger: items/<name>.json, outcomes.csv
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from voxweft.backends import reload
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.part import State
from voxweft.engine.report import Report
from voxweft.errors import RunError
from voxweft.image.protocols import Records
from voxweft.launch import run_parts, worker_number
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import ModelRef
from voxweft.runner.workers import Workers

Work = Callable[[Any, tuple[int, int], Workers], Report]
"""``work(item, (number of parts, part), workers)``: does one part of an item where it is called, and continues what an
earlier call of it left. A function of a module, so that it can be sent to other processes; so must be the item."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item.

    Attributes
    ----------
    item
        As it was given.
    report
        Of the part of it that ended last; None where none did, or where an earlier batch completed it.
    errors
        Of its parts.
    seconds
        From the beginning of its first part to the end of its last, wall clock.
    """

    item: Any
    report: Report | None = None
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The item in words: a pair of input and output by its input."""
        return str(self.item[0] if isinstance(self.item, tuple) and self.item else self.item)

    @property
    def state(self) -> State:
        """Failed, or what its last report says."""
        if self.errors:
            return State.FAILED
        return self.report.status if self.report else State.COMPLETE


class ItemsError(RunError):
    """Some items failed; ``outcomes`` holds all, the others are complete."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = [o for o in outcomes if o.errors]
        reasons = "; ".join(f"{o.name}: {o.errors[0].splitlines()[0]}" for o in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(
            f"{len(failed)} of {len(outcomes)} items failed: {reasons}{more}.\n"
            "The others are complete. Run the same again for those that are not."
        )
        self.outcomes = outcomes


class BatchLedger:
    """Which items of a batch are complete, and what became of the others.

        items/5e0c….json    an item: its name, state, error, seconds
        outcomes.csv        all of them as a table

    An item that is complete is left alone by the next batch with the same ``request``, unless that starts ``fresh``.
    """

    def __init__(self, records: Records, request: str = "", *, fresh: bool = False) -> None:
        self._records, self._request, self._fresh = records, request, fresh

    def done(self, items: Iterable[Any]) -> set[int]:
        """The places of the items that are complete; none in a fresh start."""
        return (
            set()
            if self._fresh
            else {n for n, item in enumerate(items) if self._stored(item).get("state") == State.COMPLETE}
        )

    def put(self, outcome: Outcome) -> None:
        """Store what became of an item."""
        record = {
            "item": outcome.name,
            "state": outcome.state,
            "error": outcome.errors[0].splitlines()[0] if outcome.errors else "",
            "seconds": round(outcome.seconds, 3),
        }
        self._records.put(self._key(outcome.item), json.dumps(record).encode())

    def put_table(self, items: Iterable[Any]) -> None:
        """Write ``outcomes.csv``: a line an item, in their order."""
        text = io.StringIO()
        table = csv.DictWriter(text, ("item", "state", "error", "seconds"), lineterminator="\n")
        table.writeheader()
        table.writerows(self._stored(item) or {"item": Outcome(item).name, "state": State.WAITING} for item in items)
        self._records.put("outcomes.csv", text.getvalue().encode())

    def _stored(self, item: Any) -> dict[str, Any]:
        return dict(json.loads(self._records.get(self._key(item)) or b"{}"))

    def _key(self, item: Any) -> str:
        return f"items/{hashlib.sha256(f'{self._request} {item}'.encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True, slots=True)
class ItemTask:
    """One part of one item, for a worker."""

    n: int
    item: Any
    share: tuple[int, int]
    work: Work
    workers: Workers

    def __call__(self) -> tuple[Report, float]:
        """Do it; its report, and when it began (Unix time, seconds)."""
        devices, began = self.workers.devices, time.time()
        own = replace(self.workers, devices=(devices[worker_number() % len(devices)],))
        return self.work(self.item, self.share, own), began


@functools.lru_cache(maxsize=1)
def loaded_once(refs: tuple[ModelRef, ...]) -> tuple[list[Model], dict[Any, Predictor]]:
    """The models of a batch, loaded once in a process for all its items, and where their networks are kept."""
    return [reload(ref) for ref in refs], {}


def settled(records: Records, key: str, decide: Callable[[], Sequence[ForwardSetting]]) -> tuple[ForwardSetting, ...]:
    """How each network of a batch is run: decided once, and kept; what somebody else decided meanwhile counts."""
    stored = records.get(key)
    if stored is None:
        if not (decided := decide()):
            return ()
        records.create(key, json.dumps([asdict(one) for one in decided]).encode())
        stored = records.get(key) or b"[]"
    return tuple(ForwardSetting(**{**one, "patch_zyx": tuple(one["patch_zyx"])}) for one in json.loads(stored))


def for_each(
    items: Sequence[Any],
    work: Work,
    workers: Workers,
    *,
    num_parts: int = 0,
    cost: Callable[[Any], float] = lambda _item: 0.0,
    ledger: BatchLedger | None = None,
    emit: Emit = silent,
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
    cost
        What an item costs, relative to others; the costliest are begun first.
    ledger
        Keeps what became of items; those that it calls complete are left alone.
    emit
        Told of the parts that are done, and of items that fail.

    Raises
    ------
    ItemsError
        If items failed, after all others are done.
    """
    count = num_parts or max(1, -(-workers.n // max(1, len(items))))
    alone = Workers("serial", 1, workers.n_sharing, workers.devices)
    complete = ledger.done(items) if ledger else set()
    order = sorted((n for n in range(len(items)) if n not in complete), key=lambda n: -cost(items[n]))
    tasks = [ItemTask(n, items[n], (count, i), work, alone) for n in order for i in range(count)]
    outcomes, left = [Outcome(item) for item in items], dict.fromkeys(order, count)
    emit(Event("begin", data={"n_units": len(tasks), "n_done": 0, "noun": "parts of items"}))
    with workers.open() as (executor, at_once):
        for n_done, (task, result) in enumerate(run_parts(executor, ItemTask.__call__, tasks, at_once), start=1):
            n = task.n
            outcomes[n], left[n] = _with_result(outcomes[n], result), left[n] - 1
            if isinstance(result, Exception):
                emit(Event("warning", f"{outcomes[n].name}: {result}"))
            if ledger and not left[n]:
                ledger.put(outcomes[n])
            emit(Event("progress", "parts of items", {"n_done": n_done, "n_units": len(tasks)}))
    if ledger:
        ledger.put_table(items)
    if any(o.errors for o in outcomes):
        raise ItemsError(outcomes)
    return outcomes


def _with_result(outcome: Outcome, result: tuple[Report, float] | Exception) -> Outcome:
    """An outcome after a further part has ended."""
    if isinstance(result, Exception):
        return replace(outcome, errors=(*outcome.errors, str(result) or type(result).__name__))
    report, began = result
    outcome = replace(outcome, seconds=max(outcome.seconds, time.time() - began))
    newer = outcome.report is None or outcome.report.n_units_done <= report.n_units_done
    return replace(outcome, report=report) if newer else outcome
