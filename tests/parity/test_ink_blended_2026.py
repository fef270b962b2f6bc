"""The ink networks of 2026 over a surface: windows, tiles and blending against a float64 blend of a second network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from scipy import ndimage

from conftest import Voxweft
from inknets2026 import plain, random_state, save
from voxweft.geometry.window import WINDOWS

SHAPE = (96, 118)
KINDS = {  # layers, tile, stride
    "resnet3d-3d-decoder": (12, 64, 32),
    "hecate-9.6": (16, 32, 16),
    "hecate-2.4": (18, 64, 32),
    "hybrid": (17, 64, 32),
}


def surface(n_layers: int) -> np.ndarray[Any, Any]:
    """Layers uint8 [n_layers, Y, X] with a corner of which nothing is known."""
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(n_layers, *SHAPE)), 2)
    values = np.clip(120 + 60 * noise / noise.std(), 1, 255).astype(np.uint8)
    values[:, :21, :30] = 0
    return values


def scaled(kind: str, tile: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values = tile.astype(np.float64)
    if kind == "hybrid":
        clipped = values.clip(*np.percentile(values, (1, 99)))
        middle = np.median(clipped)
        return (clipped - middle) / (1.4826 * np.median(np.abs(clipped - middle)))
    return values.clip(0, 200) / 200 if kind == "resnet3d-3d-decoder" else values / {"hecate-2.4": 200}.get(kind, 255)


def starts(extent: int, tile: int, stride: int) -> list[int]:
    return sorted({*range(0, extent - tile, stride), extent - tile})


def blended(kind: str, state: Any, layers: np.ndarray[Any, Any], tile: int, stride: int) -> list[np.ndarray[Any, Any]]:
    """Probabilities [Y, X], of Hecate also [L, Y, X]: sums of weight x probability over sums of weights."""
    profile = WINDOWS["hann"](tile, 8.0)
    window = profile[:, None] * profile
    sums, total = list[Any](), np.zeros(SHAPE)
    for y in starts(SHAPE[0], tile, stride):
        for x in starts(SHAPE[1], tile, stride):
            where = (slice(y, y + tile), slice(x, x + tile))
            seen = torch.from_numpy(scaled(kind, layers[(slice(None), *where)]))[None]
            found = [p[0].numpy() for p in plain(kind, state, seen)]
            sums = sums or [np.zeros((*p.shape[:-2], *SHAPE)) for p in found]
            for one, p in zip(sums, found, strict=True):
                one[(..., *where)] += window * p
            total[where] += window
    return [one / total for one in sums]


@pytest.mark.parametrize("kind", KINDS)
def test_the_blend_of_a_surface(tmp_path: Path, voxweft: Voxweft, kind: str) -> None:
    n_layers, tile, stride = KINDS[kind]
    state, layers = random_state(kind), surface(n_layers + 5)
    config = {"model_config": {"canonical": {"input_depth": n_layers, "depth_margin": 1, "native_xy_stride": 4}}}
    model = save(tmp_path / "net.pth", kind, **({"config": config} if kind == "hecate-2.4" else {}))
    zarr.create_array(tmp_path / "surf.zarr", data=layers, chunks=(8, 64, 64))
    start = (len(layers) - n_layers) // 2
    window = () if kind != "resnet3d-3d-decoder" else ("--start-layer", start, "--end-layer", start + n_layers)
    deep = ("--depth-output", "deep.zarr") if kind.startswith("hecate") else ()
    how = ("--tile-size", tile, "--stride", stride, "--runtime", "torch", "--no-skip-empty", "--input-contract", "off")
    voxweft("ink", "infer", "surf.zarr", "out.zarr", "--model", model, *window, *how, *deep)
    wanted = blended(kind, state, layers[start : start + n_layers], tile, stride)
    found = zarr.open(tmp_path / "out.zarr", mode="r")["0"][0].astype(float)
    assert np.ptp(wanted[0]) > 0.02
    assert np.abs(found - np.floor(255 * wanted[0])).max() <= 1
    known = zarr.open(tmp_path / "out_known.zarr", mode="r")["0"][0]
    assert np.array_equal(known > 0, layers[start : start + n_layers].any(axis=0))
    if deep:
        volume = zarr.open(tmp_path / "deep.zarr", mode="r")["0"][:].astype(float)
        assert volume.shape == (n_layers, *SHAPE)
        assert np.abs(volume - np.floor(255 * wanted[1])).max() <= 1
        voxweft("verify", "out.zarr")


def test_the_ink_of_layers_under_parts_kills_and_the_other_direction(tmp_path: Path, voxweft: Voxweft) -> None:
    model, layers = save(tmp_path / "net.pth", "hecate-9.6"), surface(16)
    zarr.create_array(tmp_path / "surf.zarr", data=layers, chunks=(8, 64, 64))
    zarr.create_array(tmp_path / "back.zarr", data=layers[::-1], chunks=(8, 64, 64))
    base = ("--model", model, "--tile-size", 32, "--stride", 16, "--runtime", "torch", "--input-contract", "off")

    def volume(name: str) -> Any:
        return zarr.open(tmp_path / name, mode="r")["0"][:]

    voxweft("ink", "infer", "surf.zarr", "one.zarr", *base, "--depth-output", "one_deep.zarr")
    for part in (1, 0):
        share = ("--num-parts", 2, "--part-id", part)
        voxweft("ink", "infer", "surf.zarr", "two.zarr", *base, "--depth-output", "two_deep.zarr", *share)
    assert np.array_equal(volume("one_deep.zarr"), volume("two_deep.zarr"))
    voxweft("ink", "infer", "back.zarr", "turned.png", *base, "--reverse", "--depth-output", "turned.zarr")
    assert np.array_equal(volume("turned.zarr"), volume("one_deep.zarr")[::-1])
    again = voxweft("ink", "infer", "surf.zarr", "three.zarr", *base, "--depth-output", "one_deep.zarr", code=2)
    assert "one_deep.zarr exists" in again.stderr
    for place in ("surf.zarr", "three.zarr"):
        words = ("ink", "infer", "surf.zarr", "three.zarr", *base, "--depth-output", place, "--overwrite")
        assert "choose another place" in voxweft(*words, code=2).stderr
    assert np.array_equal(zarr.open(tmp_path / "surf.zarr", mode="r")[:], layers)
    assert not (tmp_path / "three.zarr").exists()
    other = ("ink", "infer", "surf.zarr", "x.png", *base, "--depth-output")
    assert "must end in .zarr" in voxweft(*other, "deep.png", code=2).stderr
    assert "several windows" in voxweft(*other, "deep.zarr", "--windows", 3, code=2).stderr
