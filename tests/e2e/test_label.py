"""Connected components by the command: in parts, by workers, killed, and of what runs wrote."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import Voxweft

ndimage = pytest.importorskip("scipy.ndimage")
pytest.importorskip("cc3d")
FLAGS = ("--chunk", "16,16,16", "--connectivity", "18")


@pytest.fixture
def mask(tmp_path: Path) -> Any:
    """A mask of 300 x 70 x 290 voxels, several blocks, with components that cross them."""
    rng = np.random.default_rng(1)
    values = ndimage.uniform_filter(rng.random((300, 70, 290)), 5) > 0.53
    zarr.create_array(tmp_path / "mask.zarr", data=values.astype(np.uint8), chunks=(64, 64, 64))
    return values


def read(path: Path) -> Any:
    return zarr.open(path, mode="r")["0"][:]


def test_parts_workers_and_the_table(tmp_path: Path, mask: Any, voxweft: Voxweft) -> None:
    voxweft("label", "mask.zarr", "one.zarr", *FLAGS, "--min-size", 20)
    found = read(tmp_path / "one.zarr")
    wanted, n = ndimage.label(mask, ndimage.generate_binary_structure(3, 2))
    sizes = np.bincount(wanted.ravel(), minlength=n + 1)
    kept = np.flatnonzero(sizes >= 20)[1:]
    assert found.max() == len(kept) > 10
    assert np.array_equal(found > 0, np.isin(wanted, kept))
    for part in (1, 0, 2):
        voxweft("label", "mask.zarr", "parts.zarr", *FLAGS, "--min-size", 20, "--num-parts", 3, "--part-id", part)
    voxweft("label", "mask.zarr", "workers.zarr", *FLAGS, "--min-size", 20, "--workers", 2)
    assert np.array_equal(read(tmp_path / "parts.zarr"), found)
    assert np.array_equal(read(tmp_path / "workers.zarr"), found)
    voxweft("verify", "parts.zarr")
    with (tmp_path / "one_objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    boxes = ndimage.find_objects(found.astype(int))
    edge = np.pad(found, 1, mode="edge")
    shifts = [np.roll(edge, s, a)[1:-1, 1:-1, 1:-1] for a in range(3) for s in (1, -1)]
    outer = np.bincount(found[np.any([s != found for s in shifts], axis=0)], minlength=len(rows) + 1)
    for row, box in zip(rows, boxes, strict=True):
        k = int(row["id"])
        assert int(row["voxels"]) == (found[box] == k).sum()
        assert [int(row[f"{a}_start"]) for a in "zyx"] == [side.start for side in box]
        assert int(row["surface_voxels"]) == outer[k]


def test_killed_and_continued(tmp_path: Path, mask: Any, voxweft: Voxweft) -> None:
    command = [sys.executable, "-m", "voxweft", "label", "mask.zarr", "out.zarr", *FLAGS, "-q"]
    n_killed = 0
    for seconds in (1.5, 2.2, 2.8):
        with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as run:
            try:
                run.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                n_killed += 1
    assert n_killed > 0
    voxweft("label", "mask.zarr", "out.zarr", *FLAGS)
    voxweft("label", "mask.zarr", "whole.zarr", *FLAGS)
    assert np.array_equal(read(tmp_path / "out.zarr"), read(tmp_path / "whole.zarr"))


def test_probabilities_of_a_run_become_objects(tmp_path: Path, voxweft: Voxweft) -> None:
    rng = np.random.default_rng(2)
    zarr.save_array(tmp_path / "image.zarr", (ndimage.uniform_filter(rng.random((40, 50, 60)), 5) * 255).astype("u1"))
    voxweft("run", "image.zarr", "likely.zarr", "--model", "fake://null?patch=16,16,16")
    voxweft("label", "likely.zarr", "objects.zarr", "--low", 140, "--high", 200)
    likely, found = read(tmp_path / "likely.zarr"), read(tmp_path / "objects.zarr")
    assert not found[likely < 140].any()
    assert set(np.unique(found[likely >= 200])) >= set(np.unique(found[found > 0]))
    voxweft("label", "likely.zarr", "quiet.zarr", "--threshold", 140, "-q", "--report", "page.html")
    assert "The largest" in (tmp_path / "page.html").read_text()
    page = (tmp_path / "objects.zarr.voxweft" / "report.html").read_text()
    assert "The largest" in page
