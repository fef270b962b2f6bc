"""Ink detection as its users run it: environment variables, parts, kills, S3, bad input."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from conftest import Voxweft
from servers import environment, hub, serve_folder, upload
from surfaces import small_checkpoint, waves, write_layers
from voxweft.apps import ink
from voxweft.apps.ink.options import InkModelOptions, InkOptions, LayerOptions, PictureOptions
from voxweft.cli.app import execute
from warm import WarmProcess

LAYERS = ("--start-layer", 0, "--end-layer", 5)
NET = ("--model", "net.ckpt", "--stride", 16, "--runtime", "torch", "--batch-size", 16)
HERE = ("--zarr-output-dir", "parts", "--runtime-dir", "notes")


@pytest.fixture(scope="module")
def surface() -> Any:
    return waves(5, 700, 150)


@pytest.fixture
def segment(tmp_path: Path, surface: Any) -> Any:
    """``seg/layers`` and ``net.ckpt`` in the folder of the test."""
    small_checkpoint(tmp_path / "net.ckpt")
    return write_layers(tmp_path / "seg", surface)


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def by_hand(surface: np.ndarray, checkpoint: Path, window: str = "hann") -> np.ndarray:
    """Probabilities [row, column] in float64: every tile, 0 beyond the far ends, sum over weight sum."""
    from voxweft.backends import load_model
    from voxweft.model import ForwardSetting

    predictor = load_model(str(checkpoint)).open(ForwardSetting("torch", "cpu", "fp32", 1, (32, 1, 32)))
    at = np.arange(32)
    hann, gaussian = np.sin(np.pi * (at + 0.5) / 32) ** 2, np.exp(-0.5 * ((at - 15.5) / (32 / 2.5)) ** 2)
    profile = hann if window == "hann" else gaussian
    weights = np.outer(profile, profile)
    shape, short = surface.shape[1:], [(0, max(0, 32 - n)) for n in surface.shape]
    surface = np.pad(surface, [(0, 0), *short[1:]])
    total, weight = np.zeros(surface.shape[1:]), np.zeros(surface.shape[1:])
    rows, columns = (sorted({*range(0, n - 31, 16), n - 32}) for n in surface.shape[1:])
    for y in rows:
        for x in columns:
            tile = surface[:, y : y + 32, x : x + 32]
            if tile.max() == tile.min():
                continue
            scaled = torch.from_numpy(np.clip(tile, 0, 200).astype(np.float32) / 200)
            found = predictor(scaled[None, :, :, None])[0, 0, :, 0].numpy()
            total[y : y + 32, x : x + 32] += weights * found
            weight[y : y + 32, x : x + 32] += weights
    return np.where(weight > 0, total / np.maximum(weight, 1e-30), 0)[: shape[0], : shape[1]]


def test_the_picture_is_the_weighted_mean_of_all_tiles(
    voxweft: Voxweft, segment: Any, surface: Any, tmp_path: Path
) -> None:
    voxweft("ink", "run", "seg", "out.png", *LAYERS, *NET, *HERE)
    expected = by_hand(surface, tmp_path / "net.ckpt")
    found = picture(tmp_path / "out.png")
    assert found.dtype == np.uint8
    assert np.abs(found - 255 * expected).max() <= 1.01
    assert found.std() > 5, "the network of the test answers to what it sees"
    assert found[:48, :58].max() == 0, "where no tile ran there is nothing"
    assert np.abs(found[-1] - 255 * expected[-1]).max() <= 1.01, "no dark frame"
    assert (tmp_path / "notes/result_s3_url.txt").read_text() == str(tmp_path / "out.png")
    page = (tmp_path / "out_report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "0:5" in page


def test_prepare_three_parts_and_reduce_give_the_picture_of_one_run(
    voxweft: Voxweft, segment: Any, tmp_path: Path
) -> None:
    voxweft("ink", "run", "seg", "whole.png", *LAYERS, *NET, "--zarr-output-dir", "other", "--runtime-dir", "notes")
    voxweft("ink", "prepare", "seg", "surface.zarr", *LAYERS, *HERE)
    assert (tmp_path / "notes/surface_volume_zarr_path.txt").read_text() == str(tmp_path / "surface.zarr")
    infer = ["ink", "infer", "surface.zarr", *LAYERS, *NET, *HERE, "--num-parts", 3, "--part-id"]
    reduce = ["ink", "reduce", *LAYERS, "--model", "net.ckpt", "--s3-path", "seg", *HERE]
    assert "run voxweft ink infer" in voxweft(*reduce, code=2).stderr
    voxweft(*infer, 2)
    voxweft(*infer, 0)
    done = voxweft(*reduce, code=1)
    assert "1 of 3 bands of rows are missing" in done.stderr
    assert not (tmp_path / "seg/predictions").exists()
    voxweft(*infer, 1)
    voxweft(*reduce)
    made = tmp_path / "seg/predictions/prediction_net_00_05.png"
    assert made.read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert (tmp_path / "notes/result_s3_url.txt").read_text() == str(made)
    assert "result: parts/prediction_net_00_05-" in voxweft(*infer, 1).stdout


@pytest.mark.parametrize("stored", ["zyx", "yxz", "16bit", "ome"])
def test_arrays_of_any_kind_give_the_same_picture(
    voxweft: Voxweft, segment: Any, surface: Any, tmp_path: Path, stored: Any
) -> None:
    voxweft("ink", "run", "seg", "out.png", *LAYERS, *NET, *HERE)
    values = {"yxz": np.moveaxis(surface, 0, -1), "16bit": surface.astype(np.uint16) * 256 + 9}.get(stored, surface)
    place = tmp_path / "v.zarr"
    if stored == "ome":
        axes = [{"name": n, "type": "space"} for n in "zyx"]
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}], "name": "v"}
        ome = {"ome": {"version": "0.5", "multiscales": [image]}}
        zarr.create_array(str(place / "0"), data=values, chunks=(2, 64, 64))
        (place / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": ome}))
    else:
        zarr.create_array(str(place), data=values, chunks=tuple(min(64, n) for n in values.shape))
    voxweft("ink", "infer", "v.zarr", "other.png", *LAYERS, *NET, *HERE)
    assert np.array_equal(picture(tmp_path / "out.png"), picture(tmp_path / "other.png"))


def test_the_start_layer_counts_from_the_recorded_window(voxweft: Voxweft, tmp_path: Path) -> None:
    """Layers 20 to 27 are prepared; asking for 22 to 26 must not shift the stack."""
    volume = waves(8, 100, 120)
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", volume, first=20)
    voxweft("ink", "prepare", "seg", "surface.zarr", "--start-layer", 20, "--end-layer", 28, *HERE)
    window = ("--start-layer", 22, "--end-layer", 27)
    voxweft("ink", "infer", "surface.zarr", "a.png", *window, *NET, *HERE)
    voxweft("ink", "infer", "seg", "b.png", *window, *NET, *HERE)
    write_layers(tmp_path / "cut", volume[2:7])
    voxweft("ink", "infer", "cut", "c.png", *LAYERS, *NET, *HERE)
    pictures = [picture(tmp_path / f"{n}.png") for n in "abc"]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    done = voxweft("ink", "infer", "surface.zarr", "d.png", "--start-layer", 0, "--end-layer", 5, *NET, *HERE, code=2)
    assert "holds layers 20 to 27" in done.stderr


def test_reverse_roi_bits_tiff_zarr_and_augmentation(
    voxweft: Voxweft, segment: Any, surface: Any, tmp_path: Path
) -> None:
    run = ["ink", "run", "seg"]
    voxweft(*run, "out.png", *LAYERS, *NET, *HERE)
    plain = picture(tmp_path / "out.png")
    voxweft(*run, "out.tif", *LAYERS, *NET, *HERE)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), plain)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].is_tiled
    voxweft(*run, "deep.zarr", *LAYERS, *NET, *HERE, "--bits", 16)
    voxweft(*run, "deep.png", *LAYERS, *NET, *HERE, "--bits", 16)
    deep = zarr.open(str(tmp_path / "deep.zarr/0"), mode="r")
    assert deep.shape == (1, 700, 150)
    assert deep.dtype == np.uint16
    assert np.array_equal(deep[0] // 257, plain), "floor(65535 p) / 257 is floor(255 p)"
    assert np.array_equal(picture(tmp_path / "deep.png"), deep[0])
    voxweft("verify", "deep.zarr")
    voxweft(*run, "roi.zarr", *LAYERS, *NET, *HERE, "--roi", "30,200,120,470")
    roi = zarr.open(str(tmp_path / "roi.zarr/0"), mode="r")[0]
    assert np.array_equal(roi[200:470, 30:120], plain[200:470, 30:120])
    assert roi.sum() == roi[200:470, 30:120].sum()
    write_layers(tmp_path / "turned", surface[::-1])
    voxweft("ink", "run", "turned", "r.zarr", *LAYERS, *NET, *HERE, "--reverse")
    assert np.array_equal(zarr.open(str(tmp_path / "r.zarr/0"), mode="r")[0], plain)
    for tta in ("mirroring", "rotation"):
        voxweft(*run, f"{tta}.zarr", *LAYERS, *NET, *HERE, "--tta", tta)
        other = zarr.open(str(tmp_path / f"{tta}.zarr/0"), mode="r")[0]
        assert 0 < np.abs(other.astype(int) - plain).mean() < 40
    write_layers(tmp_path / "flipped", surface.transpose(0, 2, 1))
    voxweft("ink", "run", "flipped", "t.zarr", *LAYERS, *NET, *HERE, "--tta", "rotation")
    turned = zarr.open(str(tmp_path / "t.zarr/0"), mode="r")[0]
    rotated = zarr.open(str(tmp_path / "rotation.zarr/0"), mode="r")[0]
    assert np.abs(turned.T.astype(int) - rotated).max() <= 1


@pytest.mark.slow
def test_killed_and_resumed_at_random_gives_the_same_bits(voxweft: Voxweft, warm: WarmProcess, tmp_path: Path) -> None:
    small_checkpoint(tmp_path / "net.ckpt")
    volume = waves(5, 2100, 150)
    write_layers(tmp_path / "seg", volume)
    chance = random.Random(2)
    steps = {
        "prepare": (["ink", "prepare", "seg", "{}.zarr", *LAYERS], "{}.zarr.voxweft/layers"),
        "run": (["ink", "run", "{}.zarr", "{}.png", *LAYERS, *NET], "parts-{}/*.voxweft/done/sweep"),
    }
    for name in ("calm", "killed"):
        for words, done in steps.values():
            command = [str(w).format(name) for w in words] + [
                "--zarr-output-dir",
                f"parts-{name}",
                "--runtime-dir",
                "n",
            ]
            for kill in range(3 if name == "killed" else 0):
                process = warm.start([*command, "--quiet"], tmp_path, os.environ)
                while process.poll() is None and len(list(tmp_path.glob(f"{done.format(name)}/*"))) <= kill:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.2))
                process.kill()
                process.wait()
                assert not (tmp_path / f"{name}.png").exists() or "run" not in command or process.returncode == 0
            voxweft(*command)
    assert (tmp_path / "calm.png").read_bytes() == (tmp_path / "killed.png").read_bytes()


def test_environment_variables_only_on_s3(voxweft: Voxweft, s3: Any, tmp_path: Path, surface: Any) -> None:
    """The quick start of the reference: MODEL, S3_PATH, START_LAYER, END_LAYER; the picture ends in the bucket."""
    small_checkpoint(tmp_path / "net.ckpt")
    upload(s3, write_layers(tmp_path / "seg", surface), "scrolls/seg")
    s3["client"].upload_file(str(tmp_path / "net.ckpt"), "bucket", "models/net.ckpt")
    common = {
        **environment(s3),
        "VOXWEFT_CACHE": str(tmp_path / "cache"),
        "MODEL": "s3://bucket/models/net.ckpt",
        "S3_PATH": "s3://bucket/scrolls/seg/",
        "START_LAYER": "0",
        "END_LAYER": "5",
        "TILE_SIZE": "32",
        "STRIDE": "16",
        "BATCH_SIZE": "16",
        "COMPILE": "0",
    }
    once = {**common, "RUNTIME_DIR": str(tmp_path / "once"), "ZARR_OUTPUT_DIR": str(tmp_path / "a")}
    voxweft("ink", **once)
    url = "s3://bucket/scrolls/seg/predictions/prediction_net_00_05.png"
    assert (tmp_path / "once/result_s3_url.txt").read_text() == url
    s3["client"].download_file("bucket", url.removeprefix("s3://bucket/"), str(tmp_path / "one.png"))
    one = picture(tmp_path / "one.png")
    assert np.abs(one - 255 * by_hand(surface, tmp_path / "net.ckpt")).max() <= 1.01

    steps = {**common, "RUNTIME_DIR": str(tmp_path / "steps"), "ZARR_OUTPUT_DIR": "s3://bucket/parts"}
    steps |= {"SURFACE_VOLUME_ZARR": "s3://bucket/surface.zarr", "OUTPUT_PATH": "s3://bucket/two.png"}
    voxweft("ink", **steps, STEP="prepare")
    assert (tmp_path / "steps/surface_volume_zarr_path.txt").read_text() == "s3://bucket/surface.zarr"
    for part in "01":
        voxweft("ink", **steps, NUM_PARTS="2", PART_ID=part)
    voxweft("ink", **steps, STEP="reduce", NUM_PARTS="2")
    assert (tmp_path / "steps/result_s3_url.txt").read_text() == "s3://bucket/two.png"
    s3["client"].download_file("bucket", "two.png", str(tmp_path / "two.png"))
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_layers_over_http(voxweft: Voxweft, segment: Any, tmp_path: Path) -> None:
    voxweft("ink", "run", "seg", "out.png", *LAYERS, *NET, *HERE)
    with serve_folder(tmp_path) as url:
        voxweft("ink", "run", f"{url}/seg", "web.png", *LAYERS, *NET, *HERE)
        done = voxweft("ink", "run", f"{url}/seg", *LAYERS, *NET, *HERE, code=2)
        assert "read-only" in done.stderr
        assert "No layers found" in voxweft("ink", "run", f"{url}/no", "x.png", *LAYERS, *NET, *HERE, code=2).stderr
    assert np.array_equal(picture(tmp_path / "out.png"), picture(tmp_path / "web.png"))


def test_each_bad_request_gets_one_message(
    segment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(env: dict[str, str]) -> str:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            assert execute(["ink"]) == 2
        return capsys.readouterr().err

    good = {"MODEL": "net.ckpt", "S3_PATH": "seg", "START_LAYER": "0", "END_LAYER": "5", "RUNTIME_DIR": "notes"}
    good |= {"ZARR_OUTPUT_DIR": "parts"}
    for name in ("MODEL", "S3_PATH", "START_LAYER"):
        said = refused(good | {name: ""})
        assert said.count("\n") == 1
        assert f"{name} is missing" in said
    cases = [
        ({"START_LAYER": "40", "END_LAYER": "45"}, "No layers found: seg"),
        ({"END_LAYER": "8"}, "there is no 05, 06, 07"),
        ({"END_LAYER": "4"}, "Channel mismatch: the layer window has 4 layers, net.ckpt takes 5"),
        ({"START_LAYER": "3", "END_LAYER": "3"}, "holds no layer"),
        ({"START_LAYER": "two"}, "START_LAYER"),
        ({"S3_PATH": "nowhere"}, "nowhere: nothing lies there"),
        ({"MODEL": "no/such/net.ckpt"}, "MODEL 'no/such/net.ckpt' is no file"),
        ({"MODEL": "timesformer"}, "timesformer-scroll5"),
        ({"MODEL_TYPE": "resnet3d-50"}, "holds a timesformer"),
        ({"TILE_SIZE": "64"}, "32"),
        ({"STRIDE": "40"}, "--stride 40 leaves gaps"),
        ({"NUM_PARTS": "2", "PART_ID": "2"}, "--part-id 2 with --num-parts 2"),
        ({"STEP": "aggregate"}, "STEP 'aggregate' is unknown"),
        ({"RUNTIME_DIR": "net.ckpt/here"}, "--runtime-dir"),
        ({"OUTPUT_PATH": "out.jpeg"}, "it must end in .png"),
        ({"ROI_XYXY": "0,0,9999,9"}, "--roi 0,0,9999,9 leaves the surface"),
        ({"COMPILE_MODE": "fast"}, "--compile-mode 'fast' is unknown"),
        ({"BLEND_MODE": "boxcar"}, "--window 'boxcar' is unknown"),
    ]
    for change, message in cases:
        said = refused(good | change)
        assert message in said, (change, said)
        assert said.count("\n") <= 3
    (tmp_path / "seg/layers/3.tif").write_bytes((tmp_path / "seg/layers/03.tif").read_bytes())
    assert "03 is there twice" in refused(good)
    (tmp_path / "seg/layers/3.tif").unlink()
    (tmp_path / "seg/layers/03.tif").unlink()
    assert "layers 0 to 4 are asked for; there is no 03" in refused(good)
    assert not (tmp_path / "parts").exists()
    assert not (tmp_path / "seg/predictions").exists()
    assert not (tmp_path / "notes").exists()


def test_a_damaged_layer_ends_the_run_and_the_repaired_one_continues(
    voxweft: Voxweft, segment: Any, tmp_path: Path
) -> None:
    path = tmp_path / "seg/layers/03.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = voxweft("ink", "prepare", "seg", "s.zarr", *LAYERS, *HERE, code=2)
    assert "03.tif is damaged or cut" in done.stderr
    assert not (tmp_path / "s.zarr").exists()
    path.write_bytes(whole[:2000] + bytes(len(whole) - 4000) + whole[-2000:])
    done = voxweft("ink", "prepare", "seg", "s.zarr", *LAYERS, *HERE, code=1)
    assert "03.tif" in done.stderr
    done = voxweft("ink", "infer", "s.zarr", "out.png", *LAYERS, *NET, *HERE, code=2)
    assert "not prepared to the end" in done.stderr
    path.write_bytes(whole)
    voxweft("ink", "prepare", "seg", "s.zarr", *LAYERS, *HERE, "--overwrite")
    voxweft("ink", "infer", "s.zarr", "out.png", *LAYERS, *NET, *HERE)


def test_from_python(segment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers = LayerOptions(s3_path="seg", start_layer=0, end_layer=5)
    which, how = InkModelOptions(model="net.ckpt"), InkOptions(stride=16)
    result = ink.infer((layers, which, how), picture_options=PictureOptions(output_path="p.png", runtime_dir="notes"))
    assert result.picture == "p.png"
    assert picture(tmp_path / "p.png").shape == (700, 150)
    Path("p.png").unlink()
    ink.reduce(
        (layers, which), picture_options=PictureOptions(output_path="p.tif", runtime_dir="notes"), source=result.zarr
    )
    assert tifffile.imread(tmp_path / "p.tif").shape == (700, 150)


def test_models_by_key_and_repository(voxweft: Voxweft, segment: Any, tmp_path: Path) -> None:
    """A repository with a checkpoint and a picture, private; a key of the user's own table; offline afterwards."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (tmp_path / "net.ckpt").rename(repo / "weights.ckpt")
    (repo / "README.md").write_text("ink")
    (tmp_path / "table.toml").write_text('mine = "hf://owner/inknet"\n')
    run = ["ink", "run", "seg", "--stride", 32, *LAYERS, *HERE]
    with hub(repo, "owner/inknet", token="secret") as (url, _):
        env = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        done = voxweft(*run, "--model", "owner/inknet", "--hf-token", "wrong", code=2, **env)
        assert "private or missing" in done.stderr
        voxweft(*run, "--model", "owner/inknet", **env, HF_TOKEN="secret")
    voxweft(*run, "--model", "mine", "--models", "table.toml", **env, HF_HUB_OFFLINE="1")
    names = ("prediction_inknet_00_05.png", "prediction_mine_00_05.png")
    one, other = ((tmp_path / "seg/predictions" / n).read_bytes() for n in names)
    assert one == other
    assert "secret" not in (tmp_path / "seg/predictions/prediction_inknet_00_05_report.html").read_text()


