"""Which units are complete: one record each, written after what the unit wrote is durable."""

from __future__ import annotations

import io
import json
import time
import uuid
import zlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.op import Table
from voxweft.errors import PlanMismatchError, RequestError, RunError
from voxweft.image.protocols import Records

BEAT_S = 10.0
READ_AT_ONCE = 16  # records, since each may be a request
ASKING_COSTS = 50  # times as long as it takes to ask whose an output is nobody asks again
HEAD = b'{"generation":"'
PLAN_KEY, REPORT_KEY = "plan.json", "report.json"


class Ledger:
    """The records of a plan beside its output.

        plan.json                    who came first wrote it; all others follow it
        done/sweep/000012.json       unit 12 of stage "sweep" is complete: crc32 of its bytes, patches, seconds, worker
        tables/objects/000003.npz    the table of unit 3 of stage "objects"
        attempts/5e0c….json          somebody works, or worked, on a part (see voxweft.engine.attempts)
        ends/5e0c…-3.json            part 3 of a run ends early: another worker has the rest
        checkpoints/sweep/000012…    what a slab has so far (see voxweft.engine.checkpoint)
        parts/1-of-4.json            report of a part
        report.json                  report of the whole run

    A worker that is killed leaves a unit without a record; it is computed again.

    Who overwrites an output removes plan.json first and stores one of another generation: whoever still works for the
    earlier generation is refused at its next unit.

    Parameters
    ----------
    records
        Where they lie.
    generation
        That of the plan that is followed; "" for one who only looks.
    """

    def __init__(self, records: Records, generation: str = "") -> None:
        self._records, self.generation = records, generation
        self._asked_at, self._asking_s = 0.0, 0.0

    @property
    def beat_s(self) -> float:
        """Seconds between signs of life: as often as a person looks where a record is a file, else as is cheap."""
        return float(getattr(self._records, "beat_s", BEAT_S))

    def store_or_follow(self, plan: bytes) -> tuple[bytes, bool]:
        """Store the plan, or get the one that somebody stored before, and whether it was stored now.

        Decided atomically; from then on this ledger belongs to the generation of the plan.
        """
        mine = f"{uuid.uuid4().hex}{zlib.crc32(plan):08x}"
        if self._records.create(PLAN_KEY, HEAD + mine.encode() + b'",' + plan[1:]):
            self.generation = mine
            return plan, True
        stored, self.generation = parted(self._records.get(PLAN_KEY))
        if stored is None:
            raise PlanMismatchError("the stored plan was removed while this run began; run the command again")
        return stored, False

    def require_mine(self) -> None:
        """Refuse to go on where another run has taken the output.

        Raises
        ------
        RunError
            If the stored plan is of another generation, or gone.
        """
        if self.generation and parted(self._records.get(PLAN_KEY))[1] != self.generation:
            raise RunError("another run has taken this output (--overwrite), or its records were removed")

    def require_mine_still(self) -> None:
        """The same before each file that is written; not asked again so soon that asking would cost much."""
        now = time.monotonic()
        if now - self._asked_at > ASKING_COSTS * self._asking_s:
            self.require_mine()
            self._asked_at, self._asking_s = now, time.monotonic() - now

    def plan(self) -> bytes | None:
        """The stored plan, or None."""
        return parted(self._records.get(PLAN_KEY))[0]

    def mark(self, stage: str, unit: int, record: Mapping[str, Any]) -> None:
        """Declare a unit complete."""
        self.require_mine()
        checked = {**record, "check": _check(record)}
        self._records.put(_key("done", stage, unit), json.dumps(checked).encode())

    def done(self, stage: str) -> set[int]:
        """The complete units of a stage."""
        prefix = f"done/{stage}/"
        return {int(key.removeprefix(prefix).removesuffix(".json")) for key in self._records.keys(prefix)}

    def record(self, stage: str, unit: int) -> dict[str, Any]:
        """What was recorded of a complete unit; empty where there is nothing, or the record was damaged."""
        found = _load(self._records.get(_key("done", stage, unit)))
        return found if found.pop("check", None) == _check(found) else {}

    def records(self, stage: str) -> dict[int, dict[str, Any]]:
        """What was recorded of all complete units of a stage."""
        units = sorted(self.done(stage))
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            return dict(zip(units, pool.map(lambda unit: self.record(stage, unit), units), strict=True))

    def forget(self, stage: str, unit: int) -> None:
        """Strike a unit, so that it is computed again."""
        self._records.remove(_key("done", stage, unit))

    def put_table(self, stage: str, unit: int, table: Table) -> None:
        """Store the table of a unit."""
        data = io.BytesIO()
        np.savez_compressed(data, **dict(table))  # type: ignore[arg-type]  # the names are the arrays'
        self._records.put(f"tables/{stage}/{unit:06d}.npz", data.getvalue())

    def table(self, stage: str, unit: int) -> dict[str, NDArray[Any]]:
        """The table of a unit; empty where it has none."""
        data = self._records.get(f"tables/{stage}/{unit:06d}.npz")
        if data is None:
            return {}
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return dict(stored.items())

    def put_attempt(self, key: str, record: Mapping[str, Any]) -> None:
        """Store the state of an attempt at a part."""
        self._records.put(f"attempts/{key}.json", json.dumps(record).encode())

    def attempts(self, known: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """The states of all attempts by their keys, but for those that are known."""
        keys = [key for key in self._records.keys("attempts/") if key not in known]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            return dict(zip(keys, map(_load, pool.map(self._records.get, keys)), strict=True))

    def end_early(self, part: str, unit: int) -> None:
        """Let a part that is being computed end before a unit."""
        self._records.put(f"ends/{part}.json", json.dumps({"unit": unit}).encode())

    def end_of(self, part: str) -> int | None:
        """The unit before which a part ends early, if it does."""
        return _load(self._records.get(f"ends/{part}.json")).get("unit")

    def put_checkpoint(self, key: str, data: bytes) -> None:
        """Store what a unit has so far, or a piece of it."""
        self._records.put(f"checkpoints/{key}", data)

    def checkpoint(self, key: str) -> bytes | None:
        """The same, if it is there."""
        return self._records.get(f"checkpoints/{key}")

    def begun(self, stage: str) -> set[int]:
        """The units of a stage of which something is kept."""
        names = (key.rpartition("/")[2] for key in self._records.keys(f"checkpoints/{stage}/"))
        return {int(name) for name in names if len(name) == 6 and name.isdecimal()}

    def forget_checkpoint(self, *keys: str) -> None:
        """Remove such records."""
        for key in keys:
            self._records.remove(f"checkpoints/{key}")

    def forget_checkpoints(self, stage: str) -> None:
        """Remove all that is kept of the units of a stage that is complete."""
        for key in self._records.keys(f"checkpoints/{stage}/"):
            self._records.remove(key)

    def put_report(self, name: str, report: Mapping[str, Any]) -> None:
        """Store a report."""
        self._records.put(name, json.dumps(report, indent=1).encode())

    def report(self, name: str = REPORT_KEY) -> dict[str, Any]:
        """A stored report; empty where there is none."""
        return _load(self._records.get(name))

    def forget_report(self, name: str) -> None:
        """Remove a report."""
        self._records.remove(name)

    def part_reports(self) -> list[dict[str, Any]]:
        """The reports of all parts that ended."""
        return [_load(self._records.get(key)) for key in self._records.keys("parts/")]


def parted(stored: bytes | None) -> tuple[bytes | None, str]:
    """A stored plan and its generation, which ends in the crc32 of the plan.

    Raises
    ------
    RequestError
        If the plan is not as it was stored.

    Examples
    --------
    >>> parted(b'{"generation":"7f","request":{}}')
    (b'{"request":{}}', '7f')
    >>> parted(b'{"generation":"' + b"7" * 32 + b'00000000","request":{}}')
    Traceback (most recent call last):
    voxweft.errors.RequestError: the plan of this output was damaged after it was stored; give --overwrite to begin anew
    """
    if stored is None or not stored.startswith(HEAD):
        return stored, ""
    generation, _, rest = stored.removeprefix(HEAD).partition(b'",')
    plan, check = b"{" + rest, generation[32:]
    if check and check != b"%08x" % zlib.crc32(plan):
        raise RequestError("the plan of this output was damaged after it was stored; give --overwrite to begin anew")
    return plan, generation.decode("ascii", "replace")


def _key(kind: str, stage: str, unit: int) -> str:
    return f"{kind}/{stage}/{unit:06d}.json"


def _check(record: Mapping[str, Any]) -> int:
    """crc32 of a record, so that a damaged one is not believed."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _load(data: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(data)) if data else {}
    except ValueError:  # a record that was damaged says nothing
        return {}
