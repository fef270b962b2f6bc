"""Odd volumes and models, a great many of them: a line of refusal or a result, soon, and nothing else.

VOXWEFT_FUZZ=2000 tries that many of each kind; with VOXWEFT_EXPLORE=1 others each time.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import voxweft
from headnets import CellNet, as_onnx, exported, torchscript
from voxweft.cli.app import execute
from voxweft.errors import VoxweftError
from voxweft.testing import odd
from voxweft.testing.strategies import damaged

N = int(os.environ.get("VOXWEFT_FUZZ", "50"))
LONGEST_S, MOST_BYTES = 10, 2 << 30
PATCH = (8, 8, 8)
fuzz = settings(max_examples=N, suppress_health_check=[*HealthCheck], print_blob=True)


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command in this process takes its signals, and leaves them."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setenv("COLUMNS", "100000")
    yield
    for one, what in before.items():
        signal.signal(one, what)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MOST_BYTES


def told(*words: object) -> int:
    """The exit code of a command, 0 or 2, soon, in at most three printable lines."""
    said, out, begun = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        code = execute([str(word) for word in words])
    lines = said.getvalue().splitlines()
    assert time.monotonic() - begun < LONGEST_S
    assert "internal error" not in said.getvalue()
    assert code in (0, 2), said.getvalue()
    assert code == 0 or 1 <= len(lines) <= 3
    assert all(line.isprintable() for line in (*lines, *out.getvalue().splitlines()))
    return code


@pytest.mark.parametrize("kind", ["zarr v2", "zarr v3", "hdf5", "tiff"])
def test_volumes(tmp_path: Path, kind: str) -> None:
    paths = {
        "zarr v2": odd.odd_zarrs(tmp_path, (2,)),
        "zarr v3": odd.odd_zarrs(tmp_path, (3,)),
        "hdf5": odd.odd_hdf5(tmp_path),
        "tiff": odd.odd_tiffs(tmp_path),
    }

    @fuzz
    @given(paths[kind])
    def tried(path: Path) -> None:
        if told("info", path) == 0:
            with contextlib.suppress(VoxweftError):
                volume = voxweft.open_volume(path)
                z, y, x = (min(n, 8) for n in volume.info.shape_zyx)
                assert volume.read(voxweft.Box((0, 0, 0), (z, y, x))).shape[1:] == (z, y, x)

    tried()


def files(folder: Path) -> dict[str, Path]:
    return {
        "pt": torchscript(folder / "net.pt", CellNet()),
        "pt2": exported(folder / "net.pt2", CellNet(), PATCH),
        "onnx": as_onnx(folder / "net.onnx", CellNet(), PATCH, ("cell",)),
    }


@pytest.mark.parametrize("kind", ["nnunet", "pt", "pt2", "onnx"])
def test_models(tmp_path: Path, kind: str) -> None:
    paths = odd.odd_nnunets(tmp_path) if kind == "nnunet" else odd.odd_side_files(files(tmp_path)[kind])

    @fuzz
    @given(paths)
    def tried(path: Path) -> None:
        told("info", path)

    tried()


def test_damaged_model_files(tmp_path: Path) -> None:
    contents = {path: path.read_bytes() for path in files(tmp_path).values()}

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        path = data.draw(st.sampled_from(sorted(contents)))
        path.write_bytes(data.draw(damaged(contents[path])))
        told("info", path)

    tried()
