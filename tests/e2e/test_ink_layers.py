"""Which layers a network sees, in which direction, and what is known: as users run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from conftest import Voxweft
from inknets import backbone, lightning, small_timesformer
from surfaces import small_checkpoint, waves, write_layers
from voxweft.apps import ink
from voxweft.apps.ink.options import InkModelOptions, InkOptions, LayerOptions, ProbeOptions
from voxweft.cli.app import execute
from voxweft.testing import make_ink_phantom

HOW = ("--stride", 16, "--runtime", "torch", "--batch-size", 16)
HERE = ("--zarr-output-dir", "parts", "--runtime-dir", "notes")
NET = ("--model", "net.ckpt", *HOW, *HERE)


@pytest.fixture(scope="module")
def surface() -> Any:
    """Every layer brighter than the one before, so that windows differ."""
    brighter = np.linspace(0.4, 1.6, 9)[:, None, None]
    return np.clip(waves(9, 150, 130) * brighter, 0, 255).astype(np.uint8)


@pytest.fixture
def deep(tmp_path: Path, surface: Any) -> Any:
    """Layers 10 to 18 in ``deep``, and ``net.ckpt`` that takes five."""
    small_checkpoint(tmp_path / "net.ckpt")
    return write_layers(tmp_path / "deep", surface, first=10)


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def other_checkpoint(path: Path, **size: Any) -> None:
    network = small_timesformer(seed=2, depth=1, **size)
    network.to_patch_embedding.weight.mul_(4)
    network.to_out[1].weight.mul_(6)
    known = {"num_frames": 5, "image_size": 32, "dim_head": 8} | size
    lightning(path, backbone(network.state_dict()), backbone=known)


def test_without_a_window_it_is_the_middle_one(voxweft: Voxweft, deep: Any, surface: Any, tmp_path: Path) -> None:
    """Of 9 layers from 10 on 5 are taken: 10 + (9 - 5) // 2 is 12."""
    voxweft("ink", "run", "deep", *NET)
    voxweft("ink", "run", "deep", "asked.png", *NET, "--start-layer", 12, "--end-layer", 17)
    found = picture(tmp_path / "deep/predictions/prediction_net_12_17.png")
    assert found.any()
    assert np.array_equal(found, picture(tmp_path / "asked.png"))
    voxweft("ink", "run", "deep", "start.png", *NET, "--start-layer", 11)
    voxweft("ink", "prepare", "deep", "all.zarr", *HERE)
    voxweft("ink", "run", "all.zarr", "same.png", *NET, "--start-layer", 11)
    assert np.array_equal(picture(tmp_path / "start.png"), picture(tmp_path / "same.png"))
    assert not np.array_equal(picture(tmp_path / "start.png"), found)
    zarr.create_array(str(tmp_path / "v.zarr"), data=surface, chunks=(9, 64, 64))
    voxweft("ink", "run", "v.zarr", "array.png", *NET)
    assert np.array_equal(picture(tmp_path / "array.png"), found)
    estimated = voxweft("ink", "run", "deep", *NET, "--estimate", "--windows", 3).stdout
    assert "5 layers of 150 x 130" in estimated


