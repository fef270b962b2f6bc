"""Batches: one opened network for all items, a ledger, a table, the costliest first."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from voxweft.backends import load_model
from voxweft.engine.part import State
from voxweft.engine.report import Report
from voxweft.runner.batch import BatchLedger, ItemsError, for_each
from voxweft.runner.workers import Workers
from voxweft.stores.memory import MemoryRecords

SERIAL = Workers("serial", 1, 1, ("cpu",))
MODEL = "fake://blur?patch=16,16,16"


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    for n in range(3):
        values = np.random.default_rng(n).integers(0, 255, (20, 20, 20 + n), dtype=np.uint8)
        zarr.save_array(str(tmp_path / f"{n}.zarr"), values)
    return [(str(tmp_path / f"{n}.zarr"), str(tmp_path / f"{n}_out.zarr")) for n in range(3)]


def test_the_network_is_opened_once_for_all_items(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    kind = type(load_model(MODEL).model)
    before = kind.open
    monkeypatch.setattr(kind, "open", lambda self, setting: (opened.append(setting), before(self, setting))[1])
    options = voxweft.RunOptions(runtime="torch")
    done = voxweft.run_many(pairs, MODEL, options)
    assert [o.state for o in done] == ["complete"] * 3
    assert len(opened) <= 2  # to decide how it is run, and in the worker
    for source, output in pairs:
        alone = voxweft.open_sink("memory://")
        voxweft.run(source, alone, MODEL, options)
        box = voxweft.Box.of(alone.shape())
        assert np.array_equal(voxweft.open_volume(output).read(box), alone.read(box))


def test_what_a_ledger_calls_complete_is_left_alone(pairs: Any, tmp_path: Path) -> None:
    broken = [*pairs, (str(tmp_path / "absent.zarr"), str(tmp_path / "absent_out.zarr"))]
    for _ in range(2):
        with pytest.raises(ItemsError, match="1 of 4 items failed"):
            voxweft.run_many(broken, MODEL, records=str(tmp_path / "batch"))
    rows = [*csv.DictReader((tmp_path / "batch/outcomes.csv").read_text(encoding="utf-8").splitlines())]
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["failed"]
    assert "absent.zarr" in rows[3]["error"]
    again = voxweft.run_many(pairs, MODEL, records=str(tmp_path / "batch"))
    assert [o.report for o in again] == [None] * 3
    other = voxweft.RunOptions(output="mask", mode="binary")
    with pytest.raises(ItemsError, match="work of another plan"):
        voxweft.run_many(pairs, MODEL, other, records=str(tmp_path / "batch"))


def test_the_costliest_item_is_begun_first() -> None:
    begun = []

    def work(item: Any, _share: Any, _workers: Any) -> Any:
        begun.append(item)
        return Report("o", "", State.COMPLETE, 1, 1, {}, 0.0, 0)

    outcomes = for_each([3, 9, 5], work, SERIAL, cost=float, ledger=BatchLedger(MemoryRecords()))
    assert begun == [9, 5, 3]
    assert [o.item for o in outcomes] == [3, 9, 5]
