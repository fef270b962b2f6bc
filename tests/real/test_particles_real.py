"""The commands of octopi's page on simulated tomograms of five particles, with a network trained on others of them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

from conftest import Voxweft
from voxweft.apps.particles import PicksName, Project

pytest.importorskip("monai")
EASY = ("apo-ferritin", "ribosome", "virus-like-particle")


@pytest.fixture
def project(shared: Path, tmp_path: Path) -> Path:
    """A copy of the project in the working folder, its truth also under the name that the page has."""
    shutil.copytree(shared / "data/cryoet_sim", tmp_path, dirs_exist_ok=True)
    for picks in tmp_path.glob("ExperimentRuns/*/Picks/simulator_1_*.json"):
        shutil.copy(picks, picks.with_name(picks.name.replace("simulator_1", "data-portal_0")))
    for suffix in (".pth", "_config.yaml"):
        shutil.copy(shared / f"models/octopi_cryoet/best_model{suffix}", tmp_path)
    return tmp_path


def commands(shared: Path) -> list[list[str]]:
    """Every command line of the page, with the names of its options and nothing else."""
    page = next((shared / "seeds").glob("004*.txt")).read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    joined = [re.sub(r"\\?\n\s+", " ", block) for block in blocks]
    return [shlex.split(line) for block in joined for line in block.splitlines() if line.startswith("octopi")]


@pytest.mark.slow
def test_every_command_of_the_page_runs(shared: Path, project: Path, voxweft: Voxweft) -> None:
    found = commands(shared)
    assert [words[1] for words in found] == ["segment", "segment", "localize", "evaluate"]
    for n in (1, 2):  # the ensemble of the page, here of one network twice
        for suffix, name in ((".pth", f"model{n}.pth"), ("_config.yaml", f"model{n}.yaml")):
            shutil.copy(project / f"best_model{suffix}", project / name)
    for words in found:
        voxweft(*words, *(["-ntta", "1"] if words[1] == "segment" else []))
    scores = yaml.safe_load((project / "evaluate_results/average_metrics.yaml").read_text())
    counts = scores["aggregated_particle_scores"]
    for name in EASY:
        assert counts[name]["fp"] + counts[name]["fn"] == 0
    assert scores["final_fbeta_score"] > 0.75
    one, both = (
        zarr.open_group(project / f"ExperimentRuns/SIM_002/Segmentations/10.000_{n}-multilabel.zarr", mode="r")["0"][:]
        for n in ("unet_1_predict", "octopi_1_ensemble")
    )
    assert (one == both).mean() > 0.9999  # the same network twice


@pytest.mark.slow
def test_dice_and_scores_mean_something(shared: Path, project: Path, voxweft: Voxweft) -> None:
    """Dice on the run that was held out as in the model's README; sure picks are right more often than unsure ones."""
    voxweft("particles", "segment", "-c", "config.json", "-mw", "best_model.pth", "-ntta", "1", "--save-probabilities")
    found = zarr.open_group(
        project / "ExperimentRuns/SIM_002/Segmentations/10.000_octopi_1_predict-multilabel.zarr", mode="r"
    )["0"][:]
    wanted = json.loads((shared / "models/octopi_cryoet/metrics.json").read_text())["heldout_dice_spheres"]
    truth = spheres(project, found.shape)
    for name, label in yaml.safe_load((project / "best_model_config.yaml").read_text())["labels"].items():
        a, b = found == label, truth == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) == pytest.approx(wanted[name], abs=0.02)
    copick = Project(str(project / "config.json"))
    for n, method in enumerate(("watershed", "com", "peaks")):
        voxweft("particles", "localize", "-c", "config.json", "-m", method, "-psid", n)
        several = 0
        for name, one in copick.particles.items():
            scores, right = judged(copick, name, str(n), 0.8 * (one.radius or 0))
            if right.all() or not right.any():
                continue
            order = np.argsort(-scores, kind="stable")
            upper, lower = right[order[: len(order) // 2]].mean(), right[order[len(order) // 2 :]].mean()
            assert upper > lower, (method, name)
            several += 1
        assert several >= 2
        assert len(np.unique(scores)) > 5


def spheres(project: Path, shape: Any) -> Any:
    """Balls of 0.7 radii around the true centres of SIM_002, the higher label on top."""
    copick, labels = Project(str(project / "config.json")), np.zeros(shape, np.uint8)
    for one in sorted(copick.particles.values(), key=lambda o: o.label or 0):
        radius = 0.7 * (one.radius or 0) / 10
        for centre in copick.read_picks("SIM_002", PicksName(one.name, "simulator", "1")).centres[:, ::-1] / 10:
            lo = np.maximum(0, np.floor(centre - radius)).astype(int)
            hi = np.minimum(shape, np.ceil(centre + radius) + 1).astype(int)
            z, y, x = np.ogrid[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
            inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2
            window = labels[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
            window[inside] = np.maximum(window[inside], one.label or 0)
    return labels


def judged(copick: Project, name: str, session: str, far: float) -> tuple[Any, Any]:
    """Scores of all picks of an object, and whether each is near to a true one."""
    scores, right = [], []
    for run in copick.runs():
        picks = copick.read_picks(run, PicksName(name, "octopi", session))
        truth = copick.read_picks(run, PicksName(name, "simulator", "1")).centres
        distance = np.linalg.norm(picks.centres[:, None] - truth[None], axis=2).min(axis=1)
        scores.append(picks.scores)
        right.append(distance < far)
    return np.concatenate(scores), np.concatenate(right)
