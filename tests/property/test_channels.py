"""Passes that see some channels of a volume, and where anything is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import voxweft
from engines import all_outputs, computed
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import Findings, Target, plan_sweep
from voxweft.engine.stage import Output
from voxweft.errors import RequestError
from voxweft.image import OutputSpec
from voxweft.image.views import Channels
from voxweft.model.ref import model_ref

BLUR = voxweft.load_model("fake://blur?patch=8,1,8&inputs=2&classes=1")
ASKED = {"output": "probability", "chunk": "16,1,16", "accept_labels": True, "pyramid": False, "fit": "snap"}
GROUPS = ((0, 1), (1, 2), (3, 1))


def stack(seed: int, shape: Any) -> Any:
    """Four channels with a hole in all of them, and one more in the last."""
    values = np.random.default_rng(seed).integers(1, 250, (4, *shape), dtype=np.uint8)
    values[:, : shape[0] // 2, :, : shape[2] // 2] = 0
    values[3, :, :, shape[2] // 3 :] = 0
    return values


stacks = st.builds(
    lambda seed, height, width: stack(seed, (height, 1, width)),
    st.integers(0, 9),
    st.integers(9, 40),
    st.integers(9, 40),
)


def made(values: Any, target: Target, budget: Budget | None = None) -> list[np.ndarray]:
    volume = voxweft.open_volume(values)
    plan = plan_sweep(volume.info, (model_ref(BLUR),), RunOptions(**ASKED), Findings(target=target, budget=budget))
    return all_outputs(plan, volume, BLUR)


def alone(values: Any, group: Any) -> np.ndarray:
    volume = Channels(group).of(voxweft.open_volume(values))
    plan = plan_sweep(volume.info, (model_ref(BLUR),), RunOptions(**ASKED), Findings())
    return computed(plan, volume, [BLUR])[0]


@settings(max_examples=5)
@given(stacks)
def test_the_largest_of_windows_is_the_largest_of_their_results(values: Any) -> None:
    found = made(values, Target(channels=GROUPS, average="maximum"))[0]
    wanted = np.max([alone(values, group) for group in GROUPS], axis=0).astype(int)
    assert np.abs(found - wanted).max() <= 1


@settings(max_examples=5)
@given(stacks)
def test_the_mean_of_windows_is_the_mean_of_their_probabilities(values: Any) -> None:
    values = np.maximum(values, 1) + np.arange(4, dtype=np.uint8)[:, None, None, None]  # no patch is skipped
    values[:, 0] += np.arange(values.shape[3], dtype=np.uint8) % 2
    found = made(values, Target(channels=GROUPS, average="probabilities"))[0]
    wanted = np.mean([alone(values, group) for group in GROUPS], axis=0)
    assert np.abs(found - wanted).max() <= 1.01


@settings(max_examples=5)
@given(stacks, st.integers(300_000, 900_000))
def test_what_is_known_is_what_is_there_for_any_division(values: Any, memory: Any) -> None:
    known = made(values, Target(channels=GROUPS, known=True))[-1]
    there = values.any(axis=0)
    assert set(np.unique(known)) <= {0, 255}
    assert not known[0][~there].any(), "nothing is known of zeros"
    one = made(values[:2], Target(known=True))[-1]
    assert np.array_equal(known[0] > 0, there), "every pixel that is there lies in a patch with structure"
    assert np.array_equal(one[0] > 0, values[:2].any(axis=0))
    try:
        divided = made(values, Target(channels=GROUPS, known=True), Budget(memory, memory))[-1]
    except RequestError:
        return  # not even one chunk wide
    assert np.array_equal(known, divided)


def test_a_plan_keeps_channels_and_known() -> None:
    volume = voxweft.open_volume(stack(0, (20, 1, 20)))
    target = Target(channels=GROUPS, known=True)
    plan = plan_sweep(volume.info, (model_ref(BLUR),), RunOptions(**ASKED), Findings(target=target))
    again = voxweft.Plan.from_json(plan.to_json())
    assert again == plan
    assert [one.channels for one in again.sweep.passes] == [*GROUPS]
    assert isinstance(again.sweep.outputs[-1], Output)
    assert isinstance(again.sweep.outputs[-1].spec, OutputSpec)
    assert again.sweep.tells_known
