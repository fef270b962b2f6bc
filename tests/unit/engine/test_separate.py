"""Heads that are outputs of their own: what becomes of each."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxweft.engine.options import RunOptions
from voxweft.engine.plan import LATER, LATER_ONE, Plan
from voxweft.engine.planning import make_plan
from voxweft.engine.separate import Wanted, finishes_of
from voxweft.errors import RequestError
from voxweft.image.info import VolumeInfo
from voxweft.model import Head, ModelCard
from voxweft.model.targets import heads_in, target_info
from voxweft.ops.activate import Finish

NORMALS, INK, MANY = Head("normals", 3, "normals"), Head("ink", 1, "sigmoid"), Head("many", 4, "softmax")
VOLUME = VolumeInfo("v.zarr", "zarr v3", (40, 40, 600), "uint8", levels=((40, 40, 600),))


def card(*heads: Any) -> Any:
    n_classes = sum(h.n_channels for h in heads)
    return ModelCard("m", "x", "", (16, 16, 16), n_classes=n_classes, heads=heads, separate=True)


def test_each_head_is_finished_by_itself() -> None:
    logits = torch.randn((8, 2, 3, 4))
    made = finishes_of((NORMALS, INK, MANY), Wanted())
    assert [head.name for head, _ in made] == ["ink", "normals", "many"]
    for (head, finish), channels in zip(made, (slice(3, 4), slice(0, 3), slice(4, 8)), strict=True):
        alone = Finish(finish.mode, finish.output, head.n_channels, head.activation)
        own = logits[channels]
        assert np.array_equal(finish(logits), alone(own[1:] - own[:1] if alone.differences else own))
        assert (finish.n_channels, finish.dtype, finish.n_accumulated) == (alone.n_channels, alone.dtype, 8)


@pytest.mark.parametrize(
    ("wanted", "channels"),
    [
        (Wanted("multiclass", "probability_and_label"), [1, 3, 5]),
        (Wanted("multiclass", "labels"), [1, 3, 1]),
        (Wanted(output="logits"), [1, 3, 4]),
    ],
)
def test_what_is_asked_means_what_it_can_for_each(wanted: Any, channels: Any) -> None:
    assert [finish.n_channels for _, finish in finishes_of((NORMALS, INK, MANY), wanted)] == channels


def test_one_foreground_is_not_asked_of_four_classes() -> None:
    with pytest.raises(RequestError, match="--mode binary with a model of 4 classes"):
        finishes_of((NORMALS, MANY), Wanted("binary"))


@given(arrays(np.float32, (3, 2, 2, 2), elements=st.floats(-100, 100, width=32)))
def test_vectors_get_length_one_or_nothing(values: Any) -> None:
    length = np.sqrt((values.astype(np.float64) ** 2).sum(0))
    finish = Finish("binary", "normals16", 3, "normals")
    unit = finish(torch.from_numpy(values)).astype(float)
    assert np.abs(np.sqrt((unit**2).sum(0)) - (length >= 1e-6))[np.abs(length - 1e-6) > 1e-9].max(initial=0) < 2e-3
    steps = Finish("binary", "normals", 3, "normals")(torch.from_numpy(values))
    assert np.abs(steps - 127 * unit).max() <= 0.6


def test_logits_tell_their_heads() -> None:
    told = target_info(card(NORMALS, INK))
    assert heads_in(json.loads(json.dumps(told)), 4) == (NORMALS, INK)
    assert heads_in({}, 4) == ()
    assert heads_in({"target_info": {"a": {"start_channel": 0, "end_channel": 2}}}, 2) == ()
    with pytest.raises(RequestError, match="the logits have 5 channels"):
        heads_in(told, 5)


def test_a_plan_has_an_output_and_levels_for_each_head() -> None:
    plan = make_plan(VOLUME, card(NORMALS, INK), RunOptions(normals="float16", tta="mirroring"))
    assert [(o.name, o.spec.n_channels, o.spec.dtype, o.spec.pyramid) for o in plan.sweep.outputs] == [
        ("", 1, "uint8", "mean"),
        ("normals", 3, "float16", "nearest"),
    ]
    levels = range(1, len(plan.sweep.spec.level_shapes))
    assert [s.name for s in plan.stages] == [
        "sweep",
        *(f"level-{n}" for n in levels),
        *(f"normals-level-{n}" for n in levels),
    ]
    assert [s.sources[0].output for s in plan.stages[1:]] == [*(0 for _ in levels), 1, *(0 for _ in levels[1:])]
    assert plan.sweep.passes[0].vectors == (0,)
    assert Plan.from_json(plan.to_json()) == plan
    assert "ink is in the output itself, normals beside it" in plan.notes


def test_fields_that_came_later_change_no_digest() -> None:
    def older(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if (k not in LATER or v) and (k not in LATER_ONE or v != 1)}
            return {k: older(v) for k, v in kept.items()}
        return [older(v) for v in value] if isinstance(value, list) else value

    plan = make_plan(VOLUME, ModelCard("m", "x", "", (16, 16, 16)), RunOptions())
    content = older(json.loads(plan.to_json()))
    assert Plan.from_json(json.dumps(content)) == plan
    decisive = content | {"measured": {}, "notes": []}
    assert hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest() == plan.digest
