"""A forecast counts the patches that are run, and tries them where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from voxweft.backends import load_model
from voxweft.engine.options import RunOptions
from voxweft.engine.totals import n_cores
from voxweft.runner.emptiness import Emptiness, is_constant
from voxweft.runner.forecast import measure_cost
from voxweft.runner.planning import plan_run
from voxweft.stores import open_volume

NULL = "fake://null?patch=16,16,16&delay=5"


def _volume(where: tuple[slice, ...]) -> Any:
    values = np.zeros((64, 96, 96), np.uint8)
    values[where] = np.random.default_rng(0).integers(0, 255, values[where].shape, dtype=np.uint8)
    return values


@pytest.mark.parametrize(
    "where", [np.s_[:, :, :], np.s_[:32], np.s_[40:, 70:, :20], np.s_[24:40, 40:56, 40:56], np.s_[:0]]
)
@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_the_share_is_that_of_all_patches(tmp_path: Any, where: Any, kind: str) -> None:
    values = _volume(where)
    if kind == "zarr":  # where nothing is stored for what is empty
        zarr.create_array(
            str(tmp_path / "in.zarr"), data=values, chunks=(16, 16, 16), config={"write_empty_chunks": False}
        )
    volume = open_volume(values if kind == "memory" else str(tmp_path / "in.zarr"))
    stage = plan_run(volume, [load_model(NULL)], RunOptions(runtime="torch")).plan.sweep
    boxes = [stage.grid.tile(index).box for index in np.ndindex(*(axis.count for axis in stage.grid.axes))]
    true = np.mean([not is_constant(volume.read(box)) for box in boxes])
    found = Emptiness.of(stage, volume, 60.0)
    assert found.share_run == pytest.approx(true, abs=0.05)
    middle = np.array(found.middle)
    if values.any():  # some patch around it is run
        around = tuple(slice(max(0, m - 16), m + 16) for m in middle)
        assert values[around].any()
    if values[32, 48, 48]:
        assert found.middle == (32, 48, 48)


@pytest.mark.parametrize("where", [np.s_[:], np.s_[:32, :32, :32]])
def test_a_patch_costs_what_it_costs_where_something_is(where: Any) -> None:
    """Also where the middle of the volume is empty."""
    volume, options = open_volume(_volume(where)), RunOptions(runtime="torch", overlap=0.0)
    cost = measure_cost(plan_run(volume, [load_model(NULL)], options), options, 0.1)
    assert cost.patch_s >= 0.004 / n_cores()  # each sleeps 5 ms, and something overlaps
    assert cost.share_run == pytest.approx(1.0 if where == np.s_[:] else 8 / 144, abs=0.03)