def test_a_stored_plan_is_repeated_by_other_processes(voxweft: Voxweft, segment: Any, tmp_path: Path) -> None:
    voxweft("ink", "run", "seg", "a.zarr", *LAYERS, *NET, *HERE, "--reverse")
    voxweft("run", "--plan", "a.zarr", "b.zarr", "--executor", "processes", "--workers", 2)
    one, other = (zarr.open(str(tmp_path / f"{n}.zarr/0"), mode="r")[:] for n in "ab")
    assert one.any()
    assert np.array_equal(one, other)
    voxweft("report", "a.zarr")
    assert "5 input channel" in voxweft("run", "seg/layers", "c.zarr", "--model", "net.ckpt", code=2).stderr
    assert "--level 7" in voxweft("ink", "infer", "seg", "d.png", *LAYERS, *NET, *HERE, "--level", 7, code=2).stderr


@pytest.mark.parametrize("size", [(110, 1), (9, 90), (33, 65)])
def test_small_surfaces_and_the_gaussian(voxweft: Voxweft, tmp_path: Path, size: Any) -> None:
    volume = waves(5, 130, 170)[:, 85 : 85 + size[0], 95 - 30 : 95 - 30 + size[1]]
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", volume)
    voxweft("ink", "run", "seg", "o.png", *LAYERS, *NET, *HERE, "--window", "gaussian")
    assert np.abs(picture(tmp_path / "o.png") - 255 * by_hand(volume, tmp_path / "net.ckpt", "gaussian")).max() <= 1.01


