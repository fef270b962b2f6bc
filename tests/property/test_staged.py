"""Logits on disk and blended later give what a fused run gives, for any number of parts."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import voxweft
from engines import computed, kept
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import VOLUME, InputRef, PatchesRef
from voxweft.engine.planning import make_plan
from voxweft.engine.stage import Stores
from voxweft.engine.stored import StoredLogits
from voxweft.errors import RequestError
from voxweft.stores.patches import ZarrPatches

MODEL = voxweft.load_model("fake://blur?patch=8,8,8&normalization=instance_zscore")


def predicted(folder: Any, plan: Any, volume: Any, count: Any) -> Any:
    """All parts, written and opened again."""
    stage = replace(plan.sweep, outputs=(), stores=Stores(count))
    stores = []
    for part in range(count):
        starts = [t.box.start for layers in stage.kept.tiles(part) for layer in layers for t in layer]
        starts = np.array(starts, np.int32).reshape(-1, 3)
        stores.append(ZarrPatches.create(folder, part, starts, (2, stage.grid.patch), {"part_id": part}))
    kept(replace(plan, stages=(stage,)), volume, MODEL, stores)
    return [ZarrPatches.open(folder, part) for part in range(count)]


def blended(plan: Any, volume: Any, parts: Any) -> Any:
    if not parts:
        return computed(plan, volume, [MODEL])[0]
    stage = plan.sweep
    ref = InputRef(VOLUME, PatchesRef("", stage.grid, stage.region))
    return computed(replace(plan, inputs=(ref,)), patches=StoredLogits(parts, stage.grid))[0]


@settings(max_examples=15)
@given(
    st.tuples(*[st.integers(6, 30)] * 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 7),
    st.integers(0, 3),
    st.sampled_from([None, 4_500_000]),
)
def test_fused_and_staged_agree(shape: Any, overlap: Any, count: Any, seed: Any, memory: Any) -> None:
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
        assert len(set(starts)) == len(starts) == plan.sweep.grid.n_tiles
        sizes = [len(p.starts) for p in parts]
        assert max(sizes) - min(sizes) <= 1
        staged = blended(plan, volume, parts)
    fused = blended(plan, volume, None)
    assert np.abs(staged - fused).max() <= 2e-3 * max(1.0, float(np.abs(fused[fused > -99]).max(initial=0)))


def test_a_part_that_is_missing_or_of_another_grid_is_named(tmp_path: Path) -> None:
    volume = voxweft.open_volume(np.random.default_rng(0).integers(0, 250, (20, 20, 20), dtype=np.uint8))
    plan = make_plan(volume.info, MODEL.card, RunOptions(chunk="16"))
    parts = predicted(str(tmp_path), plan, volume, 3)
    with pytest.raises(RequestError, match="in none of the 2 parts"):
        StoredLogits(parts[:2], plan.sweep.grid)
    other = make_plan(volume.info, MODEL.card, RunOptions(chunk="16", overlap=0.25))
    with pytest.raises(RequestError, match="where the grid has none"):
        StoredLogits(parts, other.sweep.grid)
