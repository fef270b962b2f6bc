"""What the house gives to a front end that it does not know: workers, parts, resuming, status, verifying."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft as package
from conftest import Voxweft
from e2e.test_same_bits import digest

OPTIONS = {"chunk": "16,32,32", "runtime": "torch", "overlap": 0.5, "tta": "mirroring"}
MODEL = "fake://blur?patch=16,16,16"
N_SLABS = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """uint8 [128, 61, 72]: eight slabs of 16 planes."""
    place = tmp_path_factory.mktemp("toy") / "in.zarr"
    values = np.tile(image, (3, 1, 1))[:128]
    zarr.create_array(str(place), shape=values.shape, chunks=(16, 61, 72), dtype="uint8")[:] = values
    return place


@pytest.fixture(scope="module")
def serial(source: Path) -> dict[str, Any]:
    assert finished(start(source, source.parent / "serial.zarr"))["status"] == "complete"
    return results(source.parent / "serial.zarr")


def start(source: Path, output: Path, **execution: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import toy; toy.main()", source, output, MODEL, json.dumps(OPTIONS)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([*map(str, command), json.dumps(execution)], text=True, env=environment, **pipes)


def finished(run: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    return json.loads(out)


def results(output: Path) -> dict[str, Any]:
    """Both arrays, and the sum."""
    beside = output.with_name(f"{output.stem}_inverted.zarr")
    return {"sweep": digest(output), "inverted": digest(beside), "total": Path(f"{output}.txt").read_text()}


def test_it_does_what_it_says(source: Any, serial: Any) -> None:
    output = source.parent / "serial.zarr"
    found, inverted = (package.open_volume(str(p)) for p in (output, output.with_name("serial_inverted.zarr")))
    whole = package.Box.of(found.info.shape_zyx)
    assert np.array_equal(255 - found.read(whole), inverted.read(whole))
    assert int(serial["total"]) == int((found.read(whole) > 127).sum()) > 0


def test_two_workers_give_the_bits_of_one(source: Any, serial: Any, tmp_path: Path) -> None:
    report = finished(start(source, tmp_path / "o.zarr", executor="processes", workers=2))
    assert report["status"] == "complete"
    assert report["stages"] == {"sweep": [8, 8], "level-1": [4, 4], "invert": [8, 8], "total": [1, 1]}
    assert results(tmp_path / "o.zarr") == serial


def test_parts_in_any_order_give_the_bits_of_one(source: Any, serial: Any, tmp_path: Path) -> None:
    """The part that ends last completes what needs all of them; nobody waits."""
    states = []
    for part in (2, 0, 1):
        states.append(finished(start(source, tmp_path / "o.zarr", num_parts=3, part_id=part))["status"])
        found = package.status(tmp_path / "o.zarr")
        done = found.stages["invert"][0]
        assert done > 0  # blocks whose slabs are there are made while other parts are missing
    assert states == ["partial", "partial", "complete"]
    assert (found.state, found.n_parts("done")) == ("complete", 3)
    assert results(tmp_path / "o.zarr") == serial


@pytest.mark.parametrize("stage", ["sweep", "invert"])
def test_what_was_killed_goes_on(source: Any, serial: Any, tmp_path: Path, stage: Any) -> None:
    run = start(source, tmp_path / "o.zarr")
    done = tmp_path / "o.zarr.voxweft/done" / stage
    while not (done.is_dir() and len(list(done.glob("*.json"))) >= 2):
        assert run.poll() is None, f"ended too early: {run.communicate()}"
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    before = {p.name: p.read_text() for p in done.glob("*.json")}
    found = package.status(tmp_path / "o.zarr")
    assert (found.state, found.n_units) == ("stopped", N_SLABS)
    with pytest.raises(package.VoxweftError, match="is missing"):
        package.verify(tmp_path / "o.zarr")
    assert finished(start(source, tmp_path / "o.zarr"))["status"] == "complete"
    after = {p.name: p.read_text() for p in done.glob("*.json")}
    assert before.items() <= after.items()
    assert results(tmp_path / "o.zarr") == serial


def test_commands_that_do_not_know_it_show_and_check_it(
    voxweft: Voxweft, source: Any, serial: Any, tmp_path: Path
) -> None:
    finished(start(source, tmp_path / "o.zarr"))
    assert voxweft("status", "o.zarr").stdout.startswith("complete: 8 of 8 slabs (100%)")
    assert voxweft("verify", "o.zarr").stdout.startswith("complete: 8 slabs")
    chunk = max((tmp_path / "o_inverted.zarr/0").rglob("c/0/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-7])
    broken = voxweft("verify", "o.zarr", code=1).stderr
    assert "block 0 of invert" in broken
    assert "is not what was written" in broken
    finished(start(source, tmp_path / "o.zarr"))
    assert results(tmp_path / "o.zarr") == serial


def test_another_request_is_refused(source: Any, serial: Any) -> None:
    import toy

    with pytest.raises(package.VoxweftError, match=r"above: stored 127, asked for 9\b"):
        toy.toy(str(source), str(source.parent / "serial.zarr"), MODEL, toy.ToyOptions(**OPTIONS, above=9))