def test_results_of_other_layers_are_never_taken(voxweft: Voxweft, segment: Any, surface: Any, tmp_path: Path) -> None:
    """Another segment's parts, layers that changed, an OUTPUT that is there."""
    other = write_layers(tmp_path / "other", 255 - surface)
    parts = [*LAYERS, *NET, *HERE, "--num-parts", 2, "--part-id"]
    voxweft("ink", "infer", "seg", *parts, 0)
    voxweft("ink", "infer", "seg", *parts, 1)
    done = voxweft("ink", "reduce", "--s3-path", other, "--model", "net.ckpt", *LAYERS, *HERE, code=2)
    assert "holds no result" in done.stderr
    voxweft("ink", "run", "seg", "o.zarr", *LAYERS, *NET, *HERE)
    voxweft("ink", "run", "seg", "o.zarr", *LAYERS, *NET, *HERE)
    voxweft("ink", "prepare", "seg", "s.zarr", *LAYERS, *HERE)
    (tmp_path / "notes/result_s3_url.txt").write_text("stale")
    tifffile.imwrite(tmp_path / "seg/layers/02.tif", 255 - surface[2], rowsperstrip=16, compression="zlib")
    assert "the layers changed since" in voxweft("ink", "prepare", "seg", "s.zarr", *LAYERS, *HERE, code=2).stderr
    assert "differ" in voxweft("ink", "run", "seg", "o.zarr", *LAYERS, *NET, *HERE, code=2).stderr
    assert not (tmp_path / "notes/result_s3_url.txt").exists()
    voxweft("ink", "run", "seg", "o.zarr", *LAYERS, *NET, *HERE, "--overwrite")


def test_reduce_finds_rows_that_were_lost(voxweft: Voxweft, segment: Any, tmp_path: Path) -> None:
    parts = ["ink", "infer", "seg", *LAYERS, *NET, *HERE, "--num-parts", 2, "--part-id"]
    voxweft(*parts, 0)
    voxweft(*parts, 1)
    chunk = next(p for p in sorted((tmp_path / "parts").rglob("0/c/0/*/*")) if p.is_file())
    chunk.unlink()
    reduce = ["ink", "reduce", *LAYERS, "--model", "net.ckpt", "--s3-path", "seg", *HERE]
    assert "not what was written" in voxweft(*reduce, code=1).stderr
    assert not (tmp_path / "seg/predictions").exists()
    voxweft(*parts, 0)
    voxweft(*parts, 1)
    voxweft(*reduce)
    voxweft("ink", "run", "seg", "once.png", *LAYERS, *NET, *HERE, "--quiet")
    made = tmp_path / "seg/predictions/prediction_net_00_05.png"
    assert made.read_bytes() == (tmp_path / "once.png").read_bytes()
    assert (tmp_path / "once_report.html").exists()
