"""voxweft status: right whenever it is asked, from the ledger alone."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr

from conftest import Voxweft
from e2e.test_launch import n_slabs, start, wait_for_slabs
from servers import environment, faulty

FLAGS = ["--model", "fake://blur?patch=24,24,24", "--chunk", "16,64,64", "--runtime", "torch", "--tta", "rotation"]


@pytest.fixture
def deep(tmp_path: Path, image: np.ndarray) -> Path:
    """uint8 [250, 61, 72]: 16 slabs of 16 planes."""
    array = np.tile(image, (5, 1, 1))
    zarr.create_array(str(tmp_path / "deep.zarr"), shape=array.shape, chunks=(16, 61, 72), dtype="uint8")[:] = array
    return tmp_path / "deep.zarr"


def look(voxweft: Voxweft, output: object, **env: str) -> dict[str, Any]:
    return json.loads(voxweft("status", output, "--json", **env).stdout)


def states(found: dict[str, Any]) -> list[str]:
    return [part["state"] for part in found["parts"]]


@contextmanager
def damaged(chunk: Path) -> Iterator[None]:
    """A chunk that cannot be decoded, for a while."""
    good = chunk.read_bytes()
    chunk.write_bytes(b"no chunk")
    yield
    chunk.write_bytes(good)


def test_a_run_from_beginning_to_end(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    """Of four parts one is killed, one asked to stop, one fails, one is not begun; then all are done."""

    def part(n: int) -> list[object]:
        return ["run", deep, "o.zarr", *FLAGS, "--num-parts", 4, "--part-id", n]

    assert "no plan" in voxweft("status", "o.zarr", code=2).stderr
    voxweft("run", deep, "o.zarr", *FLAGS, "--prepare")
    found = look(voxweft, "o.zarr")
    assert (found["state"], found["n_units"], found["n_units_done"]) == ("waiting", 16, 0)

    killed = start(tmp_path, *part(0))
    wait_for_slabs(killed, tmp_path / "o.zarr", 1)
    killed.send_signal(signal.SIGSTOP)
    found = look(voxweft, "o.zarr")
    assert (found["state"], found["n_running"]) == ("running", 1)
    assert states(found) == ["running", "waiting", "waiting", "waiting"]
    assert found["parts"][0]["worker"].endswith(f"process {killed.pid}")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = look(voxweft, "o.zarr")
    assert (found["state"], states(found)[0]) == ("stopped", "lost")
    assert found["n_units_done"] == n_slabs(tmp_path / "o.zarr")

    stopped = start(tmp_path, *part(1))
    wait_for_slabs(stopped, tmp_path / "o.zarr", found["n_units_done"] + 1)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=60)
    assert "interrupted" in err
    assert states(look(voxweft, "o.zarr"))[:2] == ["lost", "stopped"]

    with damaged(deep / "c" / "14" / "0" / "0"):
        failed = voxweft(*part(3), code=1)
        found = look(voxweft, "o.zarr")
        assert (found["state"], states(found)) == ("failed", ["lost", "stopped", "waiting", "failed"])
        assert found["parts"][3]["error"].splitlines()[0] in failed.stderr
        shown = voxweft("status", "o.zarr").stdout
        assert "parts: 1 failed, 1 stopped, 1 lost, 1 waiting" in shown
        assert "part 3 of 4" in shown

    for n in range(4):
        voxweft(*part(n))
        assert states(look(voxweft, "o.zarr"))[: n + 1] == ["done"] * (n + 1)
    found = look(voxweft, "o.zarr")
    assert (found["state"], found["n_units_done"], states(found)) == ("complete", 16, ["done"] * 4)
    assert voxweft("status", "o.zarr").stdout.startswith("complete: 16 of 16 slabs (100%)")


def test_throughput_and_time_left(voxweft: Voxweft, deep: Any, tmp_path: Path) -> None:
    """The sum over workers, while they work."""
    slow = [f"{word}&delay=20" if "fake" in word else word for word in FLAGS]
    run = start(tmp_path, "run", deep, "o.zarr", *slow, "--workers", 2)
    wait_for_slabs(run, tmp_path / "o.zarr", 4)
    at_work = [p for p in psutil.Process(run.pid).children() if "multiprocessing.spawn" in " ".join(p.cmdline())]
    time.sleep(1.1)  # signs of life come once a second
    for process in at_work:
        process.suspend()
    found = look(voxweft, "o.zarr")
    for process in at_work:
        process.resume()
    assert (found["state"], found["n_running"]) == ("running", 2)
    left = found["n_units"] - found["n_units_done"]
    assert left > 4
    slab_s = 1 / found["units_per_s"]
    assert (left - 4) * slab_s <= found["seconds_left"] <= left * slab_s + 0.1  # patches of slabs under way count
    assert found["voxels_per_s"] == pytest.approx(found["units_per_s"] * 250 * 61 * 72 / 16, rel=1e-3)
    run.terminate()
    _, err = run.communicate(timeout=200)
    assert run.returncode == 130, err


def test_on_s3_and_for_folders_of_logits(voxweft: Voxweft, deep: Any, tmp_path: Path, s3: Any) -> None:
    env = environment(s3)
    voxweft("run", deep, "s3://bucket/o.zarr", *FLAGS, "--num-parts", 2, "--part-id", 1, **env)
    found = look(voxweft, "s3://bucket/o.zarr", **env)
    assert (found["state"], states(found)) == ("waiting", ["waiting", "done"])
    flags = ["--model_path", FLAGS[1], "--input_dir", deep, "--output_dir", "parts", "--disable_tta", "--num_parts", 2]
    voxweft("predict", *flags, "--part_id", 0)
    found = look(voxweft, "parts")
    assert found["noun"] == "layers of patches"
    assert states(found) == ["done", "waiting"]
    assert 0 < found["n_units_done"] < found["n_units"]
    voxweft("predict", *flags, "--part_id", 1)
    assert look(voxweft, "parts")["state"] == "complete"


@pytest.mark.parametrize("name", ["picture.png", "folder", "absent.zarr", "absent"])
def test_what_is_no_run_is_refused(voxweft: Voxweft, tmp_path: Path, name: Any) -> None:
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    told = voxweft("status", name, code=2).stderr
    assert name in told
    assert "write" not in told
    assert len(told.splitlines()) == 1


def test_a_server_that_does_not_answer_is_told_in_few_lines(voxweft: Voxweft, s3: Any) -> None:
    with faulty(s3["AWS_ENDPOINT_URL"], refuse=1.0, reset=0.0) as (url, _):
        told = voxweft("status", "s3://bucket/none.zarr", code=1, **environment(s3) | {"AWS_ENDPOINT_URL": url}).stderr
    assert "none.zarr" in told
    assert len(told.splitlines()) <= 3
