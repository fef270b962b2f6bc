"""Bad input: one to three lines, exit code 2, nothing half-written; failures while running: exit code 1, resumable."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.typing import NDArray

from conftest import Voxweft

NULL = "fake://null?patch=16,16,16"


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> str:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 16, 16), dtype="uint8")[:] = image
    return "in.zarr"


@pytest.fixture
def refused(voxweft: Voxweft, tmp_path: Path) -> Any:
    """Run and expect a refusal: exit code 2, at most three lines that contain all words, no output."""

    def check(*arguments: Any, words: Any, lines: int = 3) -> Any:
        done = voxweft(*arguments, code=2)
        text = done.stderr.strip()
        assert text.startswith("voxweft: ")
        assert len(text.splitlines()) <= lines
        assert "Traceback" not in text
        for word in words:
            assert str(word) in text
        assert not list(tmp_path.glob("o.zarr*"))
        return text

    return check


def test_the_input(refused: Any, tmp_path: Path, volume: Any) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, words in {
        "nothing.zarr": ["nothing.zarr", "nothing lies there"],
        "text.txt": ["text.txt", "zarr, OME-Zarr, TIFF"],
        "text.tif": ["text.tif", "no readable TIFF"],
        "empty": ["empty", "folder without"],
        "gopher://x/y": ["scheme", "s3://"],
        "no\n\n\nline\x1b.zarr": [r"no\n\n\nline\x1b.zarr", "nothing lies there"],
    }.items():
        refused("run", path, "o.zarr", "--model", NULL, words=words)
    refused(
        "run", volume, "o.zarr", "--model", "fake://null?patch=16,16,16&inputs=2", words=["2 input channel", "has 1"]
    )


def test_planes_that_are_missing_or_doubled(refused: Any, tmp_path: Path) -> None:
    folder = tmp_path / "planes"
    folder.mkdir()
    for z in (0, 1, 3, 4, 9):
        tifffile.imwrite(folder / f"s_{z:03d}.tif", np.full((20, 20), z, np.uint8))
    refused("run", "planes", "o.zarr", "--model", NULL, words=["2, 5, 6, 7, 8", "missing"])


def test_labels_where_an_image_is_expected(refused: Any, voxweft: Voxweft, tmp_path: Path) -> None:
    labels = np.arange(64, dtype=np.uint16).reshape(4, 4, 4).repeat(12, 0).repeat(12, 1).repeat(12, 2)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    refused("run", "labels.tif", "o.zarr", "--model", NULL, words=["looks like labels", "--accept-labels"])
    voxweft("run", "labels.tif", "yes.zarr", "--model", NULL, "--accept-labels")


def test_all_wrong_options_are_named_at_once(refused: Any, volume: Any) -> None:
    flags = ["--window", "box", "--overlap", "1.5", "--output", "x", "--chunk", "1,2", "--memory", "lots"]
    words = ["--window 'box'", "gaussian", "--overlap 1.5", "--output 'x'", "--chunk '1,2'", "--memory 'lots'"]
    refused("run", volume, "o.zarr", "--model", NULL, *flags, words=words, lines=5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nope"], ["--nope"]),
        (["--overlap", "abc"], ["--overlap", "number"]),
        (["--bbox", "0:9,5:3,:"], ["--bbox", "empty"]),
        (["--memory", "10MB"], ["--memory 10MB", "Allow more"]),
        (["--runtime", "onnx"], ["--runtime onnx", "offered here: torch"]),
        (["--level", "2"], ["--level 2"]),
        (["--mask", "in.zarr.no"], ["in.zarr.no", "nothing lies there"]),
        (["--part-id", "3", "--num-parts", "3"], ["0 to 2"]),
        (["--part-id", "1"], ["--num-parts"]),
        (["--part-id", "1", "--num-parts", "2", "--overwrite"], ["the other parts"]),
        (["--patch-size", "16,16"], ["--patch-size '16,16'"]),
        (["--tta", "rotation", "--patch-size", "16,16,24"], ["rotation", "cubic"]),
        (["--executor", "cloud"], ["--executor 'cloud'", "processes"]),
        (["--device", "tpu"], ["--device 'tpu'", "cuda"]),
        (["--mode", "binary", "--model", "fake://null?patch=16,16,16&classes=3"], ["--mode binary", "multiclass"]),
    ],
)
def test_one_wrong_option(refused: Any, volume: Any, flags: Any, words: Any) -> None:
    model = [] if "--model" in flags else ["--model", NULL]
    refused("run", volume, "o.zarr", *model, *flags, words=words)


def test_hyphen_and_underscore_are_alike(voxweft: Voxweft, volume: Any) -> None:
    voxweft("run", volume, "o.zarr", "--model", NULL, "--sigma_scale=6", "--patch_size", "16,16,16", "--num_parts", "2")


def test_a_volume_smaller_than_the_patch_is_padded_with_a_note(voxweft: Voxweft, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.random.default_rng(0).integers(0, 255, (9, 30, 30), dtype=np.uint8))
    done = voxweft("run", "small.tif", "o.zarr", "--model", NULL)
    assert "smaller than the patch along z (9 < 16)" in done.stderr
    assert zarr.open(str(tmp_path / "o.zarr/0"), mode="r").shape == (9, 30, 30)


def test_nan_and_inf_are_counted_and_reported(voxweft: Voxweft, tmp_path: Path) -> None:
    broken = np.random.default_rng(0).normal(100, 20, (20, 30, 30)).astype(np.float32)
    broken[3, 4, 5], broken[6, 7, 8] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "broken.tif", broken)
    done = voxweft("run", "broken.tif", "o.zarr", "--model", NULL, "--output", "logits")
    assert "2 voxels of the input were NaN or Inf" in done.stderr
    assert np.isfinite(zarr.open(str(tmp_path / "o.zarr/0"), mode="r")[:]).all()
    assert json.loads((tmp_path / "o.zarr.voxweft/report.json").read_text())["totals"]["n_nonfinite"] == 2


def test_a_damaged_chunk_is_named_and_the_run_can_be_completed(
    voxweft: Voxweft, tmp_path: Path, volume: Any, image: NDArray[Any]
) -> None:
    chunk = tmp_path / "in.zarr/c/2/1/3"
    good = chunk.read_bytes()
    chunk.write_bytes(good[: len(good) // 2])
    failed = voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,16,16", code=1)
    assert "chunk 2/1/3" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) <= 3
    chunk.write_bytes(good)
    voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,16,16")
    voxweft("verify", "o.zarr")


def test_a_cut_tiff_names_the_page(voxweft: Voxweft, tmp_path: Path, image: NDArray[Any]) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", image, compression="zlib", metadata=None)
    data = (tmp_path / "stack.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "stack.tif") as tif:
        start = tif.pages[40].dataoffsets[0]
    (tmp_path / "stack.tif").write_bytes(data[:start] + b"\0" * 200 + data[start + 200 :])
    failed = voxweft("run", "stack.tif", "o.zarr", "--model", NULL, code=1)
    assert "page 40" in failed.stderr


def test_an_output_with_another_plan_is_refused_with_the_difference(
    voxweft: Voxweft, volume: Any, tmp_path: Path
) -> None:
    voxweft("run", volume, "o.zarr", "--model", NULL)
    before = (tmp_path / "o.zarr.voxweft/plan.json").read_bytes()
    other = voxweft("run", volume, "o.zarr", "--model", NULL, "--overlap", "0.25", "--tta", "mirroring", code=2)
    assert "overlap: stored 0.5, asked for 0.25" in other.stderr
    assert "tta: stored 'none', asked for 'mirroring'" in other.stderr
    assert "--overwrite" in other.stderr
    assert (tmp_path / "o.zarr.voxweft/plan.json").read_bytes() == before
    voxweft("run", volume, "o.zarr", "--model", NULL, "--overlap", "0.25", "--overwrite")


def test_what_voxweft_did_not_write_is_never_deleted(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr/thesis.txt").write_text("years of work")
    assert "not the output of a voxweft run" in voxweft("run", volume, "mine.zarr", "--model", NULL, code=2).stderr
    refusal = voxweft("run", volume, "mine.zarr", "--model", NULL, "--overwrite", code=2).stderr
    assert "was not written by voxweft" in refusal
    assert (tmp_path / "mine.zarr/thesis.txt").read_text() == "years of work"


@pytest.fixture
def model(tmp_path: Path, shared: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(shared / "golden/scroll/model_c2_p32", folder)
    return folder


def test_models_that_do_not_fit(refused: Any, model: Any, volume: Any, tmp_path: Path) -> None:
    plans = json.loads((model / "plans.json").read_text())
    refused("run", volume, "o.zarr", "--model", "nowhere", words=["nowhere", "no model"])
    refused("run", volume, "o.zarr", "--model", tmp_path, words=["plans.json"])
    refused("run", volume, "o.zarr", "--model", model, "--patch-size", "18,18,18", words=["no multiple of"])
    text = json.dumps(plans)
    (model / "plans.json").write_text(text.replace('"features_per_stage": [8,', '"features_per_stage": [6,'))
    if (model / "plans.json").read_text() == text:
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [6, 16, 32]
        (model / "plans.json").write_text(json.dumps(plans))
    refused("run", volume, "o.zarr", "--model", model, words=["does not fit its plans"])
    (model / "plans.json").write_text("{")
    refused("run", volume, "o.zarr", "--model", model, words=["plans.json", "JSON"])


class _Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_pickled_payload_is_refused_and_nothing_is_executed(
    refused: Any, model: Any, volume: Any, tmp_path: Path
) -> None:
    checkpoint = model / "fold_0/checkpoint_final.pth"
    state = torch.load(checkpoint, weights_only=False)
    state["trainer_name"] = _Payload()
    torch.save(state, checkpoint)
    refused("run", volume, "o.zarr", "--model", model, words=["wants to run code", "nothing was executed"])
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Payload()))
    refused("run", volume, "o.zarr", "--model", "raw.pth", words=["raw.pth", "no model that voxweft knows"])
    assert not (tmp_path / "executed").exists()


def test_a_payload_in_an_exported_program_is_refused(refused: Any, volume: Any, tmp_path: Path) -> None:
    import zipfile

    net = torch.nn.Conv3d(1, 2, 1)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 1, 16, 16, 16),)), tmp_path / "good.pt2")
    torch.save(_Payload(), tmp_path / "payload.pt")
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for item in good.infolist():
            data = good.read(item)
            if item.filename.endswith(".pt") or "sample_inputs" in item.filename:
                data = (tmp_path / "payload.pt").read_bytes()
            bad.writestr(item.filename, data, zipfile.ZIP_STORED)
    refused("run", volume, "o.zarr", "--model", "bad.pt2", words=["bad.pt2"])
    assert not (tmp_path / "executed").exists()


def test_no_space_left_is_clear_and_can_be_resumed(voxweft: Voxweft, tmp_path: Path, volume: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    flags = ["--model", NULL, "--chunk", "16,32,32", "--compressor", "none"]
    try:
        full = voxweft("run", volume, "disk/o.zarr", *flags, code=1)
        assert "no space is left" in full.stderr
        assert "run the same command again" in full.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        voxweft("run", volume, "disk/o.zarr", *flags)
        voxweft("verify", "disk/o.zarr")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_damaged_output_is_found(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32", "--compressor", "none")
    voxweft("verify", "o.zarr")
    victim = next(p for p in sorted((tmp_path / "o.zarr/0/c").rglob("*")) if p.is_file())
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    assert "is not what was written" in voxweft("verify", "o.zarr", code=1).stderr


def test_an_output_that_is_not_complete_has_no_report(voxweft: Voxweft, volume: Any) -> None:
    voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32", "--num-parts", "3", "--part-id", "1")
    assert "slabs are missing" in voxweft("report", "o.zarr", code=1).stderr
    assert "is missing" in voxweft("verify", "o.zarr", code=1).stderr
