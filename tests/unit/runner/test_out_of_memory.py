"""A device without memory left: half the batch, then half the column; and a line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import voxweft
from voxweft.backends.runtime import TorchModel
from voxweft.engine.events import Event
from voxweft.engine.weave import Weaver
from voxweft.errors import RunError

OPTIONS = voxweft.RunOptions(batch_size=8, chunk="16,16,16", runtime="torch", device="cpu", pyramid=False)


@pytest.fixture
def image(tmp_path: Path) -> str:
    voxels = np.random.default_rng(0).integers(0, 255, (48, 32, 80), np.uint8)
    zarr.create_array(str(tmp_path / "in.zarr"), shape=voxels.shape, chunks=(16, 16, 16), dtype="uint8")[:] = voxels
    return str(tmp_path / "in.zarr")


@pytest.fixture
def small(monkeypatch: Any) -> dict[str, Any]:
    """A device for so many patches and voxels of a column, from a number of calls on."""
    limits: dict[str, Any] = {"batch": 2, "column": 1 << 20, "after": 0, "calls": 0}
    real, weaver = TorchModel.open, Weaver.__init__

    def opened(self: TorchModel, setting: Any) -> Any:
        predictor = real(self, setting)

        def call(batch: torch.Tensor) -> torch.Tensor:
            limits["calls"] += 1
            if len(batch) > limits["batch"] and limits["calls"] > limits["after"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return predictor(batch)

        return call

    def made(self: Weaver, sweep: Any, area: Any, *more: Any) -> None:
        if area.shape[1] * area.shape[2] > limits["column"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        weaver(self, sweep, area, *more)

    monkeypatch.setattr(TorchModel, "open", opened)
    monkeypatch.setattr(Weaver, "__init__", made)
    return limits


def run(image: str, output: Path, **options: Any) -> tuple[np.ndarray, list[Event]]:
    events: list[Event] = []
    report = voxweft.run(image, str(output), "fake://blur?patch=16,16,16", OPTIONS, emit=events.append, **options)
    assert report.status == "complete"
    return np.asarray(zarr.open_array(f"{output}/0", mode="r")[:]), events


def test_the_batch_is_halved_and_the_plan_says_so(image: str, small: Any, tmp_path: Path) -> None:
    found, events = run(image, tmp_path / "out.zarr")
    told = [event.text for event in events if event.kind == "warning"]
    assert [text.partition("; ")[2] for text in told] == [
        "the batch is now 4 instead of 8",
        "the batch is now 2 instead of 4",
    ]
    plan = json.loads((tmp_path / "out.zarr.voxweft/plan.json").read_text())
    assert plan["stages"][0]["passes"][0]["setting"]["batch_size"] == 2 and told[-1] in plan["notes"]
    small["batch"] = 8
    assert np.array_equal(found, run(image, tmp_path / "out.zarr")[0])  # followed, and complete


def test_then_the_column_is_halved(image: str, small: Any, tmp_path: Path) -> None:
    small.update(batch=8)
    wanted, _ = run(image, tmp_path / "whole.zarr")
    small.update(batch=1, column=32 * 64)
    found, events = run(image, tmp_path / "out.zarr")
    told = [event.text for event in events if event.kind == "warning"]
    assert "the batch is now 1 instead of 2" in told[2] and "columns are now" in told[3]
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_what_is_complete_is_kept_and_the_run_fails_with_advice(image: str, small: Any, tmp_path: Path) -> None:
    small.update(after=10)
    with pytest.raises(RunError, match=r"ran out of memory: CUDA out of memory.*\n.*--batch-size.*--overwrite"):
        run(image, tmp_path / "out.zarr")
    assert any((tmp_path / "out.zarr.voxweft/done").rglob("*.json"))
    small.update(after=1000)  # others freed theirs
    assert run(image, tmp_path / "out.zarr")[0].any()


def test_nothing_left_to_halve(image: str, small: Any, tmp_path: Path) -> None:
    small.update(batch=0)
    with pytest.raises(RunError, match="ran out of memory"):
        run(image, tmp_path / "out.zarr")
