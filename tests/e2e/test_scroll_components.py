"""What comes after the probability: hysteresis, sizes, instances, air, as stages of pipeline and finalize."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import Voxweft
from trainernets import checkpoint, config

ndimage = pytest.importorskip("scipy.ndimage")
pytest.importorskip("cc3d")
MODEL = ("--model", "fake://blur?patch=16,16,16&classes=1", "--disable_tta", "--runtime", "torch")
CHUNK = ("--chunk-size", "16,16,16")
AFTER = ("--low", "0.47", "--high", "0.52", "--min-size", "30", "--connectivity", "18", "--instances")
CUBE = ndimage.generate_binary_structure(3, 2)


@pytest.fixture
def scan(tmp_path: Path) -> Any:
    """A scan of 90 x 80 x 150 voxels with blobs of several grey levels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(90, 80, 150)), 3)
    values = np.clip(120 + noise / noise.std() * 50, 1, 255).astype(np.uint8)
    zarr.create_array(tmp_path / "scan.zarr", data=values, chunks=(16, 32, 32))
    return values


def read(path: Path) -> Any:
    return zarr.open(path, mode="r")["0"][:]


def wanted(p: Any, low: float, high: float, least: int) -> Any:
    """Labels by scipy on the whole array: above ``low``, strictly, where above ``high`` somewhere, and large enough."""
    labels, n = ndimage.label(p > math.floor(255 * low), CUBE)
    peak = ndimage.maximum(p, labels, np.arange(1, n + 1))
    size = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    keep = np.flatnonzero((peak > math.floor(255 * high)) & (size >= least)) + 1
    return np.where(np.isin(labels, keep), labels, 0), len(keep)


