"""The main job on a real volume with a real network: the score of the model's own README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from conftest import Voxweft


def membranes(labels: np.ndarray) -> np.ndarray:
    """Both voxels of every face between two labels, dilated once by the 6-neighbour cross."""
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        lower, upper = (
            tuple(slice(*s) if a == axis else slice(None) for a in range(3)) for s in ((None, -1), (1, None))
        )
        differs = labels[lower] != labels[upper]
        border[lower] |= differs
        border[upper] |= differs
    grown = border.copy()
    for axis in range(3):
        lower, upper = (
            tuple(slice(*s) if a == axis else slice(None) for a in range(3)) for s in ((None, -1), (1, None))
        )
        grown[lower] |= border[upper]
        grown[upper] |= border[lower]
    return grown


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_dice_on_the_planes_that_were_held_out(voxweft: Voxweft, shared: Path, tmp_path: Path, runtime: Any) -> None:
    data, model = shared / "data/em_fibsem_medulla", shared / "models/nnunet_fibsem_membrane"
    box = "186:250,:,:" if runtime == "torch" else ":,:,:"
    voxweft("run", data / "raw.tif", "o.zarr", "--model", model, "--runtime", runtime, "--bbox", box)
    found = zarr.open(str(tmp_path / "o.zarr/0"), mode="r")[186:250] > 127
    truth = membranes(tifffile.imread(data / "labels.tif"))[186:250]
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice == pytest.approx(0.788, abs=0.01)
    report = json.loads((tmp_path / "o.zarr.voxweft/report.json").read_text())
    assert report["totals"]["n_patches"] >= 147
    page = (tmp_path / "o.zarr.voxweft/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 9
    assert "no seams" in page
    assert "http" not in page.replace("http-equiv", "").split("</style>")[1].split("Provenance")[0]
