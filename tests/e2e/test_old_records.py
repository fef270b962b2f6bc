"""What release 0.1.0 (command ``weft``) left behind is recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr
from numpy.typing import NDArray

from conftest import Voxweft


@pytest.mark.parametrize("command", ["run", "status", "verify", "report"])
def test_records_of_0_1_0_are_refused_in_words(
    voxweft: Voxweft, tmp_path: Path, image: NDArray[Any], command: Any
) -> None:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "old.zarr.weft").mkdir()
    (tmp_path / "old.zarr.weft" / "plan.json").write_text('{"version": 1}')
    words = ("run", "in.zarr", "old.zarr", "--model", "fake://null") if command == "run" else (command, "old.zarr")
    told = voxweft(*words, code=2).stderr
    assert "release 0.1.0" in told
    assert "delete old.zarr and old.zarr.weft" in told
    assert not (tmp_path / "old.zarr.voxweft").exists()
