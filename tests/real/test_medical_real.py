"""Real images with real networks: the scores of the models' own READMEs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Voxweft

nibabel = pytest.importorskip("nibabel")


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def array(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj).T


@pytest.mark.slow
def test_vertebrae_in_ct(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    model = shared / "models/onnx_ct_bone/model.onnx"
    voxweft("batch", "-i", shared / "data/ct_body/ct.nii.gz", "-o", "out", "--backend", "onnx", "--onnx", model)
    found, truth = array(tmp_path / "out/ct.nii.gz") > 0, array(shared / "data/ct_body/spine_labels.nii.gz") > 0
    assert dice(found[91:113], truth[91:113]) == pytest.approx(0.7729, abs=0.01)  # itk_infer's own run
    assert dice(found[37:91], truth[37:91]) == pytest.approx(0.8522, abs=0.01)


@pytest.mark.slow
def test_brain_tissue_in_mr(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(shared / "data/mr_brain_t1/t1.nii.gz", tmp_path / "in/t1_0000.nii.gz")
    voxweft("nnunet", "predict", "-i", "in", "-o", "out", "-m", shared / "models/nnunet_t1_tissue", "--disable_tta")
    found, truth = array(tmp_path / "out/t1.nii.gz"), array(shared / "data/mr_brain_t1/tissue3.nii.gz")
    held = slice(round(87 / 122 * truth.shape[1]), None)
    wanted = {1: 0.7842, 2: 0.8427, 3: 0.8601}  # at 1.5 mm; at the image's own voxels a little more or less
    for label, score in wanted.items():
        assert dice(found[:, held] == label, truth[:, held] == label) == pytest.approx(score, abs=0.015)
