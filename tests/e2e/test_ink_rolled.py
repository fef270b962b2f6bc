"""The same letters by a network for volumes in the scroll, and by one for layers on the flattened surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from conftest import Voxweft
from surfaces import auc
from voxweft.testing import Roll, make_ink_phantom
from voxweft.testing.roll import write_tifxyz

pytest.importorskip("tifffile")
ROWS, COLUMNS, DEPTH = 192, 320, 12


@pytest.mark.slow
def test_native_and_flattened_find_the_same_letters(tmp_path: Path, voxweft: Voxweft) -> None:
    phantom = make_ink_phantom((DEPTH, ROWS, COLUMNS), seed=7)
    roll = Roll(ROWS, COLUMNS, DEPTH, radius=150.0)
    zarr.create_array(str(tmp_path / "scroll.zarr"), data=roll.lay(phantom.layers), chunks=(32, 32, 32))
    write_tifxyz(tmp_path / "seg", roll.points(), 0.25)
    near = ("--surface", "seg", "--chunk-halo", 0, "--overlap", 0.25)
    voxweft("ink", "volume", "scroll.zarr", "ink3d.zarr", "--model", "demo-ink3d", *near)
    voxweft("ink", "flatten", "ink3d.zarr", "seg", "native.png")
    voxweft("ink", "flatten", "scroll.zarr", "seg", "layers.zarr", "--depth", DEPTH, "--reduce", "none")
    window = ("--start-layer", 0, "--end-layer", DEPTH, "--stride", 8, "--zarr-output-dir", ".", "--runtime-dir", ".")
    voxweft("ink", "infer", "layers.zarr", "layers.png", "--model", "demo-ink", *window)
    inside = (slice(ROWS - 4), slice(COLUMNS - 4))  # where points of the coarse grid are on all sides
    found = [np.asarray(Image.open(tmp_path / name))[inside] for name in ("native.png", "layers.png")]
    native, layers = (auc(values, phantom.ink[inside]) for values in found)
    assert layers > 0.96
    assert abs(native - layers) < 0.02
