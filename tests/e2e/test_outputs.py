"""Outputs that were deleted, damaged, replaced or made from something else; and what a run leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

import voxweft as package
from conftest import Voxweft
from voxweft.errors import RequestError, VolumeError
from voxweft.runner.execution import Execution

NULL = "fake://null?patch=16,16,16"


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return tmp_path / "in.zarr"


@pytest.fixture
def output(voxweft: Voxweft, volume: Any, tmp_path: Path) -> Path:
    voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32")
    return tmp_path / "o.zarr"


def test_records_without_their_output_are_refused(voxweft: Voxweft, volume: Any, output: Any) -> None:
    shutil.rmtree(output)
    told = voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32", code=2).stderr
    assert "o.zarr is gone" in told
    assert not output.exists()
    voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32", "--overwrite")
    voxweft("verify", "o.zarr")


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_what_verify_finds_the_same_command_repairs(voxweft: Voxweft, volume: Any, output: Any, damage: Any) -> None:
    whole = {k: zarr.open_array(str(output / k), mode="r")[:] for k in ("0",)}
    chunk = max((output / "0/c").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    chunk.unlink() if damage == "remove" else chunk.write_bytes(chunk.read_bytes()[:-50])
    told = voxweft("verify", "o.zarr", code=1).stderr
    assert "is not what was written" in told
    done = voxweft("run", volume, "o.zarr", "--model", NULL, "--chunk", "16,32,32")
    assert "complete" in done.stdout
    voxweft("verify", "o.zarr")
    assert all(np.array_equal(zarr.open_array(str(output / k), mode="r")[:], v) for k, v in whole.items())


@pytest.mark.parametrize("flags", [["nope.zarr", "--model", NULL], ["in.zarr", "--model", "nomodel"]])
def test_overwrite_deletes_only_for_a_sound_request(voxweft: Voxweft, output: Any, flags: Any) -> None:
    voxweft("run", flags[0], "o.zarr", *flags[1:], "--overwrite", code=2)
    voxweft("verify", "o.zarr")


def test_a_plan_is_repeated_for_the_same_input_only(
    voxweft: Voxweft, volume: Any, output: Any, image: NDArray[Any]
) -> None:
    told = voxweft("run", "--plan", "o.zarr", "again.zarr", "--overlap", "0.9", code=2).stderr
    assert "nothing else" in told
    zarr.open_array(str(volume), mode="r+")[:] = image[::-1]
    told = voxweft("run", "--plan", "o.zarr", "again.zarr", code=2).stderr
    assert "its voxels differ" in told
    assert not (output.parent / "again.zarr").exists()


def test_other_processes_do_not_see_this_ones_memory(image: NDArray[Any], tmp_path: Path) -> None:
    processes = Execution(executor="processes", workers=2)
    for source, target in ((image, tmp_path / "o.zarr"), (image, package.open_sink("memory://"))):
        with pytest.raises(RequestError, match="memory"):
            package.run(source, target, NULL, execution=processes)
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize(
    "values", [{"num_parts": -3}, {"num_parts": 2, "part_id": -7}, {"workers": -2}, {"num_parts": 2, "part_id": 2}]
)
def test_impossible_executions(values: Any) -> None:
    name = max(values, key=lambda k: k != "num_parts").replace("_", "-")
    with pytest.raises(RequestError, match=f"--{name}"):
        Execution(**values)


@pytest.mark.parametrize("values", [{"patch_size": (32, 32, 32)}, {"overlap": "0.5"}, {"bbox": 5}, {"pyramid": 1}])
def test_options_of_a_wrong_type(values: Any) -> None:
    with pytest.raises(RequestError, match="expected, for example"):
        package.RunOptions(**values)


def test_a_list_is_no_volume() -> None:
    with pytest.raises(VolumeError, match="a list is no volume"):
        package.open_volume([[1, 2], [3, 4]])


def test_a_cut_tiff_is_refused(tmp_path: Path, image: NDArray[Any]) -> None:
    tifffile.imwrite(tmp_path / "whole.tif", image, photometric="minisblack", metadata=None, rowsperstrip=7)
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VolumeError, match="damaged or cut"):
        package.open_volume(tmp_path / "cut.tif")


@pytest.mark.parametrize("name", ["nuclei_embryo/16cell_mask.tif", "em_sstem_vnc_nc/semantic.tif"])
def test_masks_and_label_volumes_are_no_images(voxweft: Voxweft, shared: Path, name: Any) -> None:
    if not (shared / "data" / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    told = voxweft("run", shared / "data" / name, "o.zarr", "--model", NULL, code=2).stderr
    assert "labels" in told


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, image: NDArray[Any]) -> None:
    deep = np.tile(image, (8, 2, 2))
    zarr.create_array(str(tmp_path / "deep.zarr"), shape=deep.shape, chunks=(16, 64, 64), dtype="uint8")[:] = deep
    command = [sys.executable, "-m", "voxweft", "run", "deep.zarr", "o.zarr", "--model", "fake://blur?patch=16,16,16"]
    process = subprocess.Popen(
        [*command, "--tta", "mirroring"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
    )
    while not (tmp_path / "o.zarr").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in told
    assert "the same command" in told


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, image: NDArray[Any]) -> None:
    deep = np.tile(image, (8, 2, 2))
    zarr.create_array(str(tmp_path / "deep.zarr"), shape=deep.shape, chunks=(16, 64, 64), dtype="uint8")[:] = deep
    command = [sys.executable, "-m", "voxweft", "run", "deep.zarr", "o.zarr", "--model", "fake://blur?patch=16,16,16"]
    flags = ["--tta", "mirroring", "--executor", "processes", "--workers", "2", "--chunk", "16,64,64"]
    process = subprocess.Popen([*command, *flags, "--quiet"], cwd=tmp_path)
    records = tmp_path / "o.zarr.voxweft/done/sweep"
    while not list(records.glob("*")):
        time.sleep(0.05)
    workers = {json.loads(p.read_text())["pid"] for p in records.glob("*")}
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert os.getpid() not in workers


def test_a_place_for_the_report_that_cannot_be_is_told_first(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    told = voxweft("run", volume, "o.zarr", "--model", NULL, "--report", "nowhere/r.html", code=2).stderr
    assert "nowhere/r.html" in told
    assert "--log-json" in voxweft("run", volume, "o.zarr", "--model", NULL, "--log-json", "nowhere/l", code=2).stderr
    assert not (tmp_path / "o.zarr").exists()


def test_an_empty_volume_and_an_impossible_compression(voxweft: Voxweft, tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "none.zarr"), shape=(0, 64, 64), chunks=(16, 16, 16), dtype="uint8")
    assert "is empty" in voxweft("run", "none.zarr", "o.zarr", "--model", NULL, code=2).stderr
    assert "0 to 22" in voxweft("run", "none.zarr", "o.zarr", "--model", NULL, "--compression-level", 99, code=2).stderr
    assert not (tmp_path / "o.zarr.voxweft").exists()


def test_a_forecast_for_a_small_box_is_small(voxweft: Voxweft, volume: Any) -> None:
    whole, box = (
        json.loads(voxweft("plan", volume, "--model", NULL, *flags, "--json").stdout)["forecast"]["seconds"]
        for flags in ([], ["--bbox", "0:4,0:4,0:4"])
    )
    assert box <= whole + 1.0


@pytest.mark.parametrize("delay", [0.5, 0.8, 1.2, 2.0, 3.0])
def test_ctrl_c_at_any_moment_is_quiet_and_quick(tmp_path: Path, image: NDArray[Any], delay: float) -> None:
    zarr.create_array(str(tmp_path / "in.zarr"), data=np.tile(image, (4, 2, 2)), chunks=(16, 64, 64))
    words = ["run", "in.zarr", "o.zarr", "--model", "fake://blur?patch=16,16,16&delay=20", "--tta", "mirroring"]
    process = subprocess.Popen(
        [sys.executable, "-m", "voxweft", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    time.sleep(delay)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - begun < 2.5
    assert process.returncode == 130
    assert "Traceback" not in told