def same_objects(found: Any, expected: Any) -> bool:
    """Whether two label volumes are one, but for the numbers."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize("n_parts", [1, 3, 8])
def test_the_same_objects_as_on_the_whole_array(tmp_path: Path, scan: Any, voxweft: Voxweft, n_parts: int) -> None:
    command = ("pipeline", "--input", "scan.zarr", "--output", "out.zarr", *MODEL, *CHUNK, *AFTER)
    for part in range(n_parts):
        share = ("--num_parts", n_parts, "--part_id", part) if n_parts > 1 else ()
        voxweft(*command, *share)
    p, found = read(tmp_path / "out.zarr"), read(tmp_path / "out_instances.zarr")
    expected, n = wanted(p, 0.47, 0.52, 30)
    assert n >= 5
    assert found.max() == n
    assert same_objects(found, expected)
    assert np.array_equal(read(tmp_path / "out_mask.zarr"), np.where(found > 0, 255, 0))
    with (tmp_path / "out_objects.csv").open() as file:
        sizes = [int(row["voxels"]) for row in csv.DictReader(file)]
    assert sizes == np.bincount(found.ravel())[1:].tolist()
    voxweft("verify", "out.zarr")


def test_staged_and_threshold(tmp_path: Path, scan: Any, voxweft: Voxweft) -> None:
    base = ("pipeline", "--input", "scan.zarr", *MODEL, *CHUNK)
    voxweft(*base, "--output", "staged.zarr", "--staged", *AFTER)
    expected, _ = wanted(read(tmp_path / "staged.zarr"), 0.47, 0.52, 30)
    assert same_objects(read(tmp_path / "staged_instances.zarr"), expected)
    voxweft(*base, "--output", "hard.zarr", "--threshold", "--threshold-value", "0.5", "--min-size", 30)
    mask = read(tmp_path / "hard.zarr")
    labels, n = ndimage.label(mask, np.ones((3, 3, 3)))
    size = np.bincount(labels.ravel(), minlength=n + 1)
    assert np.array_equal(read(tmp_path / "hard_mask.zarr") > 0, np.isin(labels, np.flatnonzero(size >= 30)[1:]))
    assert not (tmp_path / "hard_instances.zarr").exists()


def test_nothing_is_predicted_in_air(tmp_path: Path, scan: Any, voxweft: Voxweft) -> None:
    base = ("pipeline", "--input", "scan.zarr", *MODEL, *CHUNK)
    voxweft(*base, "--output", "all.zarr")
    voxweft(*base, "--output", "papyrus.zarr", "--support", "air<110")
    voxweft(*base, "--output", "staged.zarr", "--support", "air<110", "--staged")
    everywhere, found = read(tmp_path / "all.zarr"), read(tmp_path / "papyrus.zarr")
    assert np.array_equal(found, np.where(scan >= 110, everywhere, 0))
    assert np.abs(read(tmp_path / "staged.zarr").astype(int) - found).max() <= 1
    voxweft(*base, "--output", "papyrus.zarr", "--support", "air<111", code=2)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--low", "0.3"),
        ("--low", "0.8", "--high", "0.2"),
        ("--min-size", "-4"),
        ("--support", "air<grey"),
        ("--mode", "multiclass", "--instances"),
        ("--threshold", "--low", "0.2", "--high", "0.3"),
    ],
)
def test_bad_requests_write_nothing(tmp_path: Path, scan: Any, voxweft: Voxweft, wrong: tuple[str, ...]) -> None:
    found = voxweft("pipeline", "--input", "scan.zarr", "--output", "out.zarr", *MODEL, *wrong, code=2)
    assert wrong[0] in found.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_air_of_a_level_and_masks_called_air(tmp_path: Path, scan: Any, voxweft: Voxweft) -> None:
    sink = zarr.open_group(tmp_path / "pyramid.zarr", mode="w", zarr_format=2)
    paths: Any = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [2**n] * 3}]} for n in (0, 1)
    ]
    axes: Any = [{"name": name, "type": "space"} for name in "zyx"]
    sink.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": paths}]
    half = scan[::2, ::2, ::2]
    for name, values in (("0", scan), ("1", half)):
        sink.create_array(name, shape=values.shape, chunks=(16, 32, 32), dtype="uint8")[:] = values
    base = ("pipeline", "--input", "pyramid.zarr", "--level", 1, *MODEL, *CHUNK, "--support", "air<110")
    voxweft(*base, "--output", "fused.zarr")
    voxweft(*base, "--output", "staged.zarr", "--staged")
    fused, staged = (read(tmp_path / f"{name}.zarr").astype(int) for name in ("fused", "staged"))
    assert not fused[half < 110].any() and fused.any()
    assert np.abs(fused - staged).max() <= 1
    zarr.create_array(tmp_path / "air.zarr", data=(scan >= 110).astype(np.uint8), chunks=(16, 32, 32))
    own = ("--input", "scan.zarr", "--output", "masked.zarr", "--support-volume", "air.zarr")
    voxweft("pipeline", *own, *MODEL, *CHUNK)
    assert not read(tmp_path / "masked.zarr")[scan < 110].any()


def test_a_plan_is_repeated_with_its_table(tmp_path: Path, scan: Any, voxweft: Voxweft) -> None:
    voxweft("pipeline", "--input", "scan.zarr", "--output", "out.zarr", *MODEL, *CHUNK, *AFTER, "--quiet")
    voxweft("run", "--plan", "out.zarr", "again.zarr", "--quiet")
    assert (tmp_path / "again_objects.csv").read_bytes() == (tmp_path / "out_objects.csv").read_bytes()


def test_components_are_of_probabilities_only(tmp_path: Path, scan: Any, voxweft: Voxweft) -> None:
    targets = {"dist": {"out_channels": 1, "activation": "none", "losses": [{"name": "SmoothL1Loss"}]}}
    checkpoint(tmp_path / "net.pth", config(targets))
    done = voxweft(
        "pipeline", "--input", "scan.zarr", "--output", "out.zarr", "--model", "net.pth", "--instances", code=2
    )
    assert "one probability or mask" in done.stderr
    assert not (tmp_path / "out.zarr").exists()
