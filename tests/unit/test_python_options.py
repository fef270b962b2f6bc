"""Options by their names from Python, plans of paths and arrays, and what a notebook shows."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxweft
from voxweft.image import VolumeInfo

NULL = "fake://null?patch=16,16,16"
IMAGE = np.random.default_rng(0).integers(0, 255, (20, 30, 40), dtype=np.uint8)


def test_only_public_names_are_listed() -> None:
    assert dir(voxweft) == sorted(voxweft.__all__)


def test_a_run_by_names_is_that_of_the_objects(tmp_path: Path) -> None:
    how = {
        "patch_size": (16, 16, 16),
        "bbox": (slice(0, 16), slice(None), (8, 40)),
        "memory": 9e9,
        "overlap": np.float64(0.25),
    }
    report = voxweft.run(IMAGE, tmp_path / "a.zarr", NULL, output="mask", workers=1, **how)
    options = voxweft.RunOptions(patch_size="16,16,16", bbox="0:16,:,8:40", memory="9GB", overlap=0.25, output="mask")
    other = voxweft.run(IMAGE, tmp_path / "b.zarr", NULL, options, execution=voxweft.Execution(workers=1))
    assert report.plan_digest == other.plan_digest
    assert np.array_equal(voxweft.open_volume(tmp_path / "a.zarr")[...], voxweft.open_volume(tmp_path / "b.zarr")[...])
    assert repr(report).startswith(f"<report of {tmp_path / 'a.zarr'}: complete, 1 of 1 unit, ")
    assert "<img" in report._repr_html_()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"outptu": "mask"}, "there is no option 'outptu'; did you mean output?"),
        ({"num_part": 2}, "did you mean num_parts"),
        ({"overlap": "half"}, "float expected"),
        ({"overlap": 1.5}, "use 0 <= overlap < 1"),
        ({"mask": IMAGE}, "mask cannot be an array of shape (20, 30, 40)"),
        ({"patch_size": (16, "x")}, "--patch-size"),
    ],
)
def test_a_wrong_name_or_value_is_refused_before_anything_is_written(tmp_path: Path, given: Any, says: str) -> None:
    with pytest.raises(voxweft.VoxweftError) as caught:
        voxweft.run(IMAGE, tmp_path / "o.zarr", NULL, **given)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_help_and_completion_know_the_options() -> None:
    for function in (voxweft.run, voxweft.forecast, voxweft.make_plan, voxweft.run_many):
        assert {"overlap", "output", "bbox"} <= inspect.signature(function).parameters.keys()
    assert "workers" in inspect.signature(voxweft.run).parameters


def test_a_plan_is_made_of_paths_arrays_and_descriptions(tmp_path: Path) -> None:
    np_plan = voxweft.make_plan(IMAGE, NULL, overlap=0.25)
    voxweft.run(IMAGE, tmp_path / "o.zarr", NULL, overlap=0.25)
    of_path = voxweft.make_plan(tmp_path / "o.zarr", voxweft.load_model(NULL), overlap=0.25)
    of_info = voxweft.make_plan(
        VolumeInfo("v", "test", (20, 30, 40), "uint8"), voxweft.load_model(NULL).card, overlap=0.25
    )
    n_tiles = {plan.sweep.grid.n_tiles for plan in (np_plan, of_path, of_info)}
    assert len(n_tiles) == 1
    assert repr(np_plan) == f"<plan of run: {n_tiles.pop()} patches of 16 x 16 x 16 voxels, 1 slab of sweep>"
    assert "overlap 0.25" in np_plan._repr_html_()


def test_models_say_what_they_are_without_the_folders_of_this_machine() -> None:
    model = voxweft.load_model("demo")
    assert repr(model) == "<model demo: nnU-Net v2, patch 64 x 64 x 64, 1 channel to 2 classes, 1 fold>"
    page = model._repr_html_()
    assert "membrane" in page
    assert str(Path(voxweft.__file__).parent) not in page
