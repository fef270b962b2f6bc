"""The ink phantom, made harder, with the network that was trained on its upper rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Voxweft
from surfaces import auc, degraded_phantom, ink_of_phantom, write_layers

HELD_OUT = 1464 * 3 // 4


@pytest.mark.slow
def test_the_trained_network_finds_the_text(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    write_layers(tmp_path / "seg", degraded_phantom(shared)[:, HELD_OUT - 64 :])
    model = shared / "models/ink_timesformer_tiny/timesformer_tiny.ckpt"
    window = ["--start-layer", 0, "--end-layer", 11, "--zarr-output-dir", "parts", "--runtime-dir", "."]
    voxweft("ink", "run", "seg", "out.png", "--model", model, *window)
    found = np.asarray(Image.open(tmp_path / "out.png"))[64:]
    ink = ink_of_phantom(shared)[HELD_OUT:]
    assert abs(auc(found, ink) - 0.91) < 0.02
    rows = found.mean(axis=1)  # lines of text: clearly brighter bands
    assert rows.max() > 3 * rows.min()
