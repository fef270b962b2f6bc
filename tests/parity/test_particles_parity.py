"""What octopi 1.7 put out for a real copick project: segmentation, logits, picks, scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

import voxweft
from voxweft.apps.particles.evaluate import evaluate
from voxweft.apps.particles.localize import localize
from voxweft.apps.particles.options import EvaluateOptions, LocalizeOptions, OctopiRun, SegmentOptions
from voxweft.apps.particles.segment import segment
from voxweft.stores.copick import Project
from voxweft.stores.copick_files import PicksName

pytest.importorskip("monai")
pytest.importorskip("skimage")
RUNS, OBJECTS = ("TS_001", "TS_002"), ("apoferritin", "beta-galactosidase", "ribosome")


@pytest.fixture
def golden(shared: Path, tmp_path: Path) -> Path:
    """The config of a copy of the project."""
    source = shared / "golden/particles"
    shutil.copytree(source / "project", tmp_path / "project")
    text = (source / "config.json").read_text().replace("local://PROJECT", f"local://{tmp_path}/project")
    (tmp_path / "config.json").write_text(text)
    return tmp_path / "config.json"


def as_sets(project: Project, run: str, name: str, sessions: tuple[str, str]) -> tuple[Any, Any]:
    """The centres of two sessions, in one order."""
    found = [project.read_picks(run, PicksName(name, "octopi", session)).centres for session in sessions]
    return tuple(one[np.lexsort(one.round(2).T)] for one in found)


@pytest.mark.parametrize(("method", "session"), [("watershed", "1"), ("com", "2")])
def test_picks_are_those_of_octopi(golden: Path, method: str, session: str) -> None:
    report = localize(LocalizeOptions(config=str(golden), method=method, pick_session_id="9"))
    assert [run.status for run in report.runs] == ["done", "done"]
    project, n = Project(str(golden)), 0
    for run in RUNS:
        for name in OBJECTS:
            theirs, ours = as_sets(project, run, name, (session, "9"))
            assert theirs.shape == ours.shape
            assert np.abs(theirs - ours).max() < 1e-3
            n += len(ours)
    assert n > 40


def test_labels_come_from_the_log_of_a_segmentation(golden: Path) -> None:
    """The log of "permuted" says other numbers than the config does."""
    localize(LocalizeOptions(config=str(golden), seg_uri="permuted:octopi/1", pick_session_id="8"))
    localize(LocalizeOptions(config=str(golden), seg_uri="predict:octopi/1", pick_session_id="9"))
    project = Project(str(golden))
    for run in RUNS:
        for name in OBJECTS:
            a, b = as_sets(project, run, name, ("8", "9"))
            assert len(a) == len(b) > 0
            assert np.abs(a - b).max() < 1e-3


@pytest.mark.parametrize("session", ["1", "2"])
def test_scores_are_those_of_octopi(golden: Path, shared: Path, tmp_path: Path, session: str) -> None:
    options = EvaluateOptions(
        config=str(golden),
        ground_truth_user_id="data-portal",
        ground_truth_session_id="0",
        predict_session_id=session,
        output=str(tmp_path / "scores"),
    )
    evaluate(options)
    theirs = shared / f"golden/particles/scores/scores_s{session}"
    for name, load in (("metrics.json", json.loads), ("average_metrics.yaml", yaml.safe_load)):
        ours, wanted = (load((folder / name).read_text()) for folder in (tmp_path / "scores", theirs))
        ours["input"]["copick_config"] = wanted["input"]["copick_config"]
        assert ours == wanted


def test_segmentation_is_that_of_octopi(golden: Path, shared: Path) -> None:
    model = shared / "golden/particles/unet_a"
    options = SegmentOptions(
        config=str(golden),
        model_weights=f"{model}.pth",
        model_config=f"{model}.yaml",
        ntta=1,
        seg_uri="ours:octopi/1",
        runtime="torch",
    )
    segment(options)
    for run in RUNS:
        folder = golden.parent / f"project/ExperimentRuns/{run}/Segmentations"
        theirs, ours = (
            zarr.open_group(folder / f"10.000_octopi_1_{n}-multilabel.zarr", mode="r")["0"] for n in ("tiny1", "ours")
        )
        assert (ours.shape, ours.dtype, ours.chunks) == (theirs.shape, theirs.dtype, theirs.chunks)
        assert (theirs[:] == ours[:]).mean() >= 0.999


def test_logits_are_those_of_octopi(golden: Path, shared: Path) -> None:
    source = shared / "golden/particles"
    model = voxweft.load_model(source / "unet_a.pth", model_config=str(source / "unet_a.yaml"))
    options = OctopiRun(
        window="uniform",
        fit="snap",
        patch_stride="24",
        skip_empty=False,
        output="logits",
        runtime="torch",
        pyramid=False,
    )
    with np.load(source / "logits_tiny1.npz") as wanted:
        for run, key in zip(RUNS, ("r0", "r1"), strict=True):
            sink = voxweft.open_sink("memory://")
            tomogram = golden.parent / f"project/ExperimentRuns/{run}/VoxelSpacing10.000/wbp.zarr"
            voxweft.run(tomogram, sink, model, options)
            found = sink.read(voxweft.Box((24, 40, 40), (40, 72, 72)))
            assert np.abs(found - wanted[key]).max() < 1e-3
