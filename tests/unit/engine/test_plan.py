"""Plans: quick at any size, equal through JSON, honest about what differs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

import voxweft
from voxweft.engine.budget import Budget
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.engine.planning import make_plan
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.image.info import VolumeInfo

MODEL = voxweft.load_model("fake://null?patch=64,64,64")


def volume(*shape: int) -> VolumeInfo:
    return VolumeInfo("v.zarr", "zarr v3", shape, "uint8", chunk_zyx=(128, 128, 128), levels=(shape,))


def test_ten_million_million_voxels_are_planned_in_under_a_second() -> None:
    begin = time.perf_counter()
    plan = make_plan(volume(21544, 21544, 21544), MODEL.card, RunOptions(), budget=Budget(64 * 10**9, 64 * 10**9))
    stage = plan.sweep
    assert stage.grid.n_tiles == stage.n_tiles(stage.region) == 673**3
    assert stage.n_patches_computed > stage.grid.n_tiles
    assert plan.digest
    assert stage.share(999, 1000)
    assert time.perf_counter() - begin < 1


def test_a_plan_survives_json() -> None:
    plan = make_plan(volume(100, 200, 300), MODEL.card, RunOptions(tta="mirroring", bbox="0:50,:,10:"))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest
    assert replace(plan, measured={"x": 1}, notes=("n",)).digest == plan.digest
    assert replace(plan, stages=(replace(plan.sweep, window="hann"), *plan.stages[1:])).digest != plan.digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1, "grid": 3}'])
def test_what_is_no_plan_is_refused(text: Any) -> None:
    with pytest.raises(RequestError):
        Plan.from_json(text)


def test_columns_get_narrow_with_memory_and_the_waste_is_told() -> None:
    wide = make_plan(volume(512, 2048, 2048), MODEL.card, RunOptions())
    assert (wide.sweep.columns.n_columns, wide.sweep.waste) == (1, 1.0)
    last = 1.0
    for budget in (8 * 10**9, 10**9, 5 * 10**8, 3 * 10**8):
        plan = make_plan(volume(512, 2048, 2048), MODEL.card, RunOptions(), budget=Budget(budget, budget))
        assert plan.sweep.waste >= last
        last = plan.sweep.waste
    assert last > 1.1
    with pytest.raises(RequestError, match=r"the smallest column needs .* GB"):
        make_plan(volume(512, 2048, 2048), MODEL.card, RunOptions(), budget=Budget(10**7, 10**7))


def test_columns_and_shards_never_share_a_chunk() -> None:
    for budget in (10**9, 4 * 10**8, 2 * 10**8):
        plan = make_plan(volume(300, 1000, 900), MODEL.card, RunOptions(chunk="64"), budget=Budget(budget, budget))
        for column, shard, chunk in zip(
            plan.sweep.columns.column_yx, plan.sweep.spec.shard_zyx[1:], plan.sweep.spec.chunk_zyx[1:], strict=True
        ):
            assert column % shard == 0
            assert shard % chunk == 0


def test_another_request_is_refused_with_every_difference() -> None:
    stored = make_plan(volume(100, 100, 100), MODEL.card, RunOptions())
    other = make_plan(volume(100, 100, 100), MODEL.card, RunOptions(overlap=0.25, output="mask"))
    with pytest.raises(PlanMismatchError) as caught:
        stored.require_same_request(other)
    assert "overlap: stored 0.5, asked for 0.25" in str(caught.value)
    assert "output: stored 'probability', asked for 'mask'" in str(caught.value)
    stored.require_same_request(make_plan(volume(100, 100, 100), MODEL.card, RunOptions(memory="8GB", device="cpu")))
