"""The gate: which candidate is taken, by what it changes and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxweft import RunOptions
from voxweft.engine.calibrate import Choice, Question, choose_setting
from voxweft.engine.samples import CALIBRATING, JUDGED, Samples, spread
from voxweft.errors import ModelError
from voxweft.geometry.box import Box
from voxweft.model import ForwardSetting, ModelCard, Normalization
from voxweft.stores.memory import MemoryVolume

PATCH = (8, 8, 8)
CARD = ModelCard("m", "test", "digest", PATCH, n_classes=1, activation="sigmoid")


@dataclass
class Model:
    """Gives its input as logits, a little off and after a while, as told for each runtime or precision."""

    off: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    precision: tuple[str, ...] = ("fp32", "bf16", "int8")
    card: ModelCard = CARD
    opened: list[ForwardSetting] = field(default_factory=list)

    def runtimes(self, device: str) -> tuple[str, ...]:
        return ("torch", "openvino")

    def precisions(self, device: str) -> tuple[str, ...]:
        return self.precision

    def open(self, setting: ForwardSetting) -> Any:
        self.opened.append(setting)
        kind = setting.precision if setting.precision != "fp32" else setting.runtime

        def forward(batch: torch.Tensor) -> torch.Tensor:
            time.sleep(self.seconds.get(kind, 0.01))
            return batch + self.off.get(kind, 0.0)

        return forward

    def quantized(self, setting: ForwardSetting, samples: Sequence[torch.Tensor]) -> bytes:
        return b"".join(sample.numpy().tobytes() for sample in samples)

    def open_network(self, setting: ForwardSetting, network: bytes) -> Any:
        assert network
        return self.open(setting)


def _volume() -> MemoryVolume:
    values = np.random.default_rng(0).normal(0, 3, (1, 40, 40, 40)).astype(np.float32)
    values[:, :16, :16, :16] = 0
    return MemoryVolume(values, chunk_zyx=(8, 8, 8))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXWEFT_CACHE", str(tmp_path))


def _ask(model: Model, n_patches: int = 100_000, identity: str = "volume", **options: Any) -> Choice:
    samples = Samples(_volume(), Box.of((40, 40, 40)), PATCH, (Normalization("none"),), "cpu", identity)
    return choose_setting(Question(model, samples, RunOptions(**options), "cpu", n_patches))


FAST = {"torch": 0.02, "openvino": 0.01, "bf16": 0.005, "int8": 0.003}


@pytest.mark.parametrize(
    ("off", "tolerance", "taken"),
    [
        ({"bf16": 0.001}, 0.001, ("openvino", "bf16")),  # 0.01 % of voxels lie within 0.001 of the threshold
        ({"bf16": 0.5}, 0.001, ("openvino", "fp32")),
        ({"bf16": 0.001}, 0.0, ("openvino", "fp32")),
        ({"bf16": 0.5, "openvino": 0.01}, 0.001, ("torch", "fp32")),
        ({"bf16": 0.001, "int8": 0.01}, 0.002, ("openvino", "bf16")),
        ({"bf16": 0.001, "int8": 0.01}, 0.01, ("openvino", "int8")),
        ({"bf16": 0.001, "int8": 0.1}, 0.5, ("openvino", "bf16")),  # Dice is below 0.99
    ],
)
def test_a_candidate_is_taken_for_what_it_changes(off: dict[str, float], tolerance: float, taken: Any) -> None:
    choice = _ask(Model(off, FAST), tolerance=tolerance)
    assert (choice.setting.runtime, choice.setting.precision) == taken
    assert bool(choice.network) == (taken[1] == "int8")
    refused = [t for t in choice.trials if t["remark"]]
    assert all("more than" in t["remark"] or "Dice" in t["remark"] for t in refused)


def test_a_short_job_compares_nothing_and_what_is_known_is_not_measured_again() -> None:
    model = Model({}, FAST)
    assert _ask(model, n_patches=3).setting.runtime == "torch"
    assert len(model.opened) == 1
    first = _ask(model)
    model.opened.clear()
    again = _ask(model, n_patches=10_000)
    assert replace(again.setting, n_threads=1) == replace(first.setting, n_threads=1)
    assert {s.precision for s in model.opened} <= {"fp32", "bf16"} and len(model.opened) <= 3
    model.opened.clear()
    _ask(model, n_patches=10_000, identity="another volume")
    assert any(s.precision == "fp32" for s in model.opened)  # what bf16 changes was asked of another volume


def test_what_is_asked_for_by_name_and_cannot_be_had_is_refused() -> None:
    with pytest.raises(ModelError, match="bf16"):
        _ask(Model(precision=("fp32",)), precision="bf16")
    with pytest.raises(ModelError, match=r"Dice of class 1 with fp32 is 0\.\d+, below"):
        _ask(Model({"int8": 0.3}, FAST), precision="int8")
    assert _ask(Model({"int8": 0.3}, FAST), precision="int8", tolerance=1.0).setting.network


def test_no_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxweft.processor.features", lambda: frozenset({"avx2"}))
    with pytest.raises(ModelError, match="no instructions for bf16"):
        _ask(Model(precision=("fp32",)), precision="bf16")


def test_samples_lie_all_over_and_hold_something() -> None:
    boxes = [box for box, _ in zip(spread(Box.of((40, 40, 40)), PATCH), range(40), strict=False)]
    starts = np.array([box.start for box in boxes])
    assert starts.min() == 0 and starts.max() == 32
    assert all(len(np.unique(starts[:, axis])) > 20 for axis in range(3))
    samples = Samples(_volume(), Box.of((40, 40, 40)), PATCH, (Normalization("none"),))
    judged, others = samples.judged, samples.calibrating
    assert len(judged) == JUDGED and len(others) == CALIBRATING
    assert all(patch.amin() < patch.amax() for patch in [*judged, *others])
    assert not any(torch.equal(a, b) for a in judged for b in others)
