"""Checkpoints of vesuvius.train through the command: every target an output of its own, from one sweep."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from conftest import Voxweft
from trainernets import DISTANCE, INK, NORMALS, SURFACE, checkpoint, config, forward, legacy, weights
from voxweft.engine.plan import Plan
from voxweft.geometry.window import WINDOWS
from warm import WarmProcess

Array = NDArray[Any]
FLAGS = ("--model", "net.pth", "--runtime", "torch", "--chunk", "8,32,32")
CONFIG = config()


@pytest.fixture(scope="module")
def volume(image: Array) -> Array:
    return np.ascontiguousarray(image[:28, 8:38, 8:42])


@pytest.fixture
def place(tmp_path: Path, volume: Array) -> Path:
    """A folder with in.zarr and net.pth."""
    zarr.create_array(str(tmp_path / "in.zarr"), shape=volume.shape, chunks=(16, 32, 32), dtype="uint8")[:] = volume
    checkpoint(tmp_path / "net.pth", CONFIG, normalization_scheme="zscore")
    return tmp_path


def stored(path: Path) -> Array:
    return np.asarray(zarr.open_array(str(path / "0"), mode="r")[:])


def digest(*stores: Path) -> list[dict[str, bytes]]:
    return [
        {str(p.relative_to(s)): p.read_bytes() for p in sorted(s.rglob("*")) if p.is_file() and "/c/" in str(p)}
        for s in stores
    ]


def blended(output: Path, volume: Array, made: dict[str, Any], mirrored: Sequence[int] = ()) -> dict[str, Array]:
    """sum(w l) / sum(w) of every target in float64, by the grid of the stored plan; zeros where no patch ran.

    ``mirrored``: axes of the volume, all subsets of which are averaged; a mirrored vector is mirrored.
    """
    stage = Plan.from_json((output.parent / f"{output.name}.voxweft/plan.json").read_bytes()).sweep
    grid, state = stage.grid, weights(made)
    z, y, x = (WINDOWS[stage.window](p, stage.sigma_scale) for p in grid.patch)
    window = z[:, None, None] * y[:, None] * x
    total: dict[str, Any] = dict.fromkeys(made["targets"], 0)
    weight = np.zeros(volume.shape)
    for index in np.ndindex(*(a.count for a in grid.axes)):
        where = tuple(slice(a.start(i), a.start(i) + p) for a, i, p in zip(grid.axes, index, grid.patch, strict=True))
        patch = volume[where].astype(np.float64)
        if np.ptp(patch) == 0:
            continue
        patch = (patch - patch.mean()) / patch.std()
        weight[where] += window
        views = [v for n in range(len(mirrored) + 1) for v in itertools.combinations(mirrored, n)]
        for axes in views:
            seen = forward(made, state, torch.from_numpy(np.flip(patch, axes).copy())[None, None])
            for name, values in seen.items():
                logits = np.flip(values[0].numpy(), [a + 1 for a in axes]).copy()
                if made["targets"][name].get("task_type") == "surface_normals":
                    for axis in axes:
                        logits[2 - axis] *= -1  # channels are x, y, z
                placed = np.zeros((len(logits), *volume.shape))
                placed[(slice(None), *where)] = logits * window / len(views)
                total[name] = total[name] + placed
    return {name: np.where(weight > 0, one / np.where(weight > 0, weight, 1), 0) for name, one in total.items()}


def check(output: Path, wanted: dict[str, Array], main: str = "surface") -> None:
    """Both outputs against the reference: one grey level, one step of int8."""
    difference = wanted[main][-1] - (wanted[main][0] if len(wanted[main]) > 1 else 0)
    probability = np.where(np.any(wanted[main], axis=0), 255 / (1 + np.exp(-difference)), 0)
    assert np.abs(stored(output).astype(float) - np.floor(probability)).max() <= 1
    assert probability.std() > 5
    made = stored(output.with_name(f"{output.stem}_surface_normals.zarr"))
    vectors = wanted["surface_normals"]
    length = np.sqrt((vectors**2).sum(0))
    unit = np.where(length > 0, vectors / np.where(length > 0, length, 1), 0)
    assert made.dtype == np.int8
    assert np.abs(made - 127 * unit).max() <= 1.01
    sizes = np.sqrt((made.astype(float) ** 2).sum(0))
    assert np.array_equal(sizes == 0, length == 0)
    assert np.abs(sizes[length > 0] - 127).max() < 1
    assert all(one.std() > 10 for one in made)


def test_two_targets_are_two_outputs(voxweft: Voxweft, place: Path, volume: Array) -> None:
    said = " ".join(voxweft("info", "net.pth").stdout.split())
    for words in (
        "vesuvius trainer",
        "surface_normals (normals of 3)",
        "surface (softmax of 2)",
        "16 x 16",
    ):
        assert words in said
    assert "instance_zscore" in said
    told = voxweft("run", "in.zarr", "out.zarr", *FLAGS)
    assert "surface is in the output itself, surface_normals beside it" in told.stderr + told.stdout
    check(place / "out.zarr", blended(place / "out.zarr", volume, CONFIG))
    normals = json.loads((place / "out_surface_normals.zarr/zarr.json").read_text())["attributes"]["target"]
    assert normals["components"] == ["x", "y", "z"]
    assert normals["scale"] == pytest.approx(1 / 127)
    assert json.loads(voxweft("verify", "out.zarr", "--json").stdout)["stages"] == {"sweep": 4}
    cost = json.loads(voxweft("plan", "in.zarr", "--model", "net.pth", "--runtime", "torch", "--json").stdout)
    assert cost["forecast"]["bytes_written"] == 4 * volume.size
    assert sorted(p.name for p in place.glob("*.zarr")) == ["in.zarr", "out.zarr", "out_surface_normals.zarr"]


def test_mirroring_turns_the_normals(voxweft: Voxweft, place: Path, volume: Array) -> None:
    voxweft("run", "in.zarr", "out.zarr", *FLAGS, "--tta", "mirroring", "--overlap", "0.25")
    check(place / "out.zarr", blended(place / "out.zarr", volume, CONFIG, mirrored=(0, 1, 2)))


def test_parts_kill_and_resume_give_the_same_bits(voxweft: Voxweft, warm: WarmProcess, place: Path) -> None:
    words = ["run", "in.zarr", "killed.zarr", *FLAGS, "--tta", "rotation"]
    voxweft("run", "in.zarr", "whole.zarr", *words[3:])
    whole = digest(place / "whole.zarr", place / "whole_surface_normals.zarr")
    assert all(whole)
    for part in (2, 0, 1):
        voxweft("run", "in.zarr", "parts.zarr", *words[3:], "--num-parts", 3, "--part-id", part, "--quiet")
    assert digest(place / "parts.zarr", place / "parts_surface_normals.zarr") == whole
    process, records = warm.start([*words, "--quiet"], place, os.environ), place / "killed.zarr.voxweft/done/sweep"
    while process.poll() is None and not [*records.glob("*.json")]:
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    assert process.wait() != 0
    voxweft(*words)
    assert digest(place / "killed.zarr", place / "killed_surface_normals.zarr") == whole
    voxweft("verify", "killed.zarr")


def test_pipeline_fused_and_staged(voxweft: Voxweft, place: Path, volume: Array) -> None:
    flags = ("--input", "in.zarr", "--model", "net.pth", "--disable-tta", "--runtime", "torch")
    voxweft("pipeline", *flags, "--output", "fused.zarr")
    check(place / "fused.zarr", wanted := blended(place / "fused.zarr", volume, CONFIG))
    voxweft("pipeline", *flags, "--output", "staged.zarr", "--staged", "--keep-intermediates")
    for name in ("", "_surface_normals"):
        one, other = (stored(place / f"{how}{name}.zarr").astype(int) for how in ("fused", "staged"))
        assert np.abs(one - other).max() <= 1
    told = json.loads(next(place.glob("staged_work/parts/logits_part_0.zarr/.zattrs")).read_text())["target_info"]
    assert told["surface"] == {"start_channel": 3, "end_channel": 5, "out_channels": 2, "activation": "softmax"}
    voxweft("finalize", "staged_work/blended.zarr", "half.zarr", "--normals", "float16", "--threshold")
    vectors = stored(place / "half_surface_normals.zarr").astype(float)
    length = np.sqrt((vectors**2).sum(0))
    assert np.abs(length[length > 0] - 1).max() < 1e-3
    mask = stored(place / "half.zarr")
    sure = np.abs(wanted["surface"][1] - wanted["surface"][0]) > 0.01
    assert np.array_equal(mask[sure] > 0, (wanted["surface"][1] > wanted["surface"][0])[sure])


def test_one_class_target_is_a_model_like_any_other(voxweft: Voxweft, place: Path) -> None:
    voxweft("run", "in.zarr", "both.zarr", *FLAGS, "--quiet")
    voxweft("run", "in.zarr", "one.zarr", *FLAGS, "--targets", "surface", "--quiet")
    assert np.abs(stored(place / "one.zarr").astype(int) - stored(place / "both.zarr")).max() <= 1
    assert not (place / "one_surface_normals.zarr").exists()
    voxweft("run", "in.zarr", "one.zarr", *FLAGS, code=2)
    voxweft("run", "in.zarr", "n.zarr", *FLAGS, "--targets", "surface_normals", "--normals", "float16")
    assert stored(place / "n.zarr").dtype == np.float16
    voxweft(
        "pipeline", "--input", "in.zarr", "--model", "net.pth", "--output", "p.zarr", "--targets", "surface_normals"
    )
    assert stored(place / "p.zarr").dtype == np.int8
    voxweft("run", "--plan", "n.zarr", "again.zarr", "--quiet")
    assert digest(place / "again.zarr") == digest(place / "n.zarr")
    voxweft("run", "in.zarr", "both.zarr", *FLAGS, "--targets", "surface", "--overwrite", "--quiet")
    assert not (place / "both_surface_normals.zarr").exists()


def test_maps_that_are_no_classes_and_pyramids(voxweft: Voxweft, place: Path) -> None:
    made = config({"surface_normals": NORMALS, "ink": INK, "distance": DISTANCE}, separate_decoders=False)
    legacy(place / "net.pth", made, weights(made))
    big = np.tile(np.asarray(zarr.open_array(str(place / "in.zarr"))[:]), (1, 1, 8))
    zarr.create_array(str(place / "big.zarr"), shape=big.shape, chunks=(16, 32, 32), dtype="uint8")[:] = big
    voxweft("run", "big.zarr", "o.zarr", *FLAGS, "--overlap", "0")
    fine, coarse = (zarr.open_array(str(place / f"o_surface_normals.zarr/{n}"))[:] for n in (0, 1))
    z, y, x = (-(-a // b) for a, b in zip(fine.shape[1:], coarse.shape[1:], strict=True))
    assert (z, y, x) == (1, 1, 2)  # voxels of unknown size, and planes of few
    assert np.array_equal(coarse, fine[:, ::z, ::y, ::x])
    distance = [zarr.open_array(str(place / f"o_distance.zarr/{n}"))[:] for n in (0, 1)]
    assert distance[0].dtype == np.float32
    assert distance[1][0, 0, 0] == pytest.approx(distance[0][0, 0, :2].mean(), rel=1e-5)
    assert stored(place / "o.zarr").dtype == np.uint8
    assert sorted(p.name for p in place.glob("o*.zarr")) == ["o.zarr", "o_distance.zarr", "o_surface_normals.zarr"]


def test_normals_of_length_zero_stay_zero(voxweft: Voxweft, place: Path) -> None:
    state = weights(CONFIG)
    for name in [n for n in state if "surface_normals.seg_layers" in n]:
        state[name].zero_()
    torch.save({"model": state, "model_config": CONFIG, "normalization_scheme": "zscore"}, place / "net.pth")
    voxweft("run", "in.zarr", "out.zarr", *FLAGS)
    assert not stored(place / "out_surface_normals.zarr").any()
    assert stored(place / "out.zarr").any()
    voxweft("run", "in.zarr", "half.zarr", *FLAGS, "--normals", "float16")
    assert not stored(place / "half_surface_normals.zarr").any()


UNSAFE = {"model": {}, "model_config": CONFIG, "code": Path}


@pytest.mark.parametrize(
    ("content", "flags", "says"),
    [
        ({}, ("--targets", "inkk"), "--targets 'inkk': net.pth has the targets surface_normals, surface"),
        ({"model_config": config({"ink": INK | {"out_channels": 0}})}, (), "targets.ink.out_channels"),
        ({"model": None}, (), "no weights"),
        ({"model": weights(config(features_per_stage=[4, 6, 7]))}, (), "does not fit its own configuration"),
        ({"model_config": config(patch_size=None)}, (), "does not say its patch size; give --patch-size"),
        ({"model_config": config(architecture_type="primus_m")}, (), "architecture_type 'primus_m'"),
        ({"model_config": config(guide_backbone="dinov2")}, (), "a guide 'dinov2'"),
        ({"model_config": config({"x": INK | {"activation": "none", "losses": [{"name": "Odd"}]}})}, (), "target 'x'"),
        ({"model_config": config({})}, (), "targets"),
        ({"normalization_scheme": "histogram"}, (), "normalised by 'histogram'"),
        ({}, ("--normals", "int16"), "--normals 'int16' is unknown"),
        ({"code": os.system}, (), "wants to run code when loaded and was refused"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    voxweft: Voxweft, place: Path, content: Any, flags: Sequence[str], says: str
) -> None:
    whole = {"model": weights(CONFIG), "model_config": CONFIG} | content
    torch.save({k: v for k, v in whole.items() if v is not None}, place / "net.pth")
    told = voxweft("run", "in.zarr", "out.zarr", *FLAGS, *flags, code=2).stderr
    assert says in told
    assert len(told.strip().splitlines()) <= 3
    assert not (place / "out.zarr").exists()
    assert not (place / "out.zarr.voxweft").exists()


def test_a_patch_size_that_the_file_lacks_is_given(voxweft: Voxweft, place: Path) -> None:
    checkpoint(place / "net.pth", config({"ink": INK, "surface": SURFACE}, patch_size=None))
    voxweft("run", "in.zarr", "out.zarr", *FLAGS, "--patch-size", "16,16,16")
    assert stored(place / "out.zarr").std() > 1
    assert stored(place / "out_surface.zarr").std() > 1
    voxweft("run", "in.zarr", "no.zarr", "--model", "fake://null?patch=16,16,16", "--targets", "ink", code=2)
