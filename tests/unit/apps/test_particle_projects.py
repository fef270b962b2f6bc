"""Particles: models opened once, configs of copick, and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxweft.apps.particles import Project, segment
from voxweft.apps.particles.options import SegmentOptions
from voxweft.backends.loaded import LoadedModel
from voxweft.errors import RequestError
from voxweft.runner import batch
from voxweft.stores.copick import create_project
from voxweft.stores.copick_files import SegmentationName, TomogramName, fit_name
from voxweft.stores.ngff04 import write_group


def test_a_model_is_loaded_and_opened_once_for_many_tomograms(tmp_path: Path, monkeypatch: Any) -> None:
    project = create_project(tmp_path / "config.json", tmp_path, [{"name": "a", "label": 1, "radius": 50}])
    rng = np.random.default_rng(0)
    for k in range(6):
        values = rng.normal(100, 20, (20, 24, 28)).astype(np.float32)
        place = f"{tmp_path}/ExperimentRuns/R{k}/VoxelSpacing10.000/wbp.zarr"
        write_group(
            place, lambda box, v=values: v[box.slices][None], shape_zyx=(20, 24, 28), dtype="float32", voxel_size=10
        )
    opened, loaded = [], []
    plain_open, plain_reload = LoadedModel.open, batch.reload
    monkeypatch.setattr(LoadedModel, "open", lambda self, setting: opened.append(setting) or plain_open(self, setting))
    monkeypatch.setattr(batch, "reload", lambda ref: loaded.append(ref) or plain_reload(ref))
    batch.loaded_once.cache_clear()
    report = segment(
        SegmentOptions(config=project.path, model_weights="fake://null?classes=3", ntta=1, runtime="torch")
    )
    assert [run.status for run in report.runs] == ["done"] * 6
    assert len(loaded) == 1
    assert 1 <= len(opened) <= 2  # the first one to choose how it is run


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("predict:octopi/1", ("predict", "octopi", "1")),
        ("predict,unet,2", ("predict", "unet", "2")),
        ("my_net:a b/3@10.0?multilabel=true", ("my-net", "a-b", "3")),
        ("predict", ("predict", "octopi", "1")),
    ],
)
def test_names_of_segmentations(text: str, wanted: tuple[str, str, str]) -> None:
    assert SegmentationName.parse(text) == SegmentationName(*wanted)


def test_names_that_are_none() -> None:
    for text in ("a:b/c/d", "", ":", "a,,b"):
        with pytest.raises(RequestError, match="names no segmentation"):
            SegmentationName.parse(text)
    for text in ("wbp", "@10", "wbp@", "wbp@zero", "wbp@-1", "wbp@inf"):
        with pytest.raises(RequestError, match="names no tomogram"):
            TomogramName.parse(text)
    with pytest.raises(RequestError, match="is no name"):
        fit_name("_/ ")


def test_roots_of_a_config(tmp_path: Path, monkeypatch: Any) -> None:
    """Absolute, beside the config, or below the working folder if only there are runs."""
    (tmp_path / "here/ExperimentRuns/A").mkdir(parents=True)
    (tmp_path / "there/p/ExperimentRuns/B").mkdir(parents=True)
    config = tmp_path / "there/config.json"
    monkeypatch.chdir(tmp_path / "here")
    for root, runs in ((f"local://{tmp_path}/here", ["A"]), ("local://p", ["B"]), ("local://.", ["A"]), ("p", ["B"])):
        config.write_text(json.dumps({"overlay_root": root}))
        assert Project(str(config)).runs() == runs


def test_an_overlay_lies_above_a_static_root(tmp_path: Path) -> None:
    place = "ExperimentRuns/{}/VoxelSpacing10.000/{}.zarr"
    for folder, run, kind in (
        ("over", "A", "wbp"),
        ("static", "A", "wbp"),
        ("static", "A", "raw"),
        ("static", "B", "wbp"),
    ):
        (tmp_path / folder / place.format(run, kind)).mkdir(parents=True)
    (tmp_path / "static/ExperimentRuns/A/VoxelSpacing10.000/wbp_embedding_features.zarr").mkdir()
    roots = {"overlay_root": f"local://{tmp_path}/over", "static_root": f"local://{tmp_path}/static"}
    (tmp_path / "config.json").write_text(json.dumps(roots))
    project = Project(str(tmp_path / "config.json"))
    assert project.runs() == ["A", "B"]
    found = project.tomograms("A")
    assert found.keys() == {TomogramName("wbp", 10.0), TomogramName("raw", 10.0)}
    assert found[TomogramName("wbp", 10.0)].startswith(f"{tmp_path}/over")
