"""Memory follows the cross-section of a column, not the depth of the volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from conftest import Voxweft


@pytest.mark.slow
def test_twice_the_depth_takes_no_more_memory(voxweft: Voxweft, tmp_path: Path) -> None:
    layer = np.random.default_rng(0).integers(0, 255, (64, 640, 640), dtype=np.uint8)
    peaks: dict[int, list[int]] = {6: [], 12: []}
    for n_layers, seen in peaks.items():
        array = zarr.create_array(
            str(tmp_path / f"{n_layers}.zarr"), shape=(64 * n_layers, 640, 640), chunks=(64, 128, 128), dtype="uint8"
        )
        for z in range(0, array.shape[0], 64):
            array[z : z + 64] = layer
        model = "fake://null?patch=64,64,64&classes=2"
        flags = ["--model", model, "--runtime", "torch", "--chunk", "64,128,128", "--overlap", "0.25"]
        for _ in range(2):  # threads may meet differently on a busy machine
            voxweft("run", f"{n_layers}.zarr", f"out{n_layers}.zarr", *flags, "--overwrite")
            report = json.loads((tmp_path / f"out{n_layers}.zarr.voxweft/report.json").read_text())
            seen.append(report["peak_memory_bytes"])
    assert min(peaks[12]) < 1.02 * max(peaks[6])


def test_a_limit_is_kept(voxweft: Voxweft, tmp_path: Path) -> None:
    layer = np.random.default_rng(0).integers(0, 255, (64, 1024, 1024), dtype=np.uint8)
    zarr.create_array(str(tmp_path / "in.zarr"), shape=layer.shape, chunks=(64, 128, 128), dtype="uint8")[:] = layer
    model = "fake://null?patch=64,64,64&classes=6"
    voxweft("run", "in.zarr", "wide.zarr", "--model", model, "--overlap", "0")
    voxweft("run", "in.zarr", "o.zarr", "--model", model, "--overlap", "0", "--memory", "0.8GB")
    wide, kept = (json.loads((tmp_path / f"{n}.zarr.voxweft/report.json").read_text()) for n in ("wide", "o"))
    assert wide["peak_memory_bytes"] > 1.2e9
    assert kept["peak_memory_bytes"] < 0.82e9
    one, other = (zarr.open(str(tmp_path / f"{n}.zarr/0"), mode="r") for n in ("wide", "o"))
    assert np.array_equal(one[:, :, :300, :300], other[:, :, :300, :300])
