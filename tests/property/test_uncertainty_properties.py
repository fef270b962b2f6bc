"""The uncertainty that is made in the same sweep, against what numpy makes of blended logits and of single passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import voxweft
from engines import computed
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.part import Part
from voxweft.engine.plan import VOLUME, Plan
from voxweft.engine.planning import make_plan
from voxweft.errors import RequestError
from voxweft.model.card import ModelCard
from voxweft.model.head import Head
from voxweft.model.ref import model_ref
from voxweft.ops.activate import Finish
from voxweft.ops.activate_device import as_stored, finished
from voxweft.runner import planning
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place

BLUR, OTHER = (voxweft.load_model(f"fake://{name}") for name in ("blur?patch=8,8,8", "null?patch=12,8,16"))
TWO_TASKS = (Head("cell", 1, "sigmoid"), Head("edge", 1, "sigmoid"))
SETTINGS = {"chunk": "16,16,16", "accept_labels": True, "pyramid": False}
volumes = st.builds(
    lambda shape, seed: voxweft.open_volume(np.random.default_rng(seed).integers(1, 250, shape, dtype=np.uint8)),
    st.tuples(*[st.integers(9, 24)] * 3),
    st.integers(0, 9),
)


def planned(volume: Any, models: Sequence[Any], budget: Budget | None = None, **options: Any) -> Plan:
    return make_plan(volume.info, [model_ref(m) for m in models], RunOptions(**SETTINGS, **options), budget=budget)


def outputs(plan: Plan, volume: Any, models: Sequence[Any], n_parts: int = 1) -> list[np.ndarray]:
    """The result and its uncertainty."""
    place, stage = Place.of(voxweft.open_sink("memory://")), plan.sweep
    place.create(plan, None)
    for n in range(n_parts):
        part = Part(stage.name, n, n_parts, stage.share(n, n_parts))
        compute_part(Opened(plan, {VOLUME: volume}, models), stage, part, place, ("cpu", 2))
    return [place.sink_of(output).read(voxweft.Box.of(stage.spec.shape_zyx)) for output in stage.outputs]


def probabilities(logits: Any) -> Any:
    """float64 [C, ...] of the network's logits: a softmax, or of one channel a sigmoid and what is left of it."""
    logits = logits.astype(float)
    logits = np.concatenate([logits, np.zeros_like(logits)]) if len(logits) == 1 else logits
    p = np.exp(logits - logits.max(axis=0))
    return p / p.sum(axis=0)


def entropy(p: Any) -> Any:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=0) / np.log(len(p))


@settings(max_examples=12)
@given(volumes, st.sampled_from([1, 2, 3, 7]), st.sampled_from(["probability", "labels", "mask", "logits"]))
def test_entropy_is_that_of_the_blended_probability(volume: Any, n_classes: int, output: str) -> None:
    models = [voxweft.load_model(f"fake://blur?patch=8,8,8&classes={n_classes}")]
    blended, _ = computed(planned(volume, models, output="logits"), volume, models)
    alone, _ = computed(planned(volume, models, output=output), volume, models)
    result, unsure = outputs(planned(volume, models, output=output, uncertainty="entropy"), volume, models)
    assert np.array_equal(result, alone)
    assert unsure.dtype == np.uint8
    assert np.abs(unsure[0] - 255 * entropy(probabilities(blended))).max() < 0.51


@settings(max_examples=8)
@given(volumes, st.sampled_from([{}, {"tta": "mirroring"}, {"tta": "turns:3", "tta_of": "volume"}]), st.booleans())
def test_variance_is_that_of_what_each_pass_gives_alone(volume: Any, views: Any, weighted: bool) -> None:
    models = [BLUR, OTHER]
    views = views | ({"weights": "2,1"} if weighted else {})
    plan = planned(volume, models, uncertainty="variance", output="labels", **views)
    passes, each = plan.sweep.passes, []
    logits = planned(volume, models, output="logits").sweep
    for one in passes:
        alone = replace(plan, stages=(replace(logits, passes=(replace(one, weight=1.0),)),))
        each.append(probabilities(computed(alone, volume, models)[0]))
    weights = np.array([one.weight for one in passes]) / sum(one.weight for one in passes)
    mean = np.tensordot(weights, each, 1)
    wanted = np.sqrt(np.tensordot(weights, (np.array(each) - mean) ** 2, 1).max(axis=0))
    _, unsure = outputs(plan, volume, models)
    assert np.abs(unsure[0] / 510 - wanted).max() < 0.51 / 510 + 1e-5
    told = plan.sweep.outputs[1].attributes["uncertainty"]
    assert (told["n_passes"], told["n_models"], told["scale"]) == (len(passes), 2, 1 / 510)


