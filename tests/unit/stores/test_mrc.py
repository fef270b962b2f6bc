"""MRC files of many kinds: modes, byte orders, headers that are odd, and those that are wrong."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxweft
from voxweft.errors import VolumeError
from voxweft.testing import VolumeContract

mrcfile = pytest.importorskip("mrcfile")
CUBE = np.random.default_rng(4).integers(-90, 90, (9, 14, 20))


def write(path: Path, values: Any, **header: Any) -> Path:
    """A file with a voxel size of 10 A, and fields of its header changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.new(path, values, overwrite=True) as file:
            file.voxel_size = 10.0
            for name, value in header.items():
                file.header[name] = value
    return path


def read(path: Path) -> Any:
    volume = voxweft.open_volume(path)
    return volume.read(voxweft.Box.of(volume.info.shape_zyx))[0]


class TestMrc(VolumeContract):
    array = CUBE[None].astype(np.float32)

    def make(self, tmp_path: Path) -> Any:
        return voxweft.open_volume(write(tmp_path / "v.mrc", CUBE.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_in_both_byte_orders(tmp_path: Path, dtype: str, order: str) -> None:
    values = CUBE.astype(dtype)
    path = write(tmp_path / {"<": "v.rec", ">": "v.map"}[order], values)
    if order == ">":
        with mrcfile.open(path) as file:
            swapped = file.header.copy().byteswap().view(file.header.dtype.newbyteorder(">"))
        swapped["machst"] = [0x11, 0x11, 0, 0]
        path.write_bytes(swapped.tobytes() + values.astype(values.dtype.newbyteorder(">")).tobytes())
    found = read(path)
    assert found.dtype == values.dtype
    assert found.dtype.isnative
    assert np.array_equal(found, values)
    assert voxweft.open_volume(path).info.geometry.voxel_size_zyx == (10.0, 10.0, 10.0)


def test_an_extended_header_is_left_aside(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "v.mrc", CUBE.astype(np.float32)) as file:
        file.voxel_size = 7.5
        file.set_extended_header(np.arange(100, dtype=np.uint8))
    assert np.array_equal(read(tmp_path / "v.mrc"), CUBE)
    assert voxweft.open_volume(tmp_path / "v.mrc").info.geometry.unit == "angstrom"


@pytest.mark.parametrize("name", [b"XXXX", b"\0\0\0\0"])
def test_a_wrong_map_id_is_noted(tmp_path: Path, name: bytes) -> None:
    path = write(tmp_path / "v.mrc", CUBE.astype(np.float32), map=name)
    assert np.array_equal(read(path), CUBE)
    assert any("odd, but read" in note for note in voxweft.open_volume(path).info.notes)


@pytest.mark.parametrize("size", [0.0, np.inf, np.nan, -10.0])
def test_a_voxel_size_that_is_none_is_unknown(tmp_path: Path, size: float) -> None:
    path = write(tmp_path / "v.mrc", CUBE.astype(np.float32), cella=(size, size, size))
    volume = voxweft.open_volume(path)
    assert volume.info.geometry.unit == ""
    assert np.array_equal(read(path), CUBE)


def test_bytes_that_imod_marks_as_unsigned(tmp_path: Path) -> None:
    values = CUBE.astype(np.int8)
    path = write(tmp_path / "v.mrc", values)
    data = bytearray(path.read_bytes())
    data[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    path.write_bytes(data)
    assert np.array_equal(read(path), values.view(np.uint8))
    data[156:160] = np.array([1], "<i4").tobytes()
    path.write_bytes(data)
    assert np.array_equal(read(path), values)


def test_axes_in_another_order(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mrc", CUBE.astype(np.float32), mapc=3, mapr=2, maps=1)
    assert np.array_equal(read(path), CUBE.transpose(2, 1, 0))
    write(path, CUBE.astype(np.float32), mapc=7)
    with pytest.raises(VolumeError, match="axes are"):
        voxweft.open_volume(path)


WRONG = {
    "cut": (lambda data: data[:-800], "cut"),
    "text": (lambda _: b"this is no tomogram" * 90, "no MRC file|mode|cut"),
    "empty": (lambda _: b"", "no MRC file"),
    "complex": (lambda data: data[:12] + np.int32(4).tobytes() + data[16:], "mode 4|no MRC file|cut"),
    "packed": (lambda data: data[:12] + np.int32(101).tobytes() + data[16:], "mode 101|no MRC file|cut"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_none_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    change, said = WRONG[kind]
    path = write(tmp_path / "v.mrc", CUBE.astype(np.float32))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VolumeError, match=said) as caught:
        voxweft.open_volume(path)
    assert len(str(caught.value).splitlines()) <= 2
