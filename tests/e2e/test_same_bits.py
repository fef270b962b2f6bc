"""The installed command gives the same bits however the work is divided, killed and resumed."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from conftest import Voxweft
from voxweft.processor import lacks
from warm import WarmProcess

BLUR = "fake://blur?patch=24,24,24&normalization=instance_zscore"
FLAGS = ["--model", BLUR, "--chunk", "16,32,32", "--runtime", "torch"]


def digest(store: Path) -> dict[str, bytes]:
    """Every chunk file of a store with its bytes."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and "/c/" in str(p) and p.suffix != ".partial"
    }


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    big = np.tile(image, (2, 2, 2))
    array = zarr.create_array(str(tmp_path / "in.zarr"), shape=big.shape, chunks=(16, 32, 32), dtype="uint8")
    array[:] = big
    return tmp_path / "in.zarr"


def test_parts_executors_and_columns(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    voxweft("run", volume, "whole.zarr", *FLAGS)
    whole = digest(tmp_path / "whole.zarr")
    assert len(whole) > 5
    for count in (2, 7):
        for part in reversed(range(count)):
            voxweft("run", volume, f"p{count}.zarr", *FLAGS, "--num-parts", count, "--part-id", part)
        voxweft("verify", f"p{count}.zarr")
        assert digest(tmp_path / f"p{count}.zarr") == whole
    voxweft("run", volume, "procs.zarr", *FLAGS, "--executor", "processes", "--workers", 2)
    assert digest(tmp_path / "procs.zarr") == whole


def test_small_columns(voxweft: Voxweft, warm: WarmProcess, tmp_path: Path, image: NDArray[Any]) -> None:
    wide = np.tile(image, (1, 7, 6))[:40, :400, :400]
    zarr.create_array(str(tmp_path / "wide.zarr"), shape=wide.shape, chunks=(16, 64, 64), dtype="uint8")[:] = wide
    flags = ["--model", BLUR, "--chunk", "16,48,48", "--runtime", "torch", "--overlap", "0.25"]
    voxweft("run", "wide.zarr", "whole.zarr", *flags)
    assert columns(tmp_path / "whole.zarr") == [576, 576]
    for allowed in range(240, 600, 6):  # the smallest amount that is accepted gives narrow columns
        words = ["run", "wide.zarr", "cut.zarr", *flags, "--memory", f"{allowed}MB"]
        done = warm.run(words, tmp_path, os.environ, timeout_s=100)
        if done.returncode == 0:
            break
        assert done.returncode == 2
        assert "--memory" in done.stderr
        assert not (tmp_path / "cut.zarr").exists()
    assert min(columns(tmp_path / "cut.zarr")) < 400
    one, other = (zarr.open(str(tmp_path / f"{n}.zarr" / "0"), mode="r")[:] for n in ("whole", "cut"))
    assert np.array_equal(one, other)


def columns(store: Path) -> list[int]:
    """Width of the columns of a stored plan, y and x."""
    return json.loads((store.parent / f"{store.name}.voxweft" / "plan.json").read_text())["stages"][0]["columns"][
        "column_yx"
    ]


KILLS = int(os.environ.get("VOXWEFT_KILLS", "9"))


BF16 = ["--model", "demo", "--runtime", "openvino", "--precision", "bf16", "--patch-size", "32,32,32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "n_kills"),
    [
        (["--model", BLUR, "--runtime", "torch", "--tta", "mirroring"], KILLS),
        pytest.param(BF16, 3, marks=pytest.mark.skipif(bool(lacks("bf16")), reason=lacks("bf16"))),
    ],
    ids=("fp32", "bf16"),
)
def test_kills_at_any_moment(
    voxweft: Voxweft, warm: WarmProcess, tmp_path: Path, image: NDArray[Any], network: list[str], n_kills: int
) -> None:
    """SIGKILL at random moments; each rerun continues, finished slabs stay, the bits are those of a quiet run."""
    deep = np.tile(image, (4, 1, 1))
    zarr.create_array(str(tmp_path / "deep.zarr"), shape=deep.shape, chunks=(16, 32, 32), dtype="uint8")[:] = deep
    flags = [*network, "--chunk", "8,64,64"]
    voxweft("run", "deep.zarr", "whole.zarr", *flags)
    whole = digest(tmp_path / "whole.zarr")
    output, records = tmp_path / "killed.zarr", tmp_path / "killed.zarr.voxweft"
    chance = random.Random(3)
    kills, caught_at_work, kept = 0, 0, dict[str, str]()
    while kills < n_kills:
        process = warm.start(["run", "deep.zarr", "killed.zarr", *flags, "--quiet"], tmp_path, os.environ)
        while kills % 3 and process.poll() is None and len(_slabs(records)) == len(kept):
            time.sleep(0.005)  # two of three are killed some time after they finished a slab, however fast they are
        try:
            process.wait(chance.uniform(0.0, 0.2) if kills % 3 else chance.uniform(0.1, 2.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            logging.getLogger(__name__).info("%s kills", kills)
        slabs = _slabs(records)
        assert kept.items() <= slabs.items(), "a finished slab was computed again"
        caught_at_work += len(kept) < len(slabs) < 25
        kept = slabs
        if process.returncode == 0:
            assert digest(output) == whole
            shutil.rmtree(output)
            shutil.rmtree(records)
            kept = {}
    assert caught_at_work >= n_kills // 6
    voxweft("run", "deep.zarr", "killed.zarr", *flags)
    voxweft("verify", "killed.zarr")
    assert digest(output) == whole


def _slabs(records: Path) -> dict[str, str]:
    """Records of finished slabs by name."""
    return {p.name: p.read_text() for p in (records / "done/sweep").glob("*.json")}


def test_repeat_from_the_plan_inside_an_output(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    voxweft("run", volume, "a.zarr", *FLAGS, "--output", "labels", "--bbox", "10:60,:,20:90")
    voxweft("run", "--plan", "a.zarr", "b.zarr")
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")


def test_prepared_parts_follow_the_plan(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    voxweft("run", volume, "whole.zarr", *FLAGS)
    told = voxweft("run", volume, "o.zarr", *FLAGS, "--prepare")
    assert "partial: 0 of" in told.stdout
    plan = (tmp_path / "o.zarr.voxweft" / "plan.json").read_bytes()
    assert digest(tmp_path / "o.zarr") == {}
    for part in range(2):
        voxweft("run", volume, "o.zarr", *FLAGS, "--num-parts", 2, "--part-id", part)
    assert (tmp_path / "o.zarr.voxweft" / "plan.json").read_bytes() == plan
    assert digest(tmp_path / "o.zarr") == digest(tmp_path / "whole.zarr")
    assert (
        "--part-id out"
        in voxweft("run", volume, "p.zarr", *FLAGS, "--prepare", "--num-parts", 2, "--part-id", 0, code=2).stderr
    )
