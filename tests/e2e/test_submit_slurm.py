"""``voxweft submit slurm`` on a real SLURM: the same bits as without, whatever happens to the tasks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from conftest import Voxweft
from e2e.test_same_bits import digest
from slurm_cluster import ask
from surfaces import small_checkpoint, waves, write_layers
from voxweft.runner.status import status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

BLUR = "fake://blur?patch=24,24,24&normalization=instance_zscore"
CHUNK = ["--chunk", "8,64,64", "--runtime", "torch"]
FLAGS = ["--model", f"{BLUR}&delay=25", *CHUNK]


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    deep = np.tile(image, (2, 1, 1))
    zarr.create_array(str(tmp_path / "in.zarr"), shape=deep.shape, chunks=(16, 32, 32), dtype="uint8")[:] = deep
    return tmp_path / "in.zarr"


@pytest.fixture
def begin(tmp_path: Path, slurm: Any) -> Iterator[Any]:
    """Start ``voxweft submit slurm --wait`` in the folder of the test; the process and the ids of its jobs."""
    begun: list[subprocess.Popen[str]] = []

    def call(*words: object) -> tuple[subprocess.Popen[str], dict[str, str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "voxweft", "submit", "slurm", "--wait", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **slurm},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        jobs = {}
        while "reduce" not in jobs:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            name, job = re.match(r"(\w+): job (\d+)", line).groups()
            jobs[name] = job
        return process, jobs

    yield call
    for process in begun:
        process.kill()
        process.communicate()


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def state(slurm: Any, task: str) -> str:
    return ask(slurm, "squeue", "-h", "-r", "-t", "all", "-j", task, "-o", "%T").strip()


def n_slabs(output: Path) -> int:
    return len(list(Path(f"{output}.voxweft/done/sweep").glob("*.json")))


RIGHT = {
    ("PENDING", "waiting"),
    ("PENDING", "stopped"),
    ("RUNNING", "waiting"),  # Python is starting
    ("RUNNING", "stopped"),  # the same, after a requeue
    ("RUNNING", "running"),
    ("RUNNING", "done"),  # the report is being written
    ("COMPLETED", "done"),
}


def look(slurm: Any, job: str, output: Path) -> list[tuple[str, str]]:
    """What SLURM and ``voxweft status`` say of each task, where SLURM says the same before and after."""
    words = ("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%K %T")
    before = ask(slurm, *words)
    parts = status(str(output)).parts
    if ask(slurm, *words) != before:
        return []
    states = dict(line.split() for line in before.splitlines())
    for part in parts:
        number = part.name.split()[1]
        assert not part.worker or part.worker.endswith(f"slurm {job}_{number}")
    return [(states[part.name.split()[1]], part.state) for part in parts]


def test_a_requeued_task_and_the_others_give_the_bits_of_one_run(
    voxweft: Voxweft, slurm: Any, begin: Any, volume: Any, tmp_path: Path
) -> None:
    process, jobs = begin("--at-once", 2, "--gpus", 1, "--", "run", volume, "o.zarr", *FLAGS, "--num-parts", 4)
    task = f"{jobs['parts']}_0"
    until(lambda: n_slabs(tmp_path / "o.zarr") >= 1 and state(slurm, task) == "RUNNING")
    until(lambda: any(p.name.split()[1] == "0" and p.state == "running" for p in status(tmp_path / "o.zarr").parts))
    seen = set(look(slurm, jobs["parts"], tmp_path / "o.zarr"))
    ask(slurm, "scontrol", "requeue", task)
    until(lambda: state(slurm, task) == "PENDING")
    seen |= set(look(slurm, jobs["parts"], tmp_path / "o.zarr"))
    ask(slurm, "scontrol", "update", f"jobid={task}", "starttime=now")
    while process.poll() is None:
        seen |= set(look(slurm, jobs["parts"], tmp_path / "o.zarr"))
    assert {("RUNNING", "running"), ("PENDING", "stopped"), ("COMPLETED", "done")} <= seen
    assert seen <= RIGHT, "voxweft status and SLURM disagree"
    assert status(tmp_path / "o.zarr").state == "complete"
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "complete: o.zarr" in out
    said = (tmp_path / f"voxweft-logs/voxweft-parts-{jobs['parts']}_0.log").read_text()
    assert "DUE TO JOB REQUEUE" in said
    assert said.count("result: o.zarr") == 1, "the first of the two runs did not come to its end"
    voxweft("run", volume, "whole.zarr", "--model", BLUR, *CHUNK)
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "whole.zarr")
    voxweft("verify", "o.zarr")


def test_a_cancelled_task_is_named_and_a_second_submit_completes_it(
    voxweft: Voxweft, slurm: Any, begin: Any, volume: Any, tmp_path: Path
) -> None:
    words = ("--name", "nightly", "--log-dir", "told/here", "--", "voxweft", "run", volume, "o.zarr", *FLAGS)
    process, jobs = begin("--num-parts", 3, "--at-once", 1, *words)
    until(lambda: n_slabs(tmp_path / "o.zarr") >= 1)
    ask(slurm, "scancel", f"{jobs['parts']}_1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"2 of 5 tasks did not complete: parts 1 (job {jobs['parts']}_1) CANCELLED, reduce" in err
    assert "told/here" in err
    assert err.count("\n") <= 3
    voxweft("verify", "o.zarr", code=1)
    kept = {p.name: p.read_text() for p in (tmp_path / "o.zarr.voxweft/done/sweep").glob("*.json")}
    assert kept
    process, _ = begin("--num-parts", 2, *words)
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert (
        kept.items() <= {p.name: p.read_text() for p in (tmp_path / "o.zarr.voxweft/done/sweep").glob("*.json")}.items()
    )
    voxweft("run", volume, "whole.zarr", "--model", BLUR, *CHUNK)
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "whole.zarr")


def test_ink_in_three_parts_gives_the_picture_of_one_run(
    voxweft: Voxweft, slurm: Any, begin: Any, tmp_path: Path
) -> None:
    small_checkpoint(tmp_path / "net.ckpt")
    write_layers(tmp_path / "seg", waves(5, 700, 150))
    ink = ["ink", "run", "seg", "--model", "net.ckpt", "--start-layer", 0, "--end-layer", 5, "--stride", 16]
    ink += ["--runtime", "torch", "--batch-size", 16, "--runtime-dir", "notes"]
    process, jobs = begin("--num-parts", 3, "--", *ink, "out.png", "--zarr-output-dir", "shared")
    assert [*jobs] == ["prepare", "infer", "reduce"]
    assert process.wait(timeout=120) == 0, process.stderr.read()
    voxweft(*ink, "whole.png", "--zarr-output-dir", "other")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_odd_names_survive_and_the_printed_scripts_submit_themselves(
    voxweft: Voxweft, slurm: Any, tmp_path: Path, image: NDArray[Any]
) -> None:
    odd = tmp_path / 'it\'s a $HOME "folder" `x`'
    odd.mkdir()
    zarr.create_array(str(odd / "in $1 \\ é.zarr"), shape=image.shape, chunks=image.shape, dtype="uint8")[:] = image
    command = ["run", "in $1 \\ é.zarr", 'o\'$(x) "y".zarr', "--model", "fake://null?patch=24,24,24"]
    command = [sys.executable, "-m", "voxweft", "submit", "slurm", "--num-parts", "1", "--dry-run", "--", *command]
    env = {**os.environ, **slurm}
    printed = subprocess.run(command, cwd=odd, env=env, check=True, capture_output=True, text=True).stdout
    told = subprocess.run(["bash", "-eu"], input=printed, cwd=odd, env=env, check=True, capture_output=True, text=True)
    last = re.search(r"reduce: job (\d+)", told.stdout)[1]
    until(lambda: state(slurm, last) in ("COMPLETED", "FAILED", "CANCELLED"))
    assert state(slurm, last) == "COMPLETED", [p.read_text() for p in (odd / "voxweft-logs").iterdir()]
    voxweft("verify", odd / 'o\'$(x) "y".zarr')


def test_a_wrong_command_ends_before_its_parts_and_an_interrupted_wait_leaves_the_jobs(
    voxweft: Voxweft, slurm: Any, begin: Any, volume: Any
) -> None:
    done = voxweft("submit", "slurm", "--wait", "--", "run", "none.zarr", "o.zarr", *FLAGS, code=1, **slurm)
    assert "10 of 10 tasks did not complete: prepare (job" in done.stderr
    assert done.stderr.count("\n") <= 3
    process, jobs = begin("--", "run", volume, "o.zarr", *FLAGS)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the jobs go on" in err
    assert state(slurm, jobs["reduce"]) == "PENDING"
    ask(slurm, *re.search(r"scancel [\d ]+", err)[0].split())
    until(lambda: state(slurm, jobs["reduce"]) == "CANCELLED")


def test_what_sbatch_refuses_is_told_in_its_words_and_nothing_stays_submitted(
    voxweft: Voxweft, slurm: Any, volume: Any
) -> None:
    before = sorted(ask(slurm, "squeue", "-h", "-t", "all", "-o", "%A").split())
    done = voxweft("submit", "slurm", "--partition", "moon", "--", "run", volume, "o.zarr", *FLAGS, code=1, **slurm)
    assert "invalid partition specified: moon" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(ask(slurm, "squeue", "-h", "-t", "all", "-o", "%A").split()) == before
