"""Logits on disk and blended later give what a fused run gives, for any number of parts."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from voxweft.apps.parts import open_job
from voxweft.apps.prepare import Prepared
from voxweft.engine.job import Tally
from voxweft.engine.staged import StoredLogits, predict_part, tiles_of_part

import voxweft
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import make_plan
from voxweft.engine.sweep import sweep
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.stores.patches import ZarrPatches

MODEL = voxweft.load_model("fake://blur?patch=8,8,8&normalization=instance_zscore")


def predicted(folder, plan, volume, count):
    """All parts, written and opened again."""
    job = open_job(Prepared(plan, volume, MODEL, None, None), voxweft.open_sink("memory://"), "cpu")
    for part in range(count):
        columns = list(tiles_of_part(plan, part, count))
        starts = np.array([t.box.start for layers in columns for layer in layers.values() for t in layer], np.int32)
        target = ZarrPatches.create(folder, part, starts.reshape(-1, 3), (2, plan.grid.patch), {"part_id": part})
        predict_part(job, columns, target, Tally(), part)
    return [ZarrPatches.open(folder, part) for part in range(count)]


def blended(plan, volume, parts):
    from dataclasses import replace

    sink = voxweft.open_sink("memory://")
    sink.create(plan.spec)
    job = open_job(Prepared(plan, volume, MODEL, None, None), sink, "cpu")
    job = replace(job, stored=StoredLogits(parts, plan.grid)) if parts else job
    for run in plan.columns.part(0, 1):
        sweep(job, run)
    return sink.read(Box.of(plan.spec.shape_zyx))


@settings(max_examples=15)
@given(
    st.tuples(*[st.integers(6, 30)] * 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 7),
    st.integers(0, 3),
    st.sampled_from([None, 4_500_000]),
)
def test_fused_and_staged_agree(shape, overlap, count, seed, memory):
    image = np.random.default_rng(seed).integers(0, 250, shape, dtype=np.uint8)
    image[: shape[0] // 2 + 1, : shape[1] // 2 + 1] = 0
    volume = voxweft.open_volume(image)
    options = RunOptions(output="logits", overlap=overlap, chunk="16,16,16", accept_labels=True)
    budget = Budget(memory, memory) if memory else None
    try:
        plan = make_plan(volume.info, MODEL.card, options, budget=budget)
    except RequestError:
        return
    with tempfile.TemporaryDirectory() as folder:
        parts = predicted(folder, plan, volume, count)
        starts = [tuple(s) for p in parts for s in p.starts.tolist()]
        assert len(set(starts)) == len(starts) == plan.grid.n_tiles
        sizes = [len(p.starts) for p in parts]
        assert max(sizes) - min(sizes) <= 1
        staged = blended(plan, volume, parts)
    fused = blended(plan, volume, None)
    assert np.abs(staged - fused).max() <= 2e-3 * max(1.0, float(np.abs(fused[fused > -99]).max(initial=0)))


def test_a_part_that_is_missing_or_of_another_grid_is_named(tmp_path):
    volume = voxweft.open_volume(np.random.default_rng(0).integers(0, 250, (20, 20, 20), dtype=np.uint8))
    plan = make_plan(volume.info, MODEL.card, RunOptions(chunk="16"))
    parts = predicted(str(tmp_path), plan, volume, 3)
    with pytest.raises(RequestError, match="in none of the 2 parts"):
        StoredLogits(parts[:2], plan.grid)
    other = make_plan(volume.info, MODEL.card, RunOptions(chunk="16", overlap=0.25))
    with pytest.raises(RequestError, match="where the grid has none"):
        StoredLogits(parts, other.grid)
