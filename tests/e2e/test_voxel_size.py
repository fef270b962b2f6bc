"""Voxels of another size than those of the training: told in the first line, and mended by --resample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from conftest import SHARED, Voxweft

T1 = SHARED / "data/mr_brain_t1"
MODEL = SHARED / "models/nnunet_t1_tissue"
pytestmark = pytest.mark.skipif(not (T1.exists() and MODEL.exists()), reason="needs the shared volume and model")
FLAGS = ["--model", MODEL, "--output", "labels", "--runtime", "jit", "--precision", "fp32"]


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_the_first_line_says_it(voxweft: Voxweft) -> None:
    said = voxweft("plan", T1 / "t1.nii.gz", *FLAGS, "--bbox", "100:110,100:140,60:100", "--json")
    assert "0.492 times as long in z" in said.stderr.splitlines()[0]
    assert "--resample" in said.stderr.splitlines()[0]
    assert "times as long in z" in json.loads(said.stdout)["plan"]["notes"][0]


def test_resample_mends_it_in_parts(voxweft: Voxweft, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    truth = np.asarray(nibabel.load(T1 / "tissue3.nii.gz").dataobj).T
    asked = ["run", T1 / "t1.nii.gz", "out.zarr", *FLAGS, "--overlap", 0.25, "--resample", "--num-parts", 2]
    for part in (1, 0):
        done = voxweft(*asked, "--part-id", part)
        assert "times as long" not in done.stderr
    found = zarr.open_group(tmp_path / "out.zarr")["0"][:]
    assert found.shape == truth.shape
    assert dice(found == 2, truth == 2) > 0.78  # 0.44 on its own grid
    assert "complete" in (tmp_path / "out.zarr.voxweft/report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["nothing.tif", "--model", MODEL], "voxel sizes of both"), (["t1", "--model", MODEL, "--mask", "t1"], "--mask")],
)
def test_what_resample_cannot_do(voxweft: Voxweft, tmp_path: Path, flags: Any, says: Any) -> None:
    tifffile.imwrite(tmp_path / "nothing.tif", np.random.default_rng(0).integers(0, 255, (20, 40, 40), np.uint8))
    source, *more = [T1 / "t1.nii.gz" if one == "t1" else one for one in flags]
    failed = voxweft("run", source, "no.zarr", *more, "--resample", code=2)
    assert says in failed.stderr
    assert len(failed.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "no.zarr").exists()
