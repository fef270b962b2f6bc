"""The stores of ../shared/data open, or are refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import voxweft
from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box


def nodes(root: Path) -> list[Path]:
    """Every zarr node below a folder."""
    found = {p.parent for name in ("zarr.json", ".zgroup", ".zarray") for p in root.rglob(name)}
    return sorted(found)


def test_every_zarr_store_opens_or_is_refused(shared: Path) -> None:
    opened, refused, damaged = [], [], []
    for node in nodes(shared / "data/zarr_stores"):
        try:
            volume = voxweft.open_volume(node)
        except VolumeError as error:
            assert str(node) in str(error)
            assert len(str(error)) > len(str(node)) + 15
            refused.append(node)
            continue
        z, y, x = volume.info.shape_zyx
        try:
            assert volume.read(Box((z // 2, 0, 0), (z // 2 + 1, y, x))).shape == (volume.info.n_channels, 1, y, x)
        except ReadError as error:  # some chunks are links that a file system turned into text
            assert "chunk 0/0/0" in str(error)
            damaged.append(node)
        opened.append(node)
    assert len(opened) - len(damaged) >= 10
    assert all("0.6" in str(p) or "simple" in str(p) or "v3" in str(p) for p in refused), refused


def test_axes_order_voxel_size_and_levels_come_from_the_metadata(shared: Path) -> None:
    path = shared / "data/zarr_stores/mni152_axial.ome.zarr"
    volume = voxweft.open_volume(path)
    raw = zarr.open(str(path / "scale0/nibabel_converted_image"), mode="r")
    assert volume.info.shape_zyx == raw.shape[::-1]
    assert np.array_equal(volume.read(Box.of(volume.info.shape_zyx))[0], raw[:].T)
    assert len(volume.info.levels) > 2
    finer, coarser = (voxweft.open_volume(path, level=k).info for k in (0, 1))
    assert coarser.shape_zyx == finer.levels[1]
    assert coarser.geometry.voxel_size_zyx[2] == pytest.approx(2 * finer.geometry.voxel_size_zyx[2], rel=0.05)
    with pytest.raises(VolumeError, match="resolution levels"):
        voxweft.open_volume(path, level=99)


def test_version_0_6_is_refused_by_name_and_its_array_opens(shared: Path) -> None:
    group = shared / "data/zarr_stores/neuroglancer_ome/all_0.6/basic/scale.zarr"
    with pytest.raises(VolumeError, match=r"0\.6.*coordinate systems.*path of its array"):
        voxweft.open_volume(group)
    assert voxweft.open_volume(group / "array").info.shape_zyx == (27, 226, 186)


def test_the_medulla_has_its_voxel_size(shared: Path) -> None:
    info = voxweft.open_volume(shared / "data/em_fibsem_medulla/raw.tif").info
    assert (info.shape_zyx, info.dtype) == ((250, 250, 250), "uint8")
    assert info.geometry.voxel_size_zyx == pytest.approx((0.01, 0.01, 0.01))
    assert info.geometry.unit == "micrometer"
