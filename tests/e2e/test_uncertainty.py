"""``--uncertainty``: a second output that is shown, checked, divided, resumed and removed like the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

from conftest import Voxweft
from voxweft.backends import DEMO

BLUR = ("--model", "fake://blur?patch=16,16,16", "--chunk", 16, "--runtime", "torch")


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    tifffile.imwrite(tmp_path / "v.tif", image)
    return tmp_path / "v.tif"


def read(path: Path) -> Any:
    return zarr.open_group(str(path), mode="r")


def test_it_lies_beside_the_output_and_says_what_it_is(voxweft: Voxweft, volume: Path, tmp_path: Path) -> None:
    voxweft("run", volume, "plain.zarr", *BLUR)
    done = voxweft("run", volume, "o.zarr", *BLUR, "--uncertainty", "entropy")
    assert "uncertainty: " in done.stdout
    found, unsure = read(tmp_path / "o.zarr"), read(tmp_path / "o_uncertainty.zarr")
    assert np.array_equal(found["0"][:], read(tmp_path / "plain.zarr")["0"][:])
    told = unsure.attrs["uncertainty"]
    assert (told["measure"], told["scale"]) == ("entropy", 1 / 255)
    p = np.minimum((found["0"][:] + 0.5) / 255, 1 - 1e-9)
    wanted = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    inside = found["0"][:] > 0
    assert np.abs(unsure["0"][:] * told["scale"] - wanted)[inside].max() < 0.03
    empty = (slice(None), slice(0, 10), slice(0, 10))  # nothing was computed there
    assert not unsure["0"][empty].any()
    assert sorted(unsure.array_keys()) == sorted(found.array_keys())
    assert "uint8" in voxweft("info", "o_uncertainty.zarr").stdout
    assert "uncertainty" in (tmp_path / "o.zarr.voxweft/report.html").read_text()
    voxweft("verify", "o.zarr")
    shutil.rmtree(tmp_path / "o_uncertainty.zarr/0/c")
    voxweft("verify", "o.zarr", code=1)
    voxweft("run", volume, "o.zarr", *BLUR, "--uncertainty", "entropy")
    voxweft("verify", "o.zarr")
    assert "uncertainty" in voxweft("run", volume, "o.zarr", *BLUR, code=2).stderr
    voxweft("run", volume, "o.zarr", *BLUR, "--overwrite")
    assert not (tmp_path / "o_uncertainty.zarr").exists()


@pytest.mark.parametrize("measure", ["entropy", "variance"])
def test_parts_and_a_sparse_sweep_give_the_same_bits(
    voxweft: Voxweft, volume: Path, tmp_path: Path, image: np.ndarray, measure: str
) -> None:
    tifffile.imwrite(volume, image := image[:24, 10:58, :64])
    mask = np.zeros(image.shape, np.uint8)
    mask[4:20, 8:30, 20:60] = 1
    tifffile.imwrite(tmp_path / "m.tif", mask)
    flags = (*BLUR, "--tta", "mirroring", "--uncertainty", measure, "--mask", "m.tif")
    voxweft("run", volume, "whole.zarr", *flags)
    voxweft("run", volume, "sparse.zarr", *flags, "--sparse")
    for part in (1, 0):
        voxweft("run", volume, "parts.zarr", *flags, "--num-parts", 2, "--part-id", part)
    for ending in (".zarr", "_uncertainty.zarr"):
        whole, parts, sparse = (read(tmp_path / f"{name}{ending}") for name in ("whole", "parts", "sparse"))
        assert whole["0"][:].any()
        assert not whole["0"][:][mask == 0].any()
        for level in whole.array_keys():
            assert np.array_equal(whole[level][:], parts[level][:])
            assert np.array_equal(whole[level][:], sparse[level][:])


def test_folds_are_compared_without_a_second_pass(voxweft: Voxweft, volume: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO, model, ignore=shutil.ignore_patterns("*.ckpt", "ink3d", "*.pth.*", "particles*"))
    shutil.copytree(model / "fold_0", model / "fold_1")
    file = next((model / "fold_1").glob("checkpoint_*.pth"))
    state = torch.load(file, weights_only=False)
    state["network_weights"] = {name: 1.05 * weight for name, weight in state["network_weights"].items()}
    torch.save(state, file)
    single = []
    for fold in (0, 1):
        voxweft("run", volume, f"f{fold}.zarr", "--model", model / f"fold_{fold}", "--runtime", "torch")
        single.append(read(tmp_path / f"f{fold}.zarr")["0"][:].astype(float) / 255)
    voxweft("run", volume, "plain.zarr", "--model", model, "--runtime", "torch")
    flags = ("--model", model, "--runtime", "torch", "--uncertainty", "variance")
    voxweft("plan", volume, *flags)
    voxweft("run", volume, "o.zarr", *flags)
    unsure = read(tmp_path / "o_uncertainty.zarr")
    assert unsure.attrs["uncertainty"]["n_models"] == 2
    assert np.abs(unsure["0"][:] * unsure.attrs["uncertainty"]["scale"] - np.std(single, axis=0)).max() < 0.005
    found, plain = (read(tmp_path / f"{name}.zarr")["0"][:].astype(int) for name in ("o", "plain"))
    assert np.abs(found - plain).max() <= 1
    voxweft("run", "--plan", "o.zarr", "again.zarr")
    assert np.array_equal(read(tmp_path / "again_uncertainty.zarr")["0"][:], unsure["0"][:])
    report = json.loads((tmp_path / "o.zarr.voxweft/report.json").read_text())
    assert report["beside"]["uncertainty"].endswith("o_uncertainty.zarr")


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ("--uncertainty doubt", "entropy or variance"),
        ("--uncertainty variance", "--tta mirroring"),
    ],
)
def test_what_has_no_uncertainty_is_refused(
    voxweft: Voxweft, volume: Path, tmp_path: Path, flags: str, hint: str
) -> None:
    for command in ("run", "plan"):
        place = ["o.zarr"] if command == "run" else []
        assert hint in voxweft(command, volume, *place, *BLUR, *flags.split(), code=2).stderr
    assert not (tmp_path / "o.zarr").exists()


def test_the_scroll_pipeline_makes_it_in_its_one_sweep(voxweft: Voxweft, volume: Path, tmp_path: Path) -> None:
    flags = ("--model", "fake://blur?patch=16,16,16", "--chunk-size", 16, "--uncertainty", "variance")
    zarr.save_array(str(tmp_path / "v.zarr"), tifffile.imread(volume))
    voxweft("pipeline", "--input", "v.zarr", "--output", "o.zarr", *flags)
    assert read(tmp_path / "o_uncertainty.zarr").attrs["uncertainty"]["n_passes"] == 3
    assert (
        "--staged" in voxweft("pipeline", "--input", "v.zarr", "--output", "p.zarr", *flags, "--staged", code=2).stderr
    )
