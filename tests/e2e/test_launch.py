"""Parts on several workers: what happens when workers die, are slow, or do the same thing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from numpy.typing import NDArray

import voxweft as package
from conftest import Voxweft
from e2e.test_same_bits import digest
from surfaces import small_checkpoint, waves, write_layers
from voxweft.runner.batch import ItemsError

BLUR = ["--model", "fake://blur?patch=24,24,24", "--chunk", "16,64,64", "--runtime", "torch", "--tta", "rotation"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Path:
    """uint8 [250, 61, 72]: 16 slabs of 16 planes."""
    place = tmp_path_factory.mktemp("deep") / "deep.zarr"
    zarr.create_array(str(place), shape=(250, 61, 72), chunks=(16, 61, 72), dtype="uint8")[:] = np.tile(
        image, (5, 1, 1)
    )
    return place


@pytest.fixture(scope="module")
def serial(deep: Path) -> dict[str, bytes]:
    """The result of one process."""
    run = start(deep.parent, "run", deep, "serial.zarr", *BLUR)
    assert run.communicate(timeout=200) and run.returncode == 0
    return digest(deep.parent / "serial.zarr")


def report(output: Path) -> dict[str, Any]:
    return json.loads((output.parent / f"{output.name}.voxweft" / "report.json").read_text())


def n_slabs(output: Path) -> int:
    return len(list((output.parent / f"{output.name}.voxweft" / "done" / "sweep").glob("*.json")))


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "voxweft", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, start_new_session=True, **pipes)


def wait_for_slabs(run: subprocess.Popen[str], output: Path, n: int) -> None:
    while n_slabs(output) < n:
        assert run.poll() is None, f"ended too early: {run.communicate()}"
        time.sleep(0.01)


def kill_a_worker(output: Path) -> int:
    """SIGKILL for one of the processes that work on an output; its number."""
    records = (output.parent / f"{output.name}.voxweft" / "attempts").glob("*.json")
    at_work = [a["pid"] for a in map(json.loads, map(Path.read_text, records)) if a["outcome"] == "running"]
    os.kill(at_work[0], signal.SIGKILL)
    return at_work[0]


@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_a_killed_worker_costs_nothing_but_time(
    voxweft: Voxweft, deep: Any, serial: Any, tmp_path: Path, executor: Any
) -> None:
    flags = ["--executor", executor, "--workers", 2]
    run = start(tmp_path, "run", deep, "o.zarr", *BLUR, *flags)
    wait_for_slabs(run, tmp_path / "o.zarr", 6)
    killed = kill_a_worker(tmp_path / "o.zarr")
    _, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    assert digest(tmp_path / "o.zarr") == serial
    (redone,) = report(tmp_path / "o.zarr")["redone"]
    assert f"process {killed}: lost" in redone
    assert "begun 2 times" in redone
    assert redone in err
    assert "Traceback" not in err
    voxweft("verify", "o.zarr")


def test_a_part_that_kills_its_worker_is_set_aside(voxweft: Voxweft, tmp_path: Path, image: NDArray[Any]) -> None:
    """Three tries; the other parts are computed; the report names the part; a rerun after the mending completes it."""
    array = np.minimum(np.tile(image, (8, 1, 1)), 250)
    array[100, 40, 40] = 255
    zarr.create_array(str(tmp_path / "in.zarr"), shape=array.shape, chunks=(16, 61, 72), dtype="uint8")[:] = array
    model = f"fake://kill?patch=24,24,24&value=255&file={tmp_path / 'mended'}"
    flags = ["--model", model, "--chunk", "16,64,64"]
    broken = voxweft("run", "in.zarr", "o.zarr", *flags, "--executor", "processes", "--workers", 2, code=1)
    told = report(tmp_path / "o.zarr")
    assert told["status"] == "failed"
    assert 1 <= len(told["failures"]) <= 4  # where a part is split, several pieces may meet the voxel
    attempts = [json.loads(p.read_text()) for p in (tmp_path / "o.zarr.voxweft" / "attempts").glob("*")]
    for part, reason in told["failures"].items():
        assert "died 3 times, at last by SIGKILL" in reason
        assert f"part {part} is set aside" in broken.stderr
        assert sum(a["index"] == int(part) and a["outcome"] == "running" for a in attempts) == 3
    assert "parts failed and were set aside; part " in broken.stderr
    lines = [line for line in broken.stderr.splitlines() if not line.startswith("sweep: ")]  # one every 30 seconds
    assert len(lines) <= 3 + len(told["failures"])  # a note, a line a part, two lines in the end
    assert n_slabs(tmp_path / "o.zarr") >= 13  # of 25: the other part, whole, whether or not this one was split
    voxweft("verify", "o.zarr", code=1)
    kept = {p.name: p.read_text() for p in (tmp_path / "o.zarr.voxweft" / "done" / "sweep").glob("*")}
    (tmp_path / "mended").touch()
    voxweft("run", "in.zarr", "o.zarr", *flags, "--executor", "processes", "--workers", 2)
    voxweft("verify", "o.zarr")
    now = {p.name: p.read_text() for p in (tmp_path / "o.zarr.voxweft" / "done" / "sweep").glob("*")}
    assert kept.items() < now.items()
    assert report(tmp_path / "o.zarr")["status"] == "complete"
    voxweft("run", "in.zarr", "serial.zarr", *flags)
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "serial.zarr")


def test_a_free_worker_takes_half_of_what_a_slow_one_has_left(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    shutil.copytree(deep, tmp_path / "half.zarr")
    zarr.open_array(str(tmp_path / "half.zarr"))[:125] = 0  # half of it is empty: its worker has nothing to do
    voxweft("run", "half.zarr", "serial.zarr", *BLUR)
    voxweft("run", "half.zarr", "o.zarr", *BLUR, "--workers", 2, "--num-parts", 2)
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "serial.zarr")
    parts = [p for p in report(tmp_path / "o.zarr")["parts"] if p["stage"] == "sweep"]
    assert len(parts) > 2
    n_patches = {p["index"]: p["totals"]["n_patches"] for p in parts}
    assert max(n_patches.values()) < 0.75 * sum(n_patches.values()), n_patches
    assert sum(p["totals"]["n_units"] for p in parts) <= 16 + len(parts)


def test_two_processes_on_the_same_part_do_no_harm(voxweft: Voxweft, deep: Any, serial: Any, tmp_path: Path) -> None:
    one, other = (start(tmp_path, "run", deep, "o.zarr", *BLUR, "--num-parts", 2, "--part-id", 0) for _ in range(2))
    for run in (one, other):
        _, err = run.communicate(timeout=200)
        assert run.returncode == 0, err
    voxweft("run", deep, "o.zarr", *BLUR, "--num-parts", 2, "--part-id", 1)
    voxweft("verify", "o.zarr")
    assert digest(tmp_path / "o.zarr") == serial
    redone = report(tmp_path / "o.zarr")["redone"]  # maybe also of blocks of the levels
    assert sum(line.startswith("part 0 of 2 was begun 2 times") for line in redone) == 1


@pytest.mark.parametrize("how", ["SIGTERM", "two Ctrl-C", "two Ctrl-C with dask"])
def test_an_interrupt_ends_the_workers_and_the_same_command_goes_on(
    voxweft: Voxweft, deep: Any, serial: Any, tmp_path: Path, how: Any
) -> None:
    flags = [*BLUR, "--workers", 2, *(["--executor", "dask"] if "dask" in how else [])]
    run = start(tmp_path, "run", deep, "o.zarr", *flags)
    wait_for_slabs(run, tmp_path / "o.zarr", 3)
    children = psutil.Process(run.pid).children(recursive=True)
    if how == "SIGTERM":
        run.send_signal(signal.SIGTERM)
    else:
        for _ in range(2):
            os.killpg(run.pid, signal.SIGINT)
            time.sleep(0.3)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    said = int(re.search(r"interrupted: (\d+) of 16 slabs are kept in o.zarr.*; the same command goes on", err)[1])
    assert "Traceback" not in err
    assert psutil.wait_procs(children, timeout=5)[1] == []
    kept = n_slabs(tmp_path / "o.zarr")
    assert 3 <= said <= kept < 16  # a worker may have ended one more meanwhile
    voxweft("run", deep, "o.zarr", *flags)
    assert digest(tmp_path / "o.zarr") == serial


class TestManyVolumes:
    """A folder of volumes through the Python API."""

    NULL = "fake://kill?patch=24,24,24&value=255"

    @pytest.fixture
    def pairs(self, tmp_path: Path, image: np.ndarray) -> list[tuple[str, str]]:
        for n in range(4):
            array = np.minimum(np.roll(image, 7 * n, axis=0), 250)
            zarr.create_array(str(tmp_path / f"{n}.zarr"), shape=array.shape, chunks=array.shape, dtype="uint8")[:] = (
                array
            )
        return [(str(tmp_path / f"{n}.zarr"), str(tmp_path / f"{n}_out.zarr")) for n in range(4)]

    def test_each_is_what_a_run_of_its_own_gives(self, pairs: Any, tmp_path: Path) -> None:
        options = package.RunOptions(chunk="16,32,32")
        for source, output in pairs:
            package.run(source, output.replace("_out", "_own"), self.NULL, options)
        for name, num_parts in (("processes", 0), ("serial", 3)):
            execution = package.Execution(name, workers=2, num_parts=num_parts)
            done = package.run_many(pairs, self.NULL, options, execution=execution)
            assert [d.report.status for d in done] == ["complete"] * 4
            for _, output in pairs:
                assert digest(Path(output)) == digest(Path(output.replace("_out", "_own")))
                assert package.verify(output)["n_units"] == 4
                n_parts = sum(p["stage"] == "sweep" for p in report(Path(output))["parts"])
                assert n_parts == num_parts if num_parts else n_parts >= 1  # workers may divide a part further
                shutil.rmtree(output)
                shutil.rmtree(f"{output}.voxweft")

    def test_one_that_fails_does_not_stop_the_others(self, pairs: Any, tmp_path: Path) -> None:
        zarr.open_array(pairs[2][0])[3, 3, 3] = 255  # the network kills its process there
        broken = [*pairs, (str(tmp_path / "absent.zarr"), str(tmp_path / "absent_out.zarr"))]
        execution = package.Execution("processes", workers=2)
        with pytest.raises(ItemsError, match="2 of 5 items failed") as caught:
            package.run_many(broken, self.NULL, execution=execution)
        outcomes = caught.value.outcomes
        assert [bool(o.errors) for o in outcomes] == [False, False, True, False, True]
        assert "died 3 times" in outcomes[2].errors[0]
        assert "absent.zarr" in outcomes[4].errors[0]
        assert all(package.verify(output) for n, (_, output) in enumerate(pairs) if n != 2)
        zarr.open_array(pairs[2][0])[3, 3, 3] = 0
        package.run_many(pairs, self.NULL, execution=execution)
        assert all(package.verify(output) for _, output in pairs)

    def test_any_executor_will_do(self, pairs: Any, image: NDArray[Any]) -> None:
        with ThreadPoolExecutor(2) as pool:
            execution = package.Execution(pool, workers=2)
            done = package.run_many(pairs[:1], self.NULL, execution=execution)
            one = package.run(*pairs[1], self.NULL, package.RunOptions(chunk="16,32,32"), execution=execution)
        assert done[0].report.status == one.status == "complete"
        assert len(one.parts) > 1


def test_the_stages_of_scroll_and_ink_run_on_dask_too(voxweft: Voxweft, tmp_path: Path, image: NDArray[Any]) -> None:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    dask = ["--executor", "dask"]
    scroll = ["pipeline", "--input", "in.zarr", "--model", BLUR[1], "--chunk-size", "16,64,64", "--output"]
    voxweft(*scroll, "one.zarr")
    voxweft(*scroll, "dask.zarr", *dask, "--num-workers", 2)
    assert digest(tmp_path / "dask.zarr") == digest(tmp_path / "one.zarr")
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", waves(5, 700, 150))
    ink = ["ink", "run", "seg", "--model", "net.ckpt", "--start-layer", 0, "--end-layer", 5, "--stride", 16]
    ink += ["--runtime", "torch", "--runtime-dir", "notes", "--zarr-output-dir"]
    voxweft(*ink, "a", "one.png")
    voxweft(*ink, "b", "dask.png", *dask, "--workers", 2)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "dask.png").read_bytes()


def test_an_executor_that_breaks_is_an_error_in_words(deep: Any, tmp_path: Path) -> None:
    array = np.minimum(zarr.open_array(str(deep))[:], 250)
    array[20, 40, 40] = 255
    zarr.save_array(str(tmp_path / "in.zarr"), array)
    model = "fake://kill?patch=24,24,24&value=255"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        execution = package.Execution(pool, workers=2, num_parts=6)
        options = package.RunOptions(chunk="16,64,64", runtime="torch")
        with pytest.raises(package.VoxweftError, match="parts failed"):
            package.run(str(tmp_path / "in.zarr"), str(tmp_path / "o.zarr"), model, options, execution=execution)
    assert report(tmp_path / "o.zarr")["status"] == "failed"
