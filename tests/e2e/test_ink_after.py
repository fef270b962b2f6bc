"""Pictures of ink that are there: compared, thresholded, and what the container's variables decide."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import Voxweft
from servers import environment, upload
from surfaces import small_checkpoint, waves, write_layers
from voxweft.ops.agreement import block_means, pearson
from voxweft.ops.thresholds import best_level

LAYERS = ("--start-layer", 0, "--end-layer", 5)
NET = ("--model", "net.ckpt", "--stride", 32, "--runtime", "torch", "--batch-size", 16)
HERE = ("--zarr-output-dir", "parts", "--runtime-dir", "notes")


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """``seg/layers`` and ``net.ckpt`` in the folder of the test."""
    small_checkpoint(tmp_path / "net.ckpt")
    return write_layers(tmp_path / "seg", waves(5, 130, 150))


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """``label.png`` and ``found.png`` of 300 x 200 pixels: a labelled square, and what a network might find."""
    rng = np.random.default_rng(1)
    ink = np.zeros((200, 300), np.bool_)
    ink[40:120, 60:200] = True
    found = np.clip(rng.normal(90, 40, ink.shape) + 90 * ink, 0, 255).astype(np.uint8)
    Image.fromarray(ink.astype(np.uint8) * 255).save(tmp_path / "label.png")
    Image.fromarray(found).save(tmp_path / "found.png")
    return ink, found


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def f1(ink: np.ndarray, mask: np.ndarray) -> float:
    return 2 * float((ink & mask).sum()) / max(1, int(ink.sum()) + int(mask.sum()))


def test_runs_are_compared_by_what_they_say_of_themselves(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    run = ["ink", "run", "seg"]
    voxweft(*run, *LAYERS, *NET, *HERE)
    voxweft(*run, "seg/predictions/turned.tif", *LAYERS, *NET, *HERE, "--reverse", "--bits", 16)
    voxweft(*run, "seg/predictions/finer.zarr", *LAYERS, *NET, *HERE, "--stride", 16)
    voxweft("ink", "compare", "seg", "sheet.png", "--quiet")
    done = voxweft("ink", "compare", "seg", "sheet.png", "--manifest", "manifest.json", "--threshold", 0.4)
    found = json.loads((tmp_path / "manifest.json").read_text())
    runs = {Path(one["file"]).name: one for one in found["runs"]}
    assert [*runs] == ["finer.zarr", "prediction_net_00_05.png", "turned.tif"]
    assert set(found["differing"]) == {"direction", "stride"}
    assert {name: (one["direction"], one["stride"]) for name, one in runs.items()} == {
        "finer.zarr": ("forward", 16), "prediction_net_00_05.png": ("forward", 32), "turned.tif": ("reverse", 32),
    }  # fmt: skip
    path = tmp_path / "seg/predictions/prediction_net_00_05.png"
    one, values = runs[path.name], grey(path)
    assert one["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert one["size"] == list(values.shape)
    assert one["mean"] == pytest.approx(values.mean() / 255, abs=1e-5)
    assert one["share_at_threshold"] == pytest.approx((values >= 102).mean(), abs=1e-5)
    assert one["counted_from"] == {"level": 102, "levels": 256}
    turned = tifffile.imread(tmp_path / "seg/predictions/turned.tif")
    r = {tuple(pair["runs"]): pair["r"] for pair in found["agreement"]}[1, 2]
    assert r == pytest.approx(np.corrcoef(values.ravel(), turned.ravel())[0, 1], abs=1e-4)
    sheet = grey(tmp_path / "sheet.png")
    assert sheet.shape[1] > 2 * 150
    assert len(np.unique(sheet)) > 50
    assert "finer.zarr" in done.stdout


def test_pictures_of_other_sizes_and_without_a_record_are_shown_too(
    voxweft: Voxweft, pictures: Any, tmp_path: Path
) -> None:
    Image.fromarray(np.full((50, 60), 7, np.uint8)).save(tmp_path / "small.png")
    voxweft("ink", "compare", "found.png", "label.png", "small.png", "s.png", "--manifest", "m.json", "--quiet")
    found = json.loads((tmp_path / "m.json").read_text())
    r = [pair["r"] for pair in found["agreement"]]
    assert r[0] == pytest.approx(np.corrcoef(pictures[1].ravel(), pictures[0].ravel())[0, 1], abs=1e-5)
    assert r[1:] == [None, None]
    assert found["differing"] == []


def test_pictures_on_s3_are_compared_where_they_lie(voxweft: Voxweft, s3: Any, pictures: Any, tmp_path: Path) -> None:
    upload(s3, tmp_path, "seg/predictions")
    voxweft(
        "ink", "compare", "s3://bucket/seg", "s3://bucket/s.png", "--manifest", "s3://bucket/m.json", **environment(s3)
    )
    found = json.loads(s3["client"].get_object(Bucket="bucket", Key="m.json")["Body"].read())
    assert [one["file"] for one in found["runs"]] == [
        f"s3://bucket/seg/predictions/{n}.png" for n in ("found", "label")
    ]
    assert s3["client"].get_object(Bucket="bucket", Key="s.png")["Body"].read()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["found.png", "sheet.png"], "alone cannot be compared"),
        (["found.png", "label.png"], "label.png is there and is no sheet"),
        (["found.png", "label.png", "sheet.jpg"], "must end in .png"),
        (["found.png", "label.png", "nowhere/sheet.png"], "the folder is not there"),
        (["found.png", "text.png", "sheet.png"], "text.png cannot be read as a picture"),
        (["found.png", "text.txt", "sheet.png"], "text.txt is no picture"),
        (["found.png", "volume.zarr", "sheet.png"], "no picture of 8 or 16 bit"),
        ([".", "sheet.png", "--threshold", 0], "not between 0 and 1"),
        (["sheet.png"], "SHEET is missing"),
    ],
)
def test_what_cannot_be_compared(voxweft: Voxweft, pictures: Any, tmp_path: Path, words: list[Any], said: str) -> None:
    for name in ("text.png", "text.txt"):
        if name in words:
            (tmp_path / name).write_text("no picture")
    zarr.save_array(str(tmp_path / "volume.zarr"), np.zeros((3, 8, 8), np.uint8))
    before = sorted(tmp_path.iterdir())
    done = voxweft("ink", "compare", *words, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert sorted(tmp_path.iterdir()) == before


def test_a_level_is_calibrated_and_applied(voxweft: Voxweft, pictures: Any, tmp_path: Path) -> None:
    ink, found = pictures
    done = voxweft("ink", "threshold", "calibrate", "label.png=found.png", "--output", "thresholds.json")
    made = json.loads((tmp_path / "thresholds.json").read_text())
    scores = [f1(ink, found >= level) for level in range(256)]
    assert made["level"] == made["maps"][0]["best"]["level"]
    assert scores[made["level"]] == max(scores[1:])
    mask = found >= made["level"]
    assert made["f1"] == pytest.approx(max(scores), abs=1e-5)
    assert made["precision"] == pytest.approx((ink & mask).sum() / mask.sum(), abs=1e-5)
    assert made["recall"] == pytest.approx((ink & mask).sum() / ink.sum(), abs=1e-5)
    assert f"level: {made['level']} of 256" in done.stdout
    voxweft("ink", "threshold", "apply", "found.png", "mask.png", "--calibration", "thresholds.json")
    assert np.array_equal(grey(tmp_path / "mask.png"), np.where(mask, 255, 0))
    voxweft("ink", "threshold", "apply", "found.png", "mask.tif", "--level", made["level"], "--quiet")
    assert np.array_equal(tifffile.imread(tmp_path / "mask.tif"), np.where(mask, 255, 0))
    with Image.open(tmp_path / "mask.png") as picture:
        assert json.loads(picture.info["voxweft"])["threshold"] == {"level": made["level"], "levels": 256}


def test_the_level_is_the_median_over_maps_and_knows_what_was_not_labelled(
    voxweft: Voxweft, pictures: Any, tmp_path: Path
) -> None:
    ink, found = pictures
    for name, shift in (("darker", -20), ("brighter", 20)):
        values = np.clip(found.astype(int) + shift, 0, 255).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    maps = [f"label.png={name}.png" for name in ("darker", "found", "brighter")]
    voxweft("ink", "threshold", "calibrate", *maps, "--output", "three.json")
    made = json.loads((tmp_path / "three.json").read_text())
    levels = [one["best"]["level"] for one in made["maps"]]
    assert levels[0] < levels[1] < levels[2]
    assert made["level"] == levels[1]
    # a half that was never looked at, marked by a grey value or by a mask, changes nothing
    label, spoilt = np.where(ink, 255, 0).astype(np.uint8), found.copy()
    spoilt[:, 150:], label[:, 150:] = 255, 128
    seen = np.zeros(ink.shape, np.uint8)
    seen[:, :150] = 1
    for name, values in (("half", label), ("spoilt", spoilt), ("seen", seen)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    voxweft("ink", "threshold", "calibrate", "half.png=spoilt.png", "--unlabelled", 128, "--output", "grey.json")
    voxweft("ink", "threshold", "calibrate", "label.png=spoilt.png", "--mask", "seen.png", "--output", "mask.json")
    expected = max(f1(ink[:, :150], found[:, :150] >= level) for level in range(1, 256))
    for name in ("grey", "mask"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["f1"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calibrate", "label.png=small.png"], "must be of one size"),
        (["calibrate", "nothing.png=found.png"], "nothing lies there"),
        (["calibrate", "empty.png=found.png", "--output", "t.json"], "has no ink labelled"),
        (["calibrate", "label.png=found.png", "--mask", "inside.png"], "nothing but ink"),
        (["calibrate", "label.png"], "is no pair"),
        (["calibrate", "label.png=found.png", "label.png=deep.png"], "no level in common"),
        (["calibrate", "label.png=found.png", "--mask", "a.png", "--mask", "b.png"], "2 times for 1 maps"),
        (["apply", "found.png", "m.png"], "either --level N or --calibration"),
        (["apply", "found.png", "m.png", "--level", 300], "is not 1 to 255"),
        (["apply", "found.png", "found.png", "--level", 3], "is what is read"),
        (["apply", "found.png", "m.jpg", "--level", 3], "must end in .png"),
        (["apply", "found.png", "m.png", "--calibration", "label.png"], "is no thresholds.json"),
        (["apply", "deep.png", "m.png", "--calibration", "t256.json"], "is of 256 levels"),
    ],
)
def test_thresholds_that_cannot_be(
    voxweft: Voxweft, pictures: Any, tmp_path: Path, words: list[Any], said: str
) -> None:
    ink, found = pictures
    for name, values in {
        "small": found[:50],
        "empty": np.zeros_like(found),
        "inside": ink.astype(np.uint8),
        "deep": found.astype(np.uint16) * 257,
    }.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    (tmp_path / "t256.json").write_text('{"level": 100, "levels": 256}')
    before = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    done = voxweft("ink", "threshold", *words, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == before


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=2, max_size=60))
def test_the_best_level_is_the_best_of_all(pixels: list[tuple[int, bool]]) -> None:
    values, ink = np.array([v for v, _ in pixels]), np.array([i for _, i in pixels])
    found = best_level(*(np.bincount(values[chosen], minlength=8) for chosen in (ink, ~ink)))
    scores = [f1(ink, values >= level) for level in range(1, 8)]
    assert found.f1 == pytest.approx(max(scores))
    assert f1(ink, values >= found.level) == pytest.approx(max(scores))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_means_of_blocks_are_those_of_their_pixels(height: int, width: int, side: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8)
    means = block_means(values, side)
    assert means.shape == (-(-height // side), -(-width // side))
    assert means[-1, -1] == pytest.approx(values[(height - 1) // side * side :, (width - 1) // side * side :].mean())
    assert pearson(values, values) == pytest.approx(1) or not values.std()


def test_variables_of_the_container_that_decide(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    where = {"S3_PATH": "seg", "START_LAYER": "0", "END_LAYER": "5", "MODEL": "net.ckpt", "RUNTIME_DIR": "notes"}
    where |= {"ZARR_OUTPUT_DIR": "parts", "SURFACE_VOLUME_ZARR": "s.zarr", "IMAGE_ROLE": "cpu"}
    done = voxweft("ink", code=2, **where)
    assert "IMAGE_ROLE=cpu" in done.stderr
    sizes = {"SURFACE_VOLUME_CHUNK_SIZE": "64", "PREPARE_MAX_WORKERS": "1"}
    voxweft("ink", **where, **sizes, STEP="prepare")
    array = zarr.open(str(tmp_path / "s.zarr/0"), mode="r")
    assert array.chunks[1:] == (44, 50)  # equal shares of 130 x 150 pixels, none longer than 64
    assert np.array_equal(array[:], waves(5, 130, 150))
    plan = json.loads((tmp_path / "s.zarr.voxweft/plan.json").read_text())
    assert plan["stages"][0]["at_once"] == 1
    done = voxweft("ink", code=2, **where | {"IMAGE_ROLE": "gpu", "INK_DEVICE": "tpu"})
    assert "tpu" in done.stderr
    done = voxweft("ink", code=2, **where, STEP="prepare", PREPARE_MAX_WORKERS="-1")
    assert "--prepare-max-workers -1" in done.stderr
    (tmp_path / "compare").mkdir()  # a folder that is called like a command
    assert "is missing" in voxweft("ink", "compare", "s.png", code=2).stderr
