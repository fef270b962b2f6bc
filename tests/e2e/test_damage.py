"""Each file of an output and its records removed, cut, lengthened, changed in one bit: said in words and found."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from warm import WarmProcess

RUN = ["run", "in.zarr", "o.zarr", "--model", "fake://null?patch=32,32,32", "--chunk", "32,32,32", "--quiet"]
VERIFY = ["verify", "o.zarr"]
OTHERS = (["status", "o.zarr"], ["report", "o.zarr", "--to", "r.html"])
TOLD_ONLY = ("attempts/", "report.json", "report.html")  # who did what; no voxel depends on them


def bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _: None,
    "cut": lambda data: data[: len(data) // 2],
    "lengthened": lambda data: data + b"xx",
    "one bit": bit,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm: WarmProcess) -> Path:
    """A folder with an input, an output of two resolution levels and its records."""
    folder = tmp_path_factory.mktemp("whole")
    image = np.random.default_rng(0).integers(1, 200, (32, 32, 160), dtype=np.uint8)
    zarr.create_array(str(folder / "in.zarr"), data=image, chunks=(32, 32, 32))
    warm.run(RUN, folder, os.environ, timeout_s=100).check_returncode()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_said(whole: Path, warm: WarmProcess, tmp_path: Path, damage: str) -> None:
    files = [p.relative_to(whole) for name in ("o.zarr", "o.zarr.voxweft") for p in (whole / name).rglob("*")]

    def said(words: list[str]) -> tuple[int, str]:
        done = warm.run(words, tmp_path, os.environ, timeout_s=100)
        assert done.returncode in (0, 1, 2), done.stderr
        assert "internal error" not in done.stderr and "Traceback" not in done.stderr, (words, done.stderr)
        assert len(done.stderr.splitlines()) <= 3
        return done.returncode, done.stderr

    for file in (f for f in files if (whole / f).is_file()):
        shutil.rmtree(tmp_path)
        shutil.copytree(whole, tmp_path)
        data = DAMAGES[damage]((whole / file).read_bytes())
        (tmp_path / file).unlink()
        if data is not None:
            (tmp_path / file).write_bytes(data)
        found, text = said(VERIFY)
        for words in OTHERS:
            said(words)
        harmless = any(word in str(file) for word in TOLD_ONLY)
        assert (found == 0) == harmless, (file, text)
        again, _ = said(RUN)
        if again:  # it cannot be mended by going on, so it begins anew
            said([*RUN, "--overwrite"])
        assert said(VERIFY)[0] == 0 or (damaged_data(file) and damage != "removed"), file


@pytest.mark.parametrize("gone", ["0/c", "0", "1", "zarr.json", "0/c/0/0/1"])
def test_what_is_removed_while_a_run_goes_on_is_made_again(
    whole: Path, warm: WarmProcess, tmp_path: Path, gone: str
) -> None:
    shutil.copytree(whole / "in.zarr", tmp_path / "in.zarr")
    slow = [word.replace("32,32,32", "32,32,32&delay=100") if "fake" in word else word for word in RUN]
    err = (tmp_path / "err").open("w+b")
    process = warm.start(slow, tmp_path, os.environ, err=err.fileno())
    place, records = tmp_path / "o.zarr" / gone, tmp_path / "o.zarr.voxweft/done"
    while process.poll() is None and not (place.exists() and [*records.rglob("*.json")]):
        time.sleep(0.005)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    code = process.wait(60)
    err.close()
    assert "internal error" not in (tmp_path / "err").read_text()
    if code:  # the array was gone while it was written
        code = warm.run(slow, tmp_path, os.environ, timeout_s=100).returncode
    assert code == 0
    assert warm.run(VERIFY, tmp_path, os.environ, timeout_s=100).returncode == 0
    shutil.rmtree(tmp_path / "o.zarr" / "0/c")
    assert "were gone, which are computed again" in warm.run(slow[:-1], tmp_path, os.environ, timeout_s=100).stderr
    wanted, found = (zarr.open_array(str(folder / "o.zarr/0"), mode="r")[:] for folder in (whole, tmp_path))
    assert np.array_equal(found, wanted)


def damaged_data(file: Any) -> bool:
    """Whether voxels were damaged that a rerun takes for complete; verify names them, --overwrite makes them anew."""
    return "/c/" in str(file)
