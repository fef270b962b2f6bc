"""What the engine promises, on random volumes, grids and cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxweft
from engines import computed
from oracle import blended_logits, softmax
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import make_plan
from voxweft.errors import RequestError, RunError
from voxweft.testing.strategies import volumes

requests = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from([0.0, 0.25, 0.5, 0.7]),
        "window": st.sampled_from(["gaussian", "hann", "uniform"]),
        "fit": st.sampled_from(["spread", "snap"]),
        "tta": st.sampled_from(["none", "none", "mirroring", "rotation"]),
        "normalization": st.sampled_from(["none", "instance_zscore", "instance_minmax", "robust_mad"]),
        "skip_empty": st.booleans(),
        "chunk": st.sampled_from(["8,8,8", "16,8,16", "16,32,16"]),
        "runtime": st.just("torch"),
        "pyramid": st.just(False),
        "accept_labels": st.just(True),
    }
)
models = st.sampled_from(["fake://blur?patch=8,8,8", "fake://blur?patch=8,8,8&classes=3", "fake://null?patch=8,8,8"])


def swept(volume: Any, model: Any, options: RunOptions, budget: Budget | None = None, parts: Any = ((0, 1),)) -> Any:
    """The whole output and the plan; parts are done in the order given."""
    plan = make_plan(volume.info, model.card, options, budget=budget)
    found, totals = computed(plan, volume, [model], parts=parts)
    return found, plan, totals


@settings(max_examples=30)
@given(volumes(), models, requests)
def test_logits_equal_a_float64_blend(image: NDArray[Any], url: Any, request: pytest.FixtureRequest) -> None:
    volume, model = voxweft.open_volume(image), voxweft.load_model(url)
    found, plan, _ = swept(volume, model, RunOptions(output="logits", **request))
    wanted, ran = blended_logits(plan, volume, model)
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(found - wanted)[:, ran].max(initial=0) <= 2e-5 * scale
    assert (found[1:, ~ran] == -100).all() and (found[0, ~ran] == 0).all()


@settings(max_examples=30)
@given(volumes(), models, requests, st.sampled_from(["probability", "labels", "mask"]))
def test_every_uint8_voxel_is_within_one_level(
    image: NDArray[Any], url: Any, request: pytest.FixtureRequest, output: Any
) -> None:
    volume, model = voxweft.open_volume(image), voxweft.load_model(url)
    found, plan, _ = swept(volume, model, RunOptions(output=output, **request))
    logits, ran = blended_logits(plan, volume, model)
    p = softmax(logits)
    if output == "probability":
        wanted = np.floor(255 * (p if len(p) > 2 else p[1:]))
        assert np.abs(found.astype(int) - wanted)[:, ran].max(initial=0) <= 1
    else:
        clear = ran & (np.abs(np.sort(logits, 0)[-1] - np.sort(logits, 0)[-2]) > 1e-3)
        labels = logits.argmax(0)
        wanted = labels if output == "labels" else 255 * (labels > 0)
        assert (found[0] == wanted)[clear].all()
    assert (found[:, ~ran] == 0).all()


@settings(max_examples=30)
@given(volumes(), models, requests, st.integers(1, 7), st.randoms(use_true_random=False), st.data())
def test_any_cut_gives_the_same_bits(
    image: NDArray[Any], url: Any, request: pytest.FixtureRequest, count: Any, random: Any, data: st.DataObject
) -> None:
    volume, model = voxweft.open_volume(image), voxweft.load_model(url)
    options = RunOptions(output=data.draw(st.sampled_from(["probability", "logits", "labels"])), **request)
    whole, plan, _ = swept(volume, model, options)
    order = [(i, count) for i in range(count)]
    random.shuffle(order)
    budget = data.draw(st.integers(4_000_000, 20_000_000))
    try:
        cut, narrow, _ = swept(volume, model, options, Budget(budget, budget), order)
    except RequestError:
        return  # not even one chunk wide
    assert np.array_equal(whole, cut)
    assert narrow.sweep.waste >= plan.sweep.waste == 1.0


@settings(max_examples=20)
@given(volumes(), models, requests, st.data())
def test_a_box_of_the_volume_holds_what_the_whole_run_gives_there(
    image: NDArray[Any], url: Any, request: pytest.FixtureRequest, data: st.DataObject
) -> None:
    volume, model = voxweft.open_volume(image), voxweft.load_model(url)
    whole, _, _ = swept(volume, model, RunOptions(**request))
    sides = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in volume.info.shape_zyx]
    sides = [(a, b if b > a else a + 1) for a, b in sides]
    bbox = ",".join(f"{a}:{b}" for a, b in sides)
    found, _, _ = swept(volume, model, RunOptions(bbox=bbox, **request))
    where = (slice(None), *(slice(a, b) for a, b in sides))
    assert np.array_equal(found[where], whole[where])
    found[where] = 0
    assert not found.any()


def test_patches_of_a_batch_do_not_matter(image: NDArray[Any]) -> None:
    volume, model = voxweft.open_volume(image), voxweft.load_model("fake://blur?patch=16,16,16")
    one, _, _ = swept(volume, model, RunOptions(output="logits", chunk="32,32,32"))
    plan = make_plan(volume.info, model.card, RunOptions(output="logits", chunk="32,32,32"))
    (single,) = plan.sweep.passes
    batches = replace(plan.sweep, passes=(replace(single, setting=replace(single.setting, batch_size=3)),))
    found, _ = computed(replace(plan, stages=(batches, *plan.stages[1:])), volume, [model])
    assert np.abs(found - one).max() < 1e-4


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_outside_the_mask_is_background(image: NDArray[Any], factor: Any) -> None:
    shape = image.shape
    coarse = np.zeros([-(-n // factor) for n in shape], np.uint8)
    coarse[2:6, 1:5, 2:9] = 1
    fine = coarse.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)[: shape[0], : shape[1], : shape[2]] > 0
    model = voxweft.load_model("fake://null?patch=16,16,16")
    volume = voxweft.open_volume(image)
    options = RunOptions(chunk="16,16,16", runtime="torch")
    whole, plan, (full,) = swept(volume, model, options)
    plan = make_plan(volume.info, model.card, replace(options, mask="memory://"))
    (found,), (totals,) = computed(plan, volume, [model], mask=voxweft.open_volume(coarse))
    assert not found[~fine].any()
    assert np.abs(found[fine].astype(int) - whole[0][fine]).max() <= 1
    assert totals.n_patches < full.n_patches


def test_voxels_that_are_not_finite_are_counted_and_taken_as_zero() -> None:
    image = np.random.default_rng(0).normal(100, 30, (30, 30, 30)).astype(np.float32)
    broken = image.copy()
    broken[3, 4, 5], broken[9, 9, 9], broken[29, 29, 29] = np.nan, np.inf, -np.inf
    image[3, 4, 5] = image[9, 9, 9] = image[29, 29, 29] = 0
    model = voxweft.load_model("fake://blur?patch=16,16,16")
    options = RunOptions(output="logits", chunk="16,16,16", normalization="instance_zscore")
    found, _, totals = swept(voxweft.open_volume(broken), model, options)
    clean, _, _ = swept(voxweft.open_volume(image), model, options)
    assert sum(t.n_nonfinite for t in totals) == 3
    assert np.array_equal(found, clean)


def test_a_network_that_returns_nan_is_an_error_and_not_a_result(image: NDArray[Any]) -> None:
    import torch

    model = voxweft.load_model("fake://null?patch=16,16,16")
    with torch.no_grad():
        model.model._modules[0].bias.fill_(float("nan"))
    with pytest.raises(RunError, match="NaN or Inf for planes"):
        swept(voxweft.open_volume(image), model, RunOptions(chunk="16,16,16"))


def test_each_input_chunk_is_read_once_a_column_and_each_output_chunk_written_once(image: NDArray[Any]) -> None:
    from collections import Counter

    volume, model = voxweft.open_volume(image), voxweft.load_model("fake://null?patch=16,16,16")
    reads, writes = Counter[Any](), Counter[Any]()
    inner = volume.read

    class Counting:
        info = volume.info

        def read(self, box: Any) -> Any:
            for z in range(*_span(box, 0)):
                reads[z] += 1
            assert box.start[0] % volume.info.chunk_zyx[0] == 0
            return inner(box)

    sink = voxweft.open_sink("memory://")
    write = sink.write
    sink.write = lambda box, array, level: (writes.update([box]), write(box, array, level))[1]
    plan = make_plan(volume.info, model.card, RunOptions(chunk="16,16,16"))
    computed(plan, Counting(), [model], sink=sink)
    assert plan.sweep.columns.n_columns == 1
    assert set(reads.values()) == {1}
    assert set(writes.values()) == {1}
    assert sum(b.n_voxels for b in writes) == image.size


def _span(box: Any, axis: Any) -> Any:
    size = 32
    return box.start[axis] // size, -(-box.stop[axis] // size)
