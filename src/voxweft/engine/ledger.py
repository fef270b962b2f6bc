"""Which slabs are complete: one record each, written after the slab's voxels are durable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from voxweft.errors import PlanMismatchError
from voxweft.geometry.columns import Run
from voxweft.image.protocols import Records

READ_AT_ONCE = 16  # records, since each may be a request
PLAN_KEY, REPORT_KEY = "plan.json", "report.json"


class Ledger:
    """The records of a run beside its output.

        plan.json                    who came first wrote it; all others follow it
        slabs/000003-000012.json     column 3, slab 12 is complete: crc32 of its bytes, patches, seconds, worker
        levels/2-000004.json         block 4 of resolution level 2 is complete
        predicted/3-000017.json      staged: the patches of layer 17 of part 3 are complete
        attempts/5e0c….json          somebody works, or worked, on a part (see voxweft.engine.attempts)
        cuts/5e0c…-3.json            part 3 of a run ends early: another worker has the rest
        parts/1-of-4.json            report of a part
        report.json                  report of the whole run

    A worker that is killed leaves a slab without a record; it is computed again.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def adopt_plan(self, data: bytes) -> bytes:
        """Store the plan, or get the one that somebody stored before; decided atomically."""
        if self._records.create(PLAN_KEY, data):
            return data
        stored = self._records.get(PLAN_KEY)
        if stored is None:
            raise PlanMismatchError("the stored plan was removed while this run began; run the command again")
        return stored

    def plan(self) -> bytes | None:
        """The stored plan, or None."""
        return self._records.get(PLAN_KEY)

    def mark_slab(self, column: int, slab: int, record: Mapping[str, Any]) -> None:
        """Declare a slab complete."""
        self._records.put(f"slabs/{column:06d}-{slab:06d}.json", json.dumps(record).encode())

    def slabs(self) -> set[tuple[int, int]]:
        """All complete (column, slab) pairs."""
        names = (key.removeprefix("slabs/").removesuffix(".json") for key in self._records.keys("slabs/"))
        return {(int(c), int(s)) for c, s in (name.split("-") for name in names)}

    def forget_slab(self, column: int, slab: int) -> None:
        """Strike a slab from the ledger, and with it all blocks of the resolution levels."""
        for key in self._records.keys("levels/"):
            self._records.remove(key)
        self._records.remove(f"slabs/{column:06d}-{slab:06d}.json")

    def slab_record(self, column: int, slab: int) -> dict[str, Any]:
        """What was recorded of a complete slab; empty where there is nothing."""
        return _load(self._records.get(f"slabs/{column:06d}-{slab:06d}.json"))

    def mark_block(self, level: int, block: int) -> None:
        """Declare a block of a resolution level complete."""
        self._records.put(f"levels/{level}-{block:06d}.json", b"{}")

    def blocks(self, level: int) -> set[int]:
        """Complete blocks of a level."""
        prefix = f"levels/{level}-"
        return {int(key.removeprefix(prefix).removesuffix(".json")) for key in self._records.keys(prefix)}

    def mark_layer(self, part: int, layer: int, skipped: Sequence[int]) -> None:
        """Declare the patches of a layer of a staged part complete; those that were skipped have no logits."""
        data = json.dumps({"skipped": list(skipped)}).encode()
        self._records.put(f"predicted/{part}-{layer:06d}.json", data)

    def skipped(self, part: int) -> set[int]:
        """Numbers of the patches of a staged part that were skipped."""
        keys = self._records.keys(f"predicted/{part}-")
        return {n for key in keys for n in _load(self._records.get(key)).get("skipped", ())}

    def forget_part(self, part: int, count: int) -> None:
        """Strike a staged part, so that it is predicted again."""
        for key in [f"parts/{part}-of-{count}.json", *self._records.keys(f"predicted/{part}-")]:
            self._records.remove(key)

    def layers(self, part: int) -> set[int]:
        """Complete layers of a staged part."""
        prefix = f"predicted/{part}-"
        return {int(key.removeprefix(prefix).removesuffix(".json")) for key in self._records.keys(prefix)}

    def put_attempt(self, key: str, record: Mapping[str, Any]) -> None:
        """Store the state of an attempt at a part."""
        self._records.put(f"attempts/{key}.json", json.dumps(record).encode())

    def attempts(self) -> list[dict[str, Any]]:
        """The states of all attempts."""
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            return [_load(data) for data in pool.map(self._records.get, self._records.keys("attempts/"))]

    def cut_part(self, key: str, unit: int) -> None:
        """Let a part that is being computed end before a unit."""
        self._records.put(f"cuts/{key}.json", json.dumps({"unit": unit}).encode())

    def cut_of(self, key: str) -> int | None:
        """Where a part ends early, if it does."""
        return _load(self._records.get(f"cuts/{key}.json")).get("unit")

    def put_report(self, name: str, report: Mapping[str, Any]) -> None:
        """Store a report."""
        self._records.put(name, json.dumps(report, indent=1).encode())

    def report(self, name: str = REPORT_KEY) -> dict[str, Any]:
        """A stored report; empty where there is none."""
        return _load(self._records.get(name))

    def part_reports(self) -> list[dict[str, Any]]:
        """The reports of all parts that ended."""
        return [_load(self._records.get(key)) for key in self._records.keys("parts/")]


def missing(runs: Iterable[Run], done: set[tuple[int, int]]) -> Iterator[Run]:
    """The runs without their complete slabs.

    >>> list(missing([Run(0, range(5))], {(0, 0), (0, 3)}))
    [Run(column=0, slabs=range(1, 3)), Run(column=0, slabs=range(4, 5))]
    """
    for run in runs:
        todo = [s for s in run.slabs if (run.column, s) not in done]
        while todo:
            n = next((i for i in range(1, len(todo)) if todo[i] != todo[0] + i), len(todo))
            yield Run(run.column, range(todo[0], todo[0] + n))
            todo = todo[n:]


def _load(data: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(data)) if data else {}
    except ValueError:  # a record that was damaged says nothing
        return {}
