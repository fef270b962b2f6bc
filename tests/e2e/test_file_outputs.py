"""A run whose OUTPUT is a file of another program: it stops, goes on, is looked at and repeated like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

import voxweft as package
from conftest import Voxweft
from voxweft.geometry.box import Box

MODEL = ("--model", "fake://blur?patch=16,16,16&classes=3", "--runtime", "torch", "--chunk", "16,32,32")


@pytest.fixture
def volume(tmp_path: Path, image: NDArray[Any]) -> Path:
    size = {"PhysicalSizeZ": 40, "PhysicalSizeY": 8, "PhysicalSizeX": 8}
    size |= {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
    tifffile.imwrite(tmp_path / "in.tif", image, ome=True, metadata={"axes": "ZYX", **size})
    return tmp_path / "in.tif"


def test_the_part_that_ends_last_writes_the_file(voxweft: Voxweft, tmp_path: Path, volume: Any) -> None:
    words = ("run", volume, "seg.tif", *MODEL, "--output", "labels")
    voxweft(*words, "--num-parts", "2", "--part-id", "1")
    assert not (tmp_path / "seg.tif").exists()
    assert "waiting" in voxweft("status", "seg.tif").stdout
    assert "seg.zarr is not complete" in voxweft("export", "seg.zarr", "half.tif", code=2).stderr
    assert "file: seg.tif" in voxweft(*words, "--num-parts", "2", "--part-id", "0").stdout
    with tifffile.TiffFile(tmp_path / "seg.tif") as file:
        assert file.is_ome and 'PhysicalSizeZ="40.0"' in file.ome_metadata
        assert np.array_equal(file.asarray(), zarr.open_array(str(tmp_path / "seg.zarr/0"), mode="r")[:])
    voxweft("verify", "seg.tif")
    before = (tmp_path / "seg.tif").stat().st_mtime_ns
    voxweft(*words)
    assert (tmp_path / "seg.tif").stat().st_mtime_ns == before  # it is there
    (tmp_path / "seg.tif").unlink()
    voxweft(*words)
    assert (tmp_path / "seg.tif").exists()
    assert not list(tmp_path.glob(".*tmp*"))


def test_a_file_that_is_anothers_or_cannot_hold_the_result_is_refused(
    voxweft: Voxweft, tmp_path: Path, volume: Any
) -> None:
    (tmp_path / "mine.tif").write_bytes(b"mine")
    cases = {
        ("mine.tif",): "mine.tif is there, and is not of this run",
        ("out.mrc",): "a .mrc holds one channel, not 3",
        ("no/out.tif",): "there is no folder no",
        ("s3://bucket/out.tif",): "a .tif is written to a local path",
        ("in.tif", "--overwrite"): "in.tif and",
    }
    for words, told in cases.items():
        done = voxweft("run", volume, words[0], *MODEL, *words[1:], code=2)
        assert told in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) <= 3
    assert (tmp_path / "mine.tif").read_bytes() == b"mine"
    assert {p.name for p in tmp_path.iterdir()} == {"in.tif", "mine.tif"}


def test_a_finished_result_is_exported_with_its_names(voxweft: Voxweft, tmp_path: Path, volume: Any) -> None:
    voxweft("run", volume, "out.zarr", *MODEL)
    told = voxweft("export", "out.zarr", "out.h5", "--channel", "2", "--level", "1").stdout
    assert "file: out.h5" in told
    level = zarr.open_array(str(tmp_path / "out.zarr/1"), mode="r")[2]
    found = package.open_volume(tmp_path / "out.h5")
    assert np.array_equal(found.read(Box.of(level.shape))[0], level)
    assert level.shape == (50, 31, 36)
    assert np.allclose(found.info.geometry.voxel_size_zyx, (0.04, 0.016, 0.016))
    assert "out.h5 is there" in voxweft("export", "out.zarr", "out.h5", code=2).stderr
    attributes = json.loads((tmp_path / "out.zarr/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["multiscales"][0]["name"] == "out"
