"""Each file of an output and its records removed, cut, lengthened, changed in one bit: said in words and found."""

from __future__ import annotations

import os
import shutil
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
    image = np.random.default_rng(0).integers(1, 200, (32, 32, 300), dtype=np.uint8)
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
        assert said(VERIFY)[0] == 0 or damaged_data(file), file


def damaged_data(file: Any) -> bool:
    """Whether voxels were damaged that a rerun takes for complete; verify names them, --overwrite makes them anew."""
    return "/c/" in str(file)