def test_both_directions_are_two_results(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    told = voxweft("ink", "run", "deep", "out.png", *NET, "--direction", "both").stdout
    for name, flag in (("forward", ()), ("reverse", ("--reverse",))):
        voxweft("ink", "run", "deep", f"{name}.png", *NET, *flag)
        made = picture(tmp_path / f"out_{name}.png")
        assert np.array_equal(made, picture(tmp_path / f"{name}.png"))
        assert f"out_{name}.png" in told
        assert (tmp_path / f"out_{name}_report.html").exists()
    assert not np.array_equal(picture(tmp_path / "forward.png"), picture(tmp_path / "reverse.png"))
    assert not (tmp_path / "out.png").exists()
    parts = [*NET, "--direction", "both", "--num-parts", 2, "--part-id"]
    voxweft("ink", "infer", "deep", *parts, 0)
    voxweft("ink", "infer", "deep", *parts, 1)
    voxweft("ink", "reduce", "--s3-path", "deep", "--model", "net.ckpt", "--direction", "both", *HERE)
    for name in ("forward", "reverse"):
        joined = tmp_path / f"deep/predictions/prediction_net_12_17_{name}.png"
        assert joined.read_bytes() == (tmp_path / f"{name}.png").read_bytes()
        known = joined.with_name(f"prediction_net_12_17_{name}_known.png")
        assert known.read_bytes() == (tmp_path / f"{name}_known.png").read_bytes()


def test_windows_become_one_result(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    for start in (11, 12, 13):
        voxweft("ink", "run", "deep", f"{start}.png", *NET, "--start-layer", start)
    each = np.stack([picture(tmp_path / f"{start}.png") for start in (11, 12, 13)]).astype(int)
    assert (each.max(axis=0) - each.min(axis=0)).max() > 3
    voxweft("ink", "run", "deep", "max.png", *NET, "--windows", 3, "--combine", "max")
    voxweft("ink", "run", "deep", "mean.png", *NET, "--windows", 3)
    voxweft("ink", "run", "deep", "turned.zarr", *NET, "--windows", 2, "--window-step", 2, "--reverse")
    assert np.array_equal(picture(tmp_path / "max.png"), each.max(axis=0))
    assert np.abs(picture(tmp_path / "mean.png") - each.mean(axis=0)).max() < 1.01
    for start in (12, 14):
        voxweft("ink", "run", "deep", f"r{start}.png", *NET, "--start-layer", start, "--reverse")
    two = np.mean([picture(tmp_path / f"r{start}.png").astype(float) for start in (12, 14)], axis=0)
    turned = zarr.open(str(tmp_path / "turned.zarr/0"), mode="r")[0]
    assert np.abs(turned - two).max() < 1.01
    voxweft("run", "--plan", "turned.zarr", "again.zarr")
    assert np.array_equal(turned, zarr.open(str(tmp_path / "again.zarr/0"), mode="r")[0])


def test_an_ensemble_is_the_mean_of_probabilities(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    other_checkpoint(tmp_path / "two.ckpt")
    for name in ("net", "two"):
        voxweft("ink", "run", "deep", f"{name}.png", "--model", f"{name}.ckpt", *HOW, *HERE)
    voxweft("ink", "run", "deep", "--model", "net.ckpt", "--model", "two.ckpt", *HOW, *HERE)
    voxweft("ink", "run", "deep", "comma.png", "--model", "net.ckpt,two.ckpt", *HOW, *HERE, "--quiet")
    both = picture(tmp_path / "deep/predictions/prediction_net+two_12_17.png")
    mean = np.mean([picture(tmp_path / f"{name}.png").astype(float) for name in ("net", "two")], axis=0)
    assert np.abs(both - mean).max() < 1.01
    assert np.array_equal(both, picture(tmp_path / "comma.png"))
    other_checkpoint(tmp_path / "six.ckpt", num_frames=6)
    done = voxweft("ink", "run", "deep", "x.png", "--model", "net.ckpt,six.ckpt", *HOW, *HERE, code=2)
    assert "n_inputs 6" in done.stderr


def test_clip_and_divisor_apart(voxweft: Voxweft, tmp_path: Path) -> None:
    """Clipped at 120 and divided by 255 is what clipped layers divided by 255 give."""
    volume = waves(5, 100, 90)
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", volume)
    write_layers(tmp_path / "clipped", np.minimum(volume, 120))
    voxweft("ink", "run", "seg", "a.png", *NET, "--clip", 120, "--divisor", 255)
    voxweft("ink", "run", "clipped", "b.png", *NET, "--divisor", 255)
    voxweft("ink", "run", "seg", "c.png", *NET, "--divisor", 255)
    voxweft("ink", "run", "seg", "d.png", *NET, "--clip", 200, "--divisor", 200)
    voxweft("ink", "run", "seg", "e.png", *NET)
    a, b, c, d, e = (picture(tmp_path / f"{n}.png") for n in "abcde")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(d, e), "200 and 200 is what such models take"


def test_what_is_not_known_is_told_apart_from_no_ink(voxweft: Voxweft, deep: Any, surface: Any, tmp_path: Path) -> None:
    there = surface[2:7].any(axis=0)
    told = voxweft("ink", "run", "deep", "out.png", *NET).stdout
    assert "out_known.png" in told
    known = picture(tmp_path / "out_known.png")
    assert np.array_equal(known > 0, there)
    assert set(np.unique(known)) == {0, 255}
    share = f"{1 - there.mean():.2%} of the pixels are unknown"
    assert share in (tmp_path / "out_report.html").read_text()
    voxweft("ink", "run", "deep", "full.png", *NET, "--roi", "90,0,130,150")
    rows = picture(tmp_path / "full_known.png")
    assert rows[:, 90:].all()
    assert not rows[:, :90].any()
    write_layers(tmp_path / "whole", np.maximum(surface, 1 + np.arange(130, dtype=np.uint8) % 2), first=10)
    voxweft("ink", "run", "whole", "whole.tif", *NET)
    assert not [*tmp_path.glob("whole_known*")], "the last tiles are padded, and their padding is no surface"
    voxweft("ink", "run", "deep", "o.zarr", *NET)
    assert np.array_equal(zarr.open(str(tmp_path / "o_known.zarr/0"), mode="r")[0], known)
    voxweft("verify", "o.zarr")


@pytest.mark.parametrize("kind", ["png", "tif", "zarr"])
def test_a_mask_says_what_is_wanted(voxweft: Voxweft, deep: Any, surface: Any, tmp_path: Path, kind: Any) -> None:
    """Half as large as the surface, in both directions."""
    mask = np.zeros((75, 65), np.uint8)
    mask[45:] = 1
    if kind == "zarr":
        zarr.create_array(str(tmp_path / "mask.zarr"), data=mask[None], chunks=(1, 32, 32))
    else:
        Image.fromarray(mask).save(tmp_path / f"mask.{kind}")
    voxweft("ink", "run", "deep", "all.png", *NET)
    told = voxweft("ink", "run", "deep", "some.png", *NET, "--mask", f"mask.{kind}", "--quiet")
    assert not told.stdout
    some = picture(tmp_path / "some.png")
    assert not some[:90].any()
    assert np.array_equal(some[90:], picture(tmp_path / "all.png")[90:])
    known = picture(tmp_path / "some_known.png")
    assert np.array_equal(known > 0, np.repeat(np.repeat(mask, 2, 0), 2, 1) > 0)


def test_a_probe_tells_the_direction_of_a_face(voxweft: Voxweft, tmp_path: Path) -> None:
    """Ink of the phantom lies on its upper side, which is the near one; reversed it is the far one."""
    blank = make_ink_phantom((16, 128, 128), seed=4, text=".")
    write_layers(tmp_path / "seg", blank.layers)
    run = ["ink", "probe", "seg", "--model", "demo-ink", "--stride", 16, "--amplitudes", "1,48", "--runtime", "torch"]
    before = {*tmp_path.rglob("*")}
    found = json.loads(voxweft(*run, "--face", "near", "--json").stdout)
    assert found["direction"] == "forward"
    assert found["layers"]["forward"] == [2, 14]
    assert found["faintest_amplitude"] == 48
    assert {*tmp_path.rglob("*")} == before, "nothing is written"
    told = voxweft(*run, "--picture", "probe.png", "--voxel-size-um", 50).stdout
    assert "undecided" in told
    assert "with ink on the near face forward" in " ".join(told.split())
    assert "7 px wide, 40 px apart" in " ".join(told.split())
    assert {*tmp_path.rglob("*")} - before == {tmp_path / "probe.png"}
    assert picture(tmp_path / "probe.png").ndim == 3
    flat = write_layers(tmp_path / "flat", np.zeros((16, 128, 128), np.uint8))
    assert "is empty wherever" in voxweft("ink", "probe", flat, *run[3:], code=2).stderr


def test_a_probe_from_python_with_a_network_that_sees_nothing(deep: Any, tmp_path: Path) -> None:
    network = small_timesformer(seed=1, depth=1)
    network.to_out[1].weight.zero_()
    blind = {"num_frames": 5, "image_size": 32, "dim_head": 8}
    lightning(tmp_path / "blind.ckpt", backbone(network.state_dict()), backbone=blind)
    options = (
        LayerOptions(s3_path=str(deep)),
        InkModelOptions(model=str(tmp_path / "blind.ckpt")),
        InkOptions(roi="60,90,124,150", runtime="torch"),
    )
    found = ink.probe(options, ProbeOptions(amplitudes="64"))
    assert found.verdict.direction == "undecided"
    assert found.verdict.faintest is None
    assert found.region == (60, 90, 124, 150)


def test_a_sweep_tries_everything_and_hides_nothing(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    run = ["ink", "sweep", "deep", "sheets", "--models", "net.ckpt", *HOW, "--roi", "90,0,130,150"]
    done = voxweft(*run, "--offsets", "-1,0,5", code=1)
    assert "2 of 6 combinations failed" in done.stderr
    assert "there is no 19" in done.stderr
    summary = json.loads((tmp_path / "sheets/sweep.json").read_text())
    assert [t["offset"] for t in summary["trials"]] == [-1, -1, 0, 0, 5, 5]
    assert [bool(t["error"]) for t in summary["trials"]] == [False] * 4 + [True] * 2
    voxweft("ink", "run", "deep", "one.png", *NET, "--start-layer", 11, "--reverse", "--roi", "90,0,130,150")
    one = picture(tmp_path / "one.png")
    assert np.array_equal(picture(tmp_path / "sheets/net_11_16_reverse.png"), one)
    numbers = next(t["numbers"] for t in summary["trials"] if t["name"] == "net_11_16_reverse")
    assert numbers["mean"] == pytest.approx(one[:, 90:].mean() / 255, abs=1e-4)
    assert picture(tmp_path / "sheets/sweep.png").ndim == 3
    work = {p: p.stat().st_mtime_ns for p in (tmp_path / "sheets/work").rglob("done/sweep/*")}
    assert work
    voxweft(*run, "--offsets", "-1,0,1", "--quiet")
    assert work == {p: p.stat().st_mtime_ns for p in work}, "what is done is not computed again"
    assert len([*(tmp_path / "sheets").glob("net_*e.png")]) + len([*(tmp_path / "sheets").glob("net_*d.png")]) == 6


def test_each_bad_request_gets_one_message(
    deep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.ones((40, 40), np.uint8)).save("mask.png")
    run = ["ink", "run", "deep", "out.png", *map(str, NET)]
    cases = [
        (["--windows", "7"], "holds layers 10 to 18, 9 to 13 are asked for"),
        (["--windows", "0"], "both are at least 1"),
        (["--combine", "median"], "--combine 'median' is unknown; use one of mean, max"),
        (["--start-layer", "15"], "there is no 19"),
        (["--end-layer", "15"], "START_LAYER is missing"),
        (["--direction", "up"], "--direction 'up' is unknown; use one of forward, reverse, both"),
        (["--direction", "forward", "--reverse"], "contradict each other"),
        (["--clip", "256"], "--clip 256 is not 0 to 255"),
        (["--mask", "mask.png"], "as large or smaller by a whole factor"),
        (["--mask", "none.png"], "nothing lies there"),
        (["--model", "net.ckpt"], "named twice"),
        (["--voxel-size-um", "-2"], "is no length"),
        (["--input-contract", "maybe"], "--input-contract 'maybe' is unknown"),
    ]
    for more, message in cases:
        assert execute([*run, *more]) == 2, more
        said = capsys.readouterr().err
        assert message in said, (more, said)
        assert said.count("\n") <= 3
    small = write_layers(tmp_path / "small", waves(3, 100, 90))
    assert execute(["ink", "run", str(small), *map(str, NET)]) == 2
    assert "holds 3 layers, 0 to 2; net.ckpt takes 5" in capsys.readouterr().err
    for words, message in (
        (["sweep", "deep", "s"], "MODEL is missing"),
        (["sweep", "deep", "s", "--models", "net.ckpt", "--offsets", "few"], "--offsets 'few' are no numbers"),
        (["sweep", "deep", "s", "--models", "net.ckpt", "--directions", "up"], "--directions 'up' are unknown"),
        (["probe", "deep", "--model", "net.ckpt", "--amplitudes", "0"], "--amplitudes '0' are no contrasts"),
        (["probe", "deep", "--model", "net.ckpt", "--picture", "p.jpg"], "p.jpg"),
    ):
        assert execute(["ink", *words]) == 2, words
        assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("out*")]
    assert not (tmp_path / "parts").exists()
    assert not (tmp_path / "s").exists()
