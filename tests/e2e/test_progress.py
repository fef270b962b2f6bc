"""What a person sees while a run goes on, and what is left when it is stopped."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr

import voxweft
from voxweft import RunOptions, VoxweftError, status
from voxweft.runner.status import Status

SLOW = "fake://null?patch=32,32,32&delay={delay}"


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    """uint8 [96, 96, 96], of noise: 125 patches of 32 at half overlap."""
    array = np.random.default_rng(0).integers(0, 255, (96, 96, 96), np.uint8)
    zarr.create_array(tmp_path / "cube.zarr", shape=array.shape, chunks=(32, 32, 32), dtype="uint8")[:] = array
    return tmp_path / "cube.zarr"


def command(cube: Path, delay_ms: int, *more: object) -> list[str]:
    model = SLOW.format(delay=delay_ms)
    return [sys.executable, "-m", "voxweft", "run", str(cube), "o.zarr", "--model", model, *map(str, more)]


def recorded(arguments: list[str], folder: Path) -> list[tuple[float, str]]:
    """What a command writes to a terminal, with the time of each piece."""
    main, theirs = pty.openpty()
    process = subprocess.Popen(arguments, cwd=folder, stderr=theirs, stdout=theirs, env=os.environ | {"COLUMNS": "150"})
    os.close(theirs)
    pieces = list[tuple[float, str]]()
    while True:
        if select.select([main], [], [], 0.1)[0]:
            try:
                pieces.append((time.monotonic(), os.read(main, 1 << 16).decode()))
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(main)
    assert process.wait() == 0, "".join(text for _, text in pieces)
    return pieces


def test_the_screen_never_stands_still(cube: Path, tmp_path: Path) -> None:
    """One slab of 125 patches: the bar counts them, and says how much longer it takes."""
    pieces = recorded(command(cube, 120), tmp_path)
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(pieces)]
    assert max(gaps) < 3.0
    counts = {int(n) for n in re.findall(r"(\d+) of 125 patches", "".join(text for _, text in pieces))}
    assert len(counts) > 5
    assert re.search(r"of 125 patches, [\d.]+ (a second|s each), \S+ s left", "".join(text for _, text in pieces))


def test_workers_tell_of_patches_within_a_slab(cube: Path, tmp_path: Path) -> None:
    """Two slabs, a worker each: counts rise before one of them is complete; voxweft status sees them, too."""
    flags = ["--executor", "processes", "--workers", 2, "--chunk", "64,96,96", "--log-json", "events.json"]
    run = subprocess.Popen(
        command(cube, 250, *flags), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seen = list[Status]()
    while run.poll() is None:
        with suppress(VoxweftError):  # it has not begun
            seen.append(status(tmp_path / "o.zarr"))
        time.sleep(0.5)
    assert run.returncode == 0
    events = [json.loads(line)["data"] for line in (tmp_path / "events.json").read_text().splitlines()]
    counts = [data["n_patches_done"] for data in events if data.get("n_patches_done") and data.get("n_done") == 0]
    assert len(set(counts)) > 1
    assert counts == sorted(counts)
    running = [one for one in seen if one.n_patches_running and not one.n_units_done]
    assert running
    assert (running[-1].seconds_left or 0) > 0


@pytest.mark.parametrize("workers", [[], ["--executor", "processes", "--workers", 2]])
def test_an_interrupt_stops_at_once_and_says_what_is_kept(cube: Path, tmp_path: Path, workers: list[object]) -> None:
    """Although a forward pass of three seconds is under way."""
    arguments = command(cube, 3000, "--chunk", "32,32,32", "--runtime", "torch", *workers)
    run = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "o.zarr.voxweft" / "attempts"
    while not list(records.glob("*.json")):
        assert run.poll() is None
        time.sleep(0.1)
    time.sleep(1.0)
    begun = time.monotonic()
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=20)
    assert time.monotonic() - begun < 1.5  # a second, and something for a busy machine
    assert run.returncode == 130
    assert "interrupted: 0 of 3 slabs are kept in o.zarr" in told


def test_a_kill_within_a_slab_loses_no_more_than_is_kept(cube: Path, tmp_path: Path) -> None:
    """One slab; killed on its way, and its bits are those of a run that nobody stopped."""
    options = RunOptions(pyramid=False, tta="rotation", runtime="torch")
    model = "fake://blur?patch=32,32,32"
    whole = voxweft.run(str(cube), str(tmp_path / "whole.zarr"), model, options)
    arguments = [
        *command(cube, 0, "--no-pyramid", "--tta", "rotation", "--checkpoint-every", "1s", "--runtime", "torch"),
        "--quiet",
    ]
    arguments[arguments.index("--model") + 1] = f"{model}&delay=60"
    records = tmp_path / "o.zarr.voxweft"
    run = subprocess.Popen(arguments, cwd=tmp_path)
    while not list(records.glob("checkpoints/sweep/000000")):
        assert run.poll() is None, "it was complete before anything was kept"
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert not list(records.glob("done/sweep/*"))
    done = subprocess.run(arguments, cwd=tmp_path, check=False)
    assert done.returncode == 0
    report = json.loads((records / "report.json").read_text())
    assert report["totals"]["n_patches"] < whole.totals["n_patches"]
    a, b = (zarr.open(tmp_path / f"{name}.zarr")["0"][:] for name in ("whole", "o"))
    np.testing.assert_array_equal(a, b)
    assert not [p for p in records.glob("checkpoints/**/*") if p.is_file() and "-" in p.parent.name]