@settings(max_examples=8)
@given(volumes, st.sampled_from(["entropy", "variance"]), st.integers(3_000_000, 9_000_000), st.integers(1, 4))
def test_any_division_gives_the_same_bits(volume: Any, measure: str, memory: int, n_parts: int) -> None:
    options = {"uncertainty": measure, "tta": "mirroring"}
    whole = outputs(planned(volume, [BLUR], **options), volume, [BLUR])
    try:
        plan = planned(volume, [BLUR], Budget(memory, memory), **options)
    except RequestError:
        return  # not even one chunk wide
    for a, b in zip(whole, outputs(plan, volume, [BLUR], n_parts), strict=True):
        assert np.array_equal(a, b)


@settings(max_examples=30)
@given(
    st.sampled_from([("softmax", 2), ("softmax", 5), ("sigmoid", 1), ("sigmoid", 3), ("none", 2)]),
    st.integers(0, 40),
    st.integers(1, 200),
)
def test_a_voxel_has_the_same_bits_wherever_a_strip_begins(kind: Any, first: int, n: int) -> None:
    activation, n_classes = kind
    finish = Finish("multiclass" if n_classes > 1 else "binary", "entropy8", n_classes, activation)
    logits = torch.from_numpy(np.random.default_rng(n).normal(0, 30, (finish.n_accumulated, 1, 1, 256)))
    logits = (logits.sigmoid() if activation == "none" else logits).float()
    whole, part = finish(logits), finish(logits[..., first : first + n])
    assert np.array_equal(part, whole[..., first : first + n])
    assert np.abs(as_stored(finish, finished(finish, logits).numpy()).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("logits", "entropy8"),
    [([0.0], 255), ([1e4], 0), ([-1e4], 0), ([0.0, 0.0], 255), ([-1e4, 0.0], 161), ([1e4, 1e4], 161), ([99.0, 0.0], 0)],
)
def test_entropy_of_sure_and_of_equal_classes(logits: list[float], entropy8: int) -> None:
    finish = Finish("multiclass", "entropy8", len(logits) + 1)
    assert finish(torch.tensor(logits).reshape(-1, 1, 1, 1)).tolist() == [[[[entropy8]]]]


@pytest.mark.parametrize("heads", [(Head("ink", 1, "sigmoid"), Head("normals", 3, "normals")), TWO_TASKS])
@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_networks_of_several_targets_are_refused(heads: tuple[Head, ...], measure: str) -> None:
    n = sum(head.n_channels for head in heads)
    card = ModelCard("net.pt2", "torch.export", "", (8, 8, 8), n_classes=n, activation="sigmoid", heads=heads)
    info = voxweft.open_volume(np.zeros((9, 9, 9), np.uint8)).info
    with pytest.raises(RequestError, match="--targets"):
        make_plan(info, card, RunOptions(uncertainty=measure, tta="mirroring"))


def test_folds_of_an_ensemble_share_the_weight_of_their_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "folds_of", lambda model: [model] * (2 if model is BLUR else 1))
    volume = voxweft.open_volume(np.random.default_rng(0).integers(1, 250, (20, 20, 20), dtype=np.uint8))
    options = RunOptions(**SETTINGS, runtime="torch", uncertainty="variance", weights="1,3")
    plan = planning.plan_run(volume, [BLUR, OTHER], options).plan
    assert plan.sweep.finish.pass_weights == (0.125, 0.125, 0.75)
