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
from voxweft.model import ForwardSetting, Head, ModelCard, Normalization
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
    values[:, :16, :16, :16] = -3.0  # constant, and far from the threshold
    return MemoryVolume(values, chunk_zyx=(8, 8, 8))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXWEFT_CACHE", str(tmp_path))


def _ask(
    model: Model, n_patches: int = 100_000, identity: str = "volume", quick: bool = False, **options: Any
) -> Choice:
    samples = Samples(_volume(), Box.of((40, 40, 40)), PATCH, (Normalization("none"),), "cpu", identity)
    return choose_setting(Question(model, samples, RunOptions(**options), "cpu", n_patches, quick=quick))


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


def test_a_kept_network_that_cannot_be_opened_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model({}, FAST)
    assert _ask(model, tolerance=0.5).setting.precision == "int8"

    def broken(_setting: ForwardSetting, _network: bytes) -> Any:
        raise RuntimeError("another version")

    monkeypatch.setattr(model, "open_network", broken)
    choice = _ask(model, tolerance=0.5, n_patches=10_000)
    assert choice.setting.precision == "bf16"
    assert any("another version" in trial["remark"] for trial in choice.trials)


def test_a_bad_measurement_is_forgotten_in_a_long_job() -> None:
    model = Model({}, FAST | {"openvino": 0.5, "bf16": 0.5})
    assert _ask(model, n_patches=5_000).setting.runtime == "torch"
    model.seconds = FAST
    assert _ask(model, n_patches=5_000).setting.runtime == "torch"
    assert _ask(model, n_patches=1_000_000, quick=True).setting.runtime == "torch"  # a plan that is looked at
    assert _ask(model, n_patches=1_000_000).setting.precision == "bf16"


def test_a_runtime_of_a_plug_in_and_a_network_with_normals() -> None:
    class Mine(Model):
        def runtimes(self, device: str) -> tuple[str, ...]:
            return ("mine", "another")

    assert _ask(Mine({}, FAST, ("fp32",))).setting.runtime == "mine"
    heads = (Head("ink", 1, "sigmoid"), Head("n", 3, "normals"))
    card = replace(CARD, heads=heads, n_classes=4)

    class Fields(Model):
        def open(self, setting: ForwardSetting) -> Any:
            forward = super().open(setting)
            return lambda batch: forward(batch).expand(-1, 4, -1, -1, -1)

    assert _ask(Fields({}, FAST, card=card)).setting.precision == "fp32"
    assert _ask(Model({}, FAST), output="logits").setting.precision == "fp32"


def test_an_accelerator_tries_precisions_as_they_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card(Model):
        def runtimes(self, device: str) -> tuple[str, ...]:
            return ("torch", "graph", "compile")

        def precisions(self, device: str) -> tuple[str, ...]:
            return ("fp32", "tf32", "fp16", "bf16")

    model = Card({}, {"torch": 0.003, "graph": 0.003, "compile": 0.003, "tf32": 0.002, "fp16": 0.001, "bf16": 0.001})
    monkeypatch.setattr("voxweft.engine.bench._processor", lambda _device: "a card")
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("voxweft.engine.calibrate.lanes_for", lambda _device: 1)
    samples = Samples(_volume(), Box.of((40, 40, 40)), PATCH, (Normalization("none"),), "cpu", "volume")
    choice = choose_setting(Question(model, samples, RunOptions(), "cuda:0", 10_000))
    assert choice.setting.precision in ("fp16", "bf16")
    assert {s.runtime for s in model.opened} <= {"torch", "graph"}
