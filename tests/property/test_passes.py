"""Several passes, one accumulator: ensembles with weights, and the whole volume mirrored."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import voxweft
from engines import all_outputs, computed
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import Findings, Target, make_plan, plan_sweep
from voxweft.errors import RequestError
from voxweft.image import Flip
from voxweft.model.ref import model_ref

BLUR, NULL, OTHER = (
    voxweft.load_model(f"fake://{name}") for name in ("blur?patch=8,8,8", "null?patch=8,8,8", "null?patch=12,8,16")
)
volumes = st.builds(
    lambda shape, seed: voxweft.open_volume(np.random.default_rng(seed).integers(1, 250, shape, dtype=np.uint8)),
    st.tuples(*[st.integers(5, 24)] * 3),
    st.integers(0, 9),
)
SETTINGS = {"output": "logits", "chunk": "16,16,16", "accept_labels": True, "pyramid": False}


def logits(volume: Any, models: Any, budget: Any = None, parts: Any = ((0, 1),), **options: Any) -> Any:
    refs = [model_ref(model) for model in models]
    plan = make_plan(volume.info, refs, RunOptions(**SETTINGS, **options), budget=budget)
    return computed(plan, volume, models, parts=parts)[0]


@settings(max_examples=15)
@given(volumes, st.sampled_from([(1.0, 1.0), (2.0, 1.0), (0.3, 1.7)]), st.sampled_from([NULL, OTHER]))
def test_an_ensemble_is_the_weighted_mean(volume: Any, weights: Any, second: Any) -> None:
    a, b = (logits(volume, [model], overlap=0.5) for model in (BLUR, second))
    both = logits(volume, [BLUR, second], overlap=0.5, weights=f"{weights[0]},{weights[1]}")
    wanted = (weights[0] * a.astype(float) + weights[1] * b) / sum(weights)
    assert np.abs(both - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


@settings(max_examples=6)
@given(volumes, st.integers(4_000_000, 12_000_000), st.integers(1, 4))
def test_any_division_gives_the_same_bits(volume: Any, memory: Any, count: Any) -> None:
    models = [BLUR, OTHER]
    whole = logits(volume, models)
    try:
        divided = logits(volume, models, Budget(memory, memory), [(i, count) for i in range(count)])
    except RequestError:
        return  # not even one chunk wide
    assert np.array_equal(whole, divided)


@settings(max_examples=4)
@given(volumes, st.sampled_from(["snap", "spread"]), st.sampled_from([0.3, 0.5]))
def test_a_mirrored_volume_is_computed_as_if_it_were_reversed(volume: Any, fit: Any, overlap: Any) -> None:
    """The mean over all eight flips of the volume itself, each run by itself and flipped back."""
    found = logits(volume, [BLUR], tta="mirroring", tta_of="volume", fit=fit, overlap=overlap)
    flips = [tuple(axis for axis in range(3) if bits >> axis & 1) for bits in range(8)]
    runs = []
    for axes in flips:
        values = logits(Flip(axes).of(volume) if axes else volume, [BLUR], fit=fit, overlap=overlap)
        runs.append(np.flip(values, tuple(axis + 1 for axis in axes)).astype(float))
    wanted = np.mean(runs, axis=0)
    assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


TURNED = [  # of the whole volume [Z, Y, X], in the order of octopi, and what undoes each
    (lambda v: v, lambda v: v),
    (lambda v: np.rot90(v, 2, (-2, -1)), lambda v: np.rot90(v, 2, (-2, -1))),
    (lambda v: np.flip(v, -3), lambda v: np.flip(v, -3)),
    (lambda v: np.flip(v, -1), lambda v: np.flip(v, -1)),
    (lambda v: np.flip(v, -2), lambda v: np.flip(v, -2)),
    (lambda v: np.rot90(v, 1, (-2, -1)), lambda v: np.rot90(v, -1, (-2, -1))),
    (lambda v: np.rot90(v, 3, (-2, -1)), lambda v: np.rot90(v, -3, (-2, -1))),
    (lambda v: np.flip(v, (-3, -2, -1)), lambda v: np.flip(v, (-3, -2, -1))),
]


def turned(volume: Any, n: int, **options: Any) -> list[Any]:
    """The logits of ``n`` views of a volume, each run by itself and turned back."""
    array = volume.read(voxweft.Box.of(volume.info.shape_zyx))[0]
    found = []
    for there, back in TURNED[:n]:
        view = voxweft.open_volume(np.ascontiguousarray(there(array)))
        found.append(back(logits(view, [BLUR], **options)))
    return found


@settings(max_examples=4)
@given(volumes, st.integers(1, 8), st.sampled_from(["snap", "spread"]))
def test_turns_are_those_of_the_whole_volume(volume: Any, n: int, fit: str) -> None:
    found = logits(volume, [BLUR], tta=f"turns:{n}", tta_of="volume", fit=fit)
    wanted = np.mean(turned(volume, n, fit=fit), axis=0, dtype=float)
    assert np.abs(found - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


def softmax(values: Any) -> Any:
    values = np.exp(values - values.max(axis=0))
    return values / values.sum(axis=0)


@settings(max_examples=4)
@given(volumes, st.integers(2, 7))
def test_passes_blended_apart_give_mean_probabilities_and_their_variance(volume: Any, n: int) -> None:
    each = [softmax(one.astype(float)) for one in turned(volume, n, fit="snap")]
    target = Target(also=("probability32", "variance"), average="probabilities")
    asked = SETTINGS | {"output": "labels", "mode": "multiclass", "tta": f"turns:{n}", "tta_of": "volume"}
    options = RunOptions(**asked, fit="snap")
    plan = plan_sweep(volume.info, (model_ref(BLUR),), options, Findings(target=target))
    labels, p, variance = all_outputs(plan, volume, BLUR)
    assert np.abs(p - np.mean(each, axis=0)).max() < 1e-4
    assert np.abs(variance - np.var(each, axis=0).max(axis=0)).max() < 1e-4
    sure = np.abs(np.diff(np.mean(each, axis=0), axis=0))[0] > 1e-3
    assert np.array_equal(labels[0][sure], np.mean(each, axis=0).argmax(axis=0)[sure])
