"""Two commands at once on one output: never complete with other bits than those of the plan that is stored."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from warm import WarmProcess

PAIRS = int(os.environ.get("VOXWEFT_RACES", "20"))
BASE = [
    "run",
    "in.zarr",
    "o.zarr",
    "--model",
    "fake://blur?patch=16,16,16",
    "--chunk",
    "16,16,16",
    "--runtime",
    "torch",
    "--quiet",
]
WAYS = (
    ["--overlap", "0.25", "--overwrite"],
    ["--overlap", "0.5", "--overwrite"],
    ["--overlap", "0.25"],
    ["--overlap", "0.5"],
    ["--overlap", "0.5", "--output", "labels", "--overwrite"],
    ["--overlap", "0.25", "--num-parts", "2", "--part-id", "1", "--overwrite"],
)


def voxels(path: Path) -> Any:
    return zarr.open_array(str(path / "0"), mode="r")[:]


def options(path: Path) -> str:
    plan = json.loads((path.parent / f"{path.name}.voxweft/plan.json").read_text())
    asked = plan["request"]["options"]
    return json.dumps([asked.get("overlap", 0.5), asked.get("output", "probability")])


@pytest.mark.slow
def test_pairs_of_commands_on_one_output(warm: WarmProcess, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 200, (48, 48, 48), dtype=np.uint8)
    zarr.create_array(str(tmp_path / "in.zarr"), data=image, chunks=(16, 16, 16))
    output, wanted = tmp_path / "o.zarr", dict[str, Any]()
    for way in (WAYS[0], WAYS[1], WAYS[4]):
        warm.run([*BASE, *way], tmp_path, os.environ, timeout_s=100).check_returncode()
        wanted[options(output)] = voxels(output)
    chance = random.Random(7)
    for _ in range(PAIRS):
        if chance.random() < 0.5:
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(tmp_path / "o.zarr.voxweft", ignore_errors=True)
        ways = chance.choices(WAYS, k=2)
        files = [(tmp_path / f"{n}.err").open("w+b") for n in range(2)]
        both = []
        for way, file in zip(ways, files, strict=True):
            both.append(warm.start([*BASE, *way], tmp_path, os.environ, err=file.fileno()))
            time.sleep(chance.choice([0, 0.03, 0.06, 0.2, 0.5]))
        codes = [process.wait(100) for process in both]
        for file in files:
            file.seek(0)
        said = [file.read().decode() for file in files]
        for file in files:
            file.close()
        assert not any("internal error" in text or "Traceback" in text for text in said), (ways, codes, said)
        if warm.run(["verify", "o.zarr"], tmp_path, os.environ, timeout_s=100).returncode == 0:
            n_other = int((voxels(output) != wanted[options(output)]).sum())
            assert not n_other, (n_other, options(output), ways, codes, said)
        elif codes == [0, 0]:  # one of them did a part, or ended before the other took the output
            assert any("--part-id" in way for way in ways), (ways, codes, said)
