"""Numbered layers as a volume, and the sink that stores a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from surfaces import waves, write_layers
from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import Geometry, OutputSpec
from voxweft.ops.halve import halve
from voxweft.stores import open_sink
from voxweft.stores.layers import LayersVolume

BOX = Box((1, 30, 40), (4, 77, 99))


@pytest.fixture(scope="module")
def volume() -> Any:
    return waves(5, 120, 130)


@pytest.mark.parametrize("stored", ["strips", "tiles", "plain", "png", "jpg", "png16", "bigendian"])
def test_a_box_of_layers_is_what_was_written(tmp_path: Path, volume: Any, stored: Any) -> None:
    wide = volume.astype(np.uint16) * 256 + 77
    (tmp_path / "layers").mkdir()
    for n, layer in enumerate(wide if stored in ("png16", "bigendian") else volume):
        name = tmp_path / "layers" / f"{n:02d}"
        match stored:
            case "strips":
                tifffile.imwrite(f"{name}.tif", layer, rowsperstrip=7, compression="lzw")
            case "tiles":
                tifffile.imwrite(f"{name}.tif", layer, tile=(32, 48), compression="zlib")
            case "plain":
                tifffile.imwrite(f"{name}.tif", layer)
            case "bigendian":
                tifffile.imwrite(f"{name}.tif", layer, byteorder=">", rowsperstrip=16)
            case "png" | "png16":
                Image.fromarray(layer).save(f"{name}.png")
            case "jpg":
                Image.fromarray(layer).save(f"{name}.jpg", quality=100)
    found = LayersVolume(str(tmp_path), 0, 5)
    assert found.info.shape_zyx == volume.shape
    assert found.info.dtype == "uint8"
    for box in (BOX, Box.of(volume.shape)):
        expected = volume[box.slices]
        assert np.abs(found.read(box)[0].astype(int) - expected).max() <= (4 if stored == "jpg" else 0)


def test_only_strips_in_demand_are_decoded(tmp_path: Path, volume: Any) -> None:
    write_layers(tmp_path, volume)
    assert LayersVolume(str(tmp_path), 0, 5).info.chunk_zyx == (1, 16, 130)


def test_16_bit_values_keep_their_upper_byte(tmp_path: Path) -> None:
    write_layers(tmp_path, np.arange(1 << 16, dtype=np.uint16).reshape(1, 256, 256))
    values = LayersVolume(str(tmp_path), 0, 1).read(Box.of((1, 256, 256)))
    assert np.array_equal(values[0, 0], np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1))


def test_layers_are_found_by_their_numbers(tmp_path: Path, volume: Any) -> None:
    write_layers(tmp_path, volume, first=98)
    (tmp_path / "layers" / "mask.png").write_bytes(b"")
    (tmp_path / "layers" / "composite_00.tif").write_bytes(b"")
    found = LayersVolume(str(tmp_path), 99, 102)
    assert np.array_equal(found.read(Box.of(found.info.shape_zyx))[0], volume[1:4])
    assert np.array_equal(LayersVolume(str(tmp_path / "layers"), 98, 103).read(BOX)[0], volume[BOX.slices])


def test_what_is_wrong_with_a_range_is_said(tmp_path: Path, volume: Any) -> None:
    write_layers(tmp_path, volume)
    with pytest.raises(VolumeError, match=r"No layers found.*layers there are 0 to 4"):
        LayersVolume(str(tmp_path), 20, 30)
    with pytest.raises(VolumeError, match=r"layers 3 to 6 are asked for; there is no 05, 06"):
        LayersVolume(str(tmp_path), 3, 7)
    Image.fromarray(volume[2]).save(tmp_path / "layers" / "2.png")
    with pytest.raises(VolumeError, match=r"02 is there twice \(.*02.tif.*\)"):
        LayersVolume(str(tmp_path), 0, 5)


def test_a_layer_of_another_size_or_kind_is_named(tmp_path: Path, volume: Any) -> None:
    write_layers(tmp_path, volume)
    tifffile.imwrite(tmp_path / "layers" / "03.tif", volume[0, :50])
    with pytest.raises(VolumeError, match=r"03.tif is \(50, 130\), the first layer \(120, 130\)"):
        LayersVolume(str(tmp_path), 0, 5)
    tifffile.imwrite(
        tmp_path / "layers" / "00.tif", np.stack([volume[0]] * 3), photometric="rgb", planarconfig="separate"
    )
    with pytest.raises(VolumeError, match="3 colours apart"):
        LayersVolume(str(tmp_path), 0, 5)
    tifffile.imwrite(tmp_path / "layers" / "00.tif", volume[0].astype(np.float32))
    with pytest.raises(VolumeError, match="float32"):
        LayersVolume(str(tmp_path), 0, 5)


def test_a_cut_layer_is_named(tmp_path: Path, volume: Any) -> None:
    write_layers(tmp_path, volume)
    path = tmp_path / "layers" / "04.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    with pytest.raises(VolumeError, match=r"04.tif is damaged or cut"):
        LayersVolume(str(tmp_path), 0, 5)
    path.write_bytes(whole[:1500] + bytes(len(whole) - 2000) + whole[-500:])
    with pytest.raises(ReadError, match=r"04.tif cannot be read"):
        LayersVolume(str(tmp_path), 0, 5).read(Box.of(volume.shape))


def test_a_picture_is_stored_as_one_plane(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "p.zarr"), order=(1, 0, 2))
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (1, 600, 1, 500), dtype=np.uint8)
    place = Geometry((2.0, 9.0, 3.0), "micrometer")
    sink.create(OutputSpec((600, 1, 500), 1, "uint8", (64, 1, 128), (64, 1, 256), geometry=place))
    for row in range(0, 600, 64):
        stop = min(600, row + 64)
        sink.write(Box((row, 0, 0), (stop, 1, 500)), values[:, row:stop])
    sink.write(Box.of((300, 1, 250)), halve(values, "mean"), 1)
    assert np.array_equal(sink.read(Box.of((600, 1, 500))), values)
    plain = open_sink(str(tmp_path / "p.zarr"))
    spec = plain.open()
    assert spec.shape_zyx == (1, 600, 500)
    assert spec.geometry.voxel_size_zyx == (9.0, 2.0, 3.0)
    assert plain.n_levels() > 1
    assert plain.shape(1) == (1, 300, 250)
    scale = plain._group().attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"]
    assert scale == [9.0, 4.0, 6.0]
    fine = values[0, :, 0].astype(int).reshape(300, 2, 250, 2).sum(axis=(1, 3))
    assert np.array_equal(plain.read(Box.of((1, 300, 250)), 1)[0, 0], (2 * fine + 4) // 8)
