"""Resampling along axes: what scipy and nnU-Net do, box by box, with the same bits for any box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

import voxweft
from engines import computed
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import Findings, Target, plan_sweep
from voxweft.geometry.regrid import AxisMap, Regrid
from voxweft.model import model_ref
from voxweft.testing.strategies import boxes_in

SIDES = st.integers(1, 40)


def whole(maps: Regrid, values: np.ndarray) -> np.ndarray:
    """All that is made of values [C, Z, Y, X]."""
    return maps.resample(values[(slice(None), *maps.reach(maps.box_out).slices)], maps.box_out)


@given(SIDES, SIDES, st.sampled_from([1, 3]), st.integers(0, 2**31))
def test_an_axis_is_resampled_as_scipy_does(n_in: int, n_out: int, order: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n_in).astype(np.float32)
    made = whole(Regrid.of((1, 1, n_in), (1, 1, n_out), order), values[None, None, None])
    wanted = zoom(values.astype(np.float64), n_out / n_in, order=order, mode="nearest", grid_mode=True)
    assert np.abs(made[0, 0, 0] - wanted).max() < 1e-5


@given(SIDES, SIDES, st.sampled_from([0, 1, 3]))
def test_weights_sum_to_one_and_stay_inside(n_in: int, n_out: int, order: int) -> None:
    first, weights = AxisMap(n_in, n_out, order).taps
    assert np.allclose(weights.sum(axis=1), 1)
    reached = first[:, None] + np.arange(weights.shape[1])
    assert first.min() >= 0
    assert reached[weights != 0].max() < n_in
    assert AxisMap(n_in, n_out, order).span(0, n_out)[1] <= n_in


@given(st.data(), st.sampled_from([0, 1, 3]), st.integers(0, 2**31))
def test_a_box_by_itself_has_the_bits_of_the_whole(data: Any, order: int, seed: int) -> None:
    small = st.tuples(*[st.integers(1, 12)] * 3)
    shape_in, shape_out = data.draw(small), data.draw(small)
    apart = data.draw(st.sampled_from([None, 0, 1, 2]))
    offset = data.draw(st.tuples(*[st.integers(0, 5)] * 3))
    maps = Regrid.of(shape_in, shape_out, order, offset=offset, apart=apart)
    values = np.random.default_rng(seed).normal(size=(2, *shape_in)).astype(np.float32)
    everything = whole(maps, values)
    box = data.draw(boxes_in(shape_out))
    there = box.shift(offset)
    part = maps.resample(values[(slice(None), *maps.reach(there).slices)], there)
    assert (part == everything[(slice(None), *box.slices)]).all()


def test_the_axis_apart_takes_the_nearest_plane() -> None:
    values = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    maps = Regrid.of((4, 1, 1), (7, 1, 1), 3, apart=0)
    wanted = [values.ravel()[min(3, int((k + 0.5) * 4 / 7))] for k in range(7)]
    assert whole(maps, values).ravel() == pytest.approx(wanted)


@settings(max_examples=25)
@given(st.data(), st.integers(2, 6), st.integers(0, 2**31))
def test_labels_on_another_grid_are_those_of_resampled_logits(data: Any, n_classes: int, seed: int) -> None:
    """Shortcuts where neighbours agree, strips, columns and parts change no voxel."""
    sides = st.tuples(*[st.integers(6, 20)] * 3)
    shape_in, shape_out, offset = data.draw(sides), data.draw(sides), data.draw(st.tuples(*[st.integers(0, 4)] * 3))
    apart = data.draw(st.sampled_from([None, None, 0]))
    image = np.random.default_rng(seed).integers(0, 200, shape_in).astype(np.float32)
    volume, model = voxweft.open_volume(image), voxweft.load_model(f"fake://blur?classes={n_classes}&patch=6,6,6")
    maps = Regrid.of(shape_in, shape_out, 1, offset=offset, apart=apart)
    shape = tuple(a + n + 2 for a, n in zip(offset, shape_out, strict=True))
    options = {"skip_empty": False, "pyramid": False, "chunk": "8,8,8"}
    refs = (model_ref(model),)
    logits, _ = computed(
        plan_sweep(volume.info, refs, RunOptions(**options, output="logits"), Findings()), volume, [model]
    )
    resampled = whole(maps, logits)
    order = np.sort(resampled, axis=0)
    clear = (order[-1] - order[-2]) > 1e-4
    target = Target(regrid=maps, shape_zyx=shape, tally="voxels")
    narrow = Budget(data.draw(st.sampled_from([1 << 40, 20_000_000])), 1 << 40)
    found = Findings(target=target, budget=narrow)
    plan = plan_sweep(volume.info, refs, RunOptions(**options, output="labels"), found)
    count = data.draw(st.integers(1, 3))
    labels, _ = computed(plan, volume, [model], parts=[(i, count) for i in range(count)])
    inside = labels[(0, *maps.box_out.slices)]
    assert (inside == resampled.argmax(axis=0))[clear].all()
    labels[(0, *maps.box_out.slices)] = 0
    assert not labels.any()
