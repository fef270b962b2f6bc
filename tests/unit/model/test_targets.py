"""Several heads: which outputs they make, and which they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from voxweft.engine.options import RunOptions
from voxweft.engine.planning import finish_for
from voxweft.errors import RequestError
from voxweft.model import Head, ModelCard
from voxweft.model.targets import target_info

CELL, EDGE, POINTS = Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid"), Head("points", 2, "sigmoid")
MANY, PLAIN = Head("many", 3, "softmax"), Head("plain", 1, "none")


def card(*heads: Any, **more: Any) -> Any:
    return ModelCard("m", "x", "", (16, 16, 16), n_classes=sum(h.n_channels for h in heads), heads=heads, **more)


@pytest.mark.parametrize("output", ["probability", "mask"])
@pytest.mark.parametrize("mode", ["auto", "binary"])
def test_a_channel_a_task(output: Any, mode: Any) -> None:
    finish = finish_for(card(EDGE, CELL, POINTS), RunOptions(output=output, mode=mode))
    assert finish.targets == ((0, 1), (1, 3), (3, 4), (4, 5))
    assert (finish.n_channels, finish.n_accumulated, finish.dtype) == (4, 5, "uint8")
    far = finish.background[0]
    assert finish.background == (far, 0.0, far, far, far)


def test_logits_of_any_heads() -> None:
    finish = finish_for(card(MANY, PLAIN), RunOptions(output="logits"))
    assert (finish.n_channels, finish.n_accumulated, finish.dtype) == (4, 4, "float32")
    assert finish.background[0] == 0.0
    assert max(finish.background[1:]) < -50


@pytest.mark.parametrize(
    ("heads", "options", "says"),
    [
        ((EDGE, MANY), {}, r"the heads edge \(sigmoid of 1\), many \(softmax of 3\) cannot be finished together"),
        ((EDGE, PLAIN), {"output": "mask"}, r"plain \(none of 1\) cannot be finished together"),
        ((EDGE, CELL), {"mode": "multiclass"}, r"--mode multiclass .* edge \(sigmoid of 1\), cell \(softmax of 2\)"),
        ((EDGE, CELL), {"output": "labels"}, r"--output labels .* use probability, mask or logits"),
    ],
)
def test_what_has_no_meaning_is_refused(heads: Any, options: Any, says: Any) -> None:
    with pytest.raises(RequestError, match=says):
        finish_for(card(*heads), RunOptions(**options))


def test_one_head_is_a_network_like_any_other() -> None:
    assert finish_for(card(MANY), RunOptions(output="labels")).targets == ()
    assert finish_for(card(EDGE), RunOptions()).activation == "sigmoid"
    tasks = ModelCard("m", "x", "", (16, 16, 16), n_classes=3, targets=((0, 2), (2, 3)))
    assert finish_for(tasks, RunOptions(mode="binary")).targets == ((0, 2), (2, 3))


def test_the_scroll_pipeline_is_told_of_every_task() -> None:
    assert target_info(card(MANY)) == {}
    told = target_info(card(CELL, POINTS))["target_info"]
    assert told == {
        "cell": {"start_channel": 0, "end_channel": 2},
        "points_0": {"start_channel": 2, "end_channel": 3},
        "points_1": {"start_channel": 3, "end_channel": 4},
    }
