"""Uncertainty of a real network on a real volume: highest where a membrane ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

from conftest import Voxweft


def test_borders_of_membranes_are_less_sure_than_what_lies_inside(
    voxweft: Voxweft, shared: Path, tmp_path: Path
) -> None:
    data, model = shared / "data/em_fibsem_medulla/raw.tif", shared / "models/nnunet_fibsem_membrane"
    flags = ("--bbox", "200:232,60:120,60:120", "--tta", "mirroring", "--overlap", 0.25, "--runtime", "openvino")
    for measure in ("entropy", "variance"):
        voxweft("run", data, f"{measure}.zarr", "--model", model, *flags, "--uncertainty", measure)
        box = np.s_[200:232, 60:120, 60:120]
        mask = zarr.open(str(tmp_path / f"{measure}.zarr/0"), mode="r")[box] > 127
        unsure = zarr.open(str(tmp_path / f"{measure}_uncertainty.zarr/0"), mode="r")[box]
        inside, outside = ndimage.binary_erosion(mask, iterations=2), ndimage.binary_erosion(~mask, iterations=4)
        border = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
        assert unsure[border].mean() > 1.5 * max(unsure[inside].mean(), unsure[outside].mean())
