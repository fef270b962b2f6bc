"""Volumes as people have them: axes by name, pages of one kind, numbered names, units, what other writers get wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

import voxweft
from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.axes import NAMES, Axes, Select
from voxweft.image.units import voxel_size
from voxweft.stores.zarr import ZarrVolume

SHAPE = (6, 7, 8)
VOXELS = np.arange(6 * 7 * 8, dtype=np.uint16).reshape(SHAPE)
MANY = np.stack([VOXELS, VOXELS + 1000])


def read(path: Path, **select: int) -> np.ndarray:
    volume = voxweft.open_volume(path, select=Select(**select))
    return volume.read(voxweft.Box.of(volume.info.shape_zyx))


@given(st.permutations(["t", "c", "z", "y", "x"]), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_order_of_axes_is_read_right(order: list[str], left_out: int, chance: Any) -> None:
    names = [n for n in order if n not in ("t", "c")[: left_out % 3]]
    sizes = {"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}
    stored = np.arange(np.prod([sizes[n] for n in names])).reshape([sizes[n] for n in names])
    spelled = [chance.choice(NAMES[n]) for n in names]
    axes = Axes.of(spelled, stored.shape, "it", Select(time=1 if "t" in names else None))
    box = voxweft.Box((1, 0, 2), (3, 5, 6))
    found = axes.arranged(stored[axes.index(box)])
    wanted = stored.take(1, names.index("t")) if "t" in names else stored
    left = [n for n in names if n != "t"]
    wanted = wanted.transpose([left.index(n) for n in "czyx" if n in left])
    wanted = wanted if "c" in left else wanted[None]
    assert np.array_equal(found, wanted[:, 1:3, 0:5, 2:6])


@pytest.mark.parametrize(
    ("values", "metadata", "imagej", "select", "wanted"),
    [
        (MANY.swapaxes(0, 1), {"axes": "ZCYX"}, True, {}, MANY),
        (MANY, {"axes": "CZYX"}, False, {}, MANY),
        (MANY, {"axes": "TZYX"}, False, {"time": 1}, MANY[1:]),
        (MANY, {"axes": "CZYX"}, False, {"channel": 1}, MANY[1:]),
        (np.stack([MANY, MANY + 7]), {"axes": "TCZYX"}, False, {"time": 1, "channel": 0}, MANY[:1] + 7),
        (VOXELS, {"axes": "ZYX"}, False, {}, VOXELS[None]),
    ],
)
def test_tiff_axes(tmp_path: Path, values: Any, metadata: Any, imagej: bool, select: Any, wanted: np.ndarray) -> None:
    path = tmp_path / ("a.tif" if imagej else "a.ome.tif")
    tifffile.imwrite(path, values, photometric="minisblack", imagej=imagej, metadata=metadata)
    assert np.array_equal(read(path, **select), wanted)


def test_time_and_series_are_never_guessed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t.ome.tif", MANY, photometric="minisblack", metadata={"axes": "TZYX"})
    with pytest.raises(VolumeError, match="axes T, Z, Y, X with 2 time points; choose one with --time"):
        voxweft.open_volume(tmp_path / "t.ome.tif")
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as file:
        for n, size in enumerate((0.5, 4.0)):
            about = {"axes": "ZYX"} | {f"PhysicalSize{a}": size for a in "XYZ"}
            file.write(VOXELS + n, photometric="minisblack", metadata=about)
    with pytest.raises(VolumeError, match=r"2 series .* choose one with --series"):
        voxweft.open_volume(tmp_path / "s.ome.tif")
    assert np.array_equal(read(tmp_path / "s.ome.tif", series=1)[0], VOXELS + 1)
    info = voxweft.open_volume(tmp_path / "s.ome.tif", select=Select(series=1)).info
    assert (info.geometry.voxel_size_zyx, info.geometry.unit) == ((4.0, 4.0, 4.0), "micrometer")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (np.zeros((7, 9), np.uint8), "page 3 is 7 x 9 uint8, the first page is 7 x 8 uint8"),
        (np.zeros((7, 8), np.uint16), "page 3 is 7 x 8 uint16"),
        (np.zeros((7, 8, 3), np.uint8), "page 3 is 7 x 8 uint8 of 3 samples"),
    ],
)
def test_a_page_of_another_kind_is_named(tmp_path: Path, odd: np.ndarray, says: str) -> None:
    pages = [np.full((7, 8), n, np.uint8) for n in range(6)]
    pages[3] = odd
    (tmp_path / "folder").mkdir()
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for n, page in enumerate(pages):
            kind = {"photometric": "rgb" if page.ndim == 3 else "minisblack", "metadata": None}
            file.write(page, **kind)
            tifffile.imwrite(tmp_path / f"folder/{n:02d}.tif", page, **kind)
    with pytest.raises(VolumeError, match=says):
        voxweft.open_volume(tmp_path / "a.tif")
    with pytest.raises(VolumeError, match=r"03\.tif is"):
        voxweft.open_volume(tmp_path / "folder")


@pytest.mark.parametrize("name", ["{}", "slice_{}_of_10", "scan2 {} ch1", "2024-{:03d}", "z{:02d}.ome"])
def test_numbered_files_are_in_the_order_of_the_number_that_differs(tmp_path: Path, name: str) -> None:
    for n in range(8, 12):
        tifffile.imwrite(tmp_path / f"{name.format(n)}.tif", np.full((7, 8), n, np.uint8))
        (tmp_path / f"._{name.format(n)}.tif").write_bytes(b"\0\5\x16\7")
    assert read(tmp_path)[0, :, 0, 0].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("names", [["x", "y", "z"], ["Z", "Y", "X"], ["depth", "height", "width"], ["x", "z", "y"]])
@pytest.mark.parametrize("kind", ["zarr 2", "zarr 3", "HDF5 labels", "HDF5 tags"])
def test_names_of_axes(tmp_path: Path, kind: str, names: list[str]) -> None:
    letters = [n[0].lower() if n[0].lower() in "xyz" else {"d": "z", "h": "y", "w": "x"}[n[0]] for n in names]
    stored = VOXELS.transpose(["zyx".index(n) for n in letters])
    path = tmp_path / ("v.h5" if kind.startswith("HDF5") else "v.zarr")
    if kind.startswith("zarr"):
        two = kind == "zarr 2"
        more = {} if two else {"dimension_names": names}
        array = zarr.create_array(str(path), data=np.ascontiguousarray(stored), zarr_format=2 if two else 3, **more)
        if two:
            array.attrs["_ARRAY_DIMENSIONS"] = names
    else:
        with h5py.File(path, "w") as file:
            data = file.create_dataset("data", data=stored)
            for n, name in enumerate(names):
                data.dims[n].label = name if kind == "HDF5 labels" else ""
            if kind == "HDF5 tags":
                data.attrs["axistags"] = json.dumps({"axes": [{"key": n} for n in letters]})
    assert np.array_equal(read(path)[0], VOXELS)


def test_axes_without_known_names_are_z_y_x_and_others_are_named(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=VOXELS, dimension_names=["dim_0", "dim_1", "dim_2"])
    assert np.array_equal(read(tmp_path / "a.zarr")[0], VOXELS)
    zarr.create_array(str(tmp_path / "b.zarr"), data=MANY, dimension_names=["energy", "z", "y", "x"])
    with pytest.raises(VolumeError, match="axes energy, z, y, x"):
        voxweft.open_volume(tmp_path / "b.zarr")


# ---------------------------------------------------------------- zarr that others wrote


def array_of(folder: Path, separator: str | None = ".", **more: Any) -> Path:
    """A zarr v2 array in chunks of 3, 7, 8, file by file; ``separator`` None: nested and not told."""
    folder.mkdir(parents=True)
    about = {
        "zarr_format": 2, "shape": SHAPE, "chunks": [3, 7, 8], "dtype": "<u2", "compressor": None, "fill_value": 0,
        "order": "C", "filters": None,
    } | more | ({"dimension_separator": separator} if separator else {})  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(about))
    for n in range(2):
        place = folder / (separator or "/").join(("01"[n], "0", "0"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(VOXELS[3 * n : 3 * n + 3].tobytes())
    return folder


def test_a_separator_that_was_not_written(tmp_path: Path) -> None:
    volume = voxweft.open_volume(array_of(tmp_path / "v.zarr", None))
    assert np.array_equal(volume.read(voxweft.Box.of(SHAPE))[0], VOXELS)
    assert "called 0/0/0" in volume.info.notes[0]


def test_chunks_under_other_names_are_no_zeros(tmp_path: Path) -> None:
    path = array_of(tmp_path / "v.zarr", ".")
    text = (path / ".zarray").read_text()
    (path / ".zarray").write_text(text.replace('"dimension_separator": "."', '"dimension_separator": "/"'))
    with pytest.raises(VolumeError, match=r"chunks called 0\.0\.0, its metadata says 0/0/0"):
        voxweft.open_volume(path)


@pytest.mark.parametrize("fill", [-1, 1e9, "NaN", "text", [1], True])
def test_a_fill_value_that_cannot_be(tmp_path: Path, fill: Any) -> None:
    path = array_of(tmp_path / "v.zarr", fill_value=fill)
    (path / "1.0.0").unlink()
    volume = voxweft.open_volume(path)
    assert np.array_equal(volume.read(voxweft.Box.of(SHAPE))[0], np.concatenate([VOXELS[:3], 0 * VOXELS[3:]]))
    assert "fill_value" in volume.info.notes[0]


@pytest.mark.parametrize(
    "more",
    [
        {"shape": [10**9, 10**9, 10**9], "chunks": [1, 1, 1]},
        {"shape": [2**63 - 1, 7, 8]},
        {"shape": [-1, 7, 8]},
        {"shape": "abc"},
        {"shape": [[1], 7, 8]},
        {"chunks": [0, 7, 8]},
        {"chunks": [1 << 30, 7, 8]},
        {"chunks": None},
        {"shape": [6, 7, float("nan")]},
        {"shape": [6.0, 7, 8]},
    ],
)
def test_shapes_that_no_volume_has(tmp_path: Path, more: Any) -> None:
    with pytest.raises(VolumeError, match=r"shape|chunks") as caught:
        voxweft.open_volume(array_of(tmp_path / "v.zarr", **more))
    assert len(str(caught.value)) < 400


def image_of(path: Path, **scales: Any) -> Path:
    """An OME-Zarr of version 0.4 with these keys in its metadata."""
    path.mkdir()
    steps = [{"type": "scale", "scale": [1, 1, 1]}]
    one = {
        "version": "0.4",
        "axes": [{"name": n, "type": "space"} for n in "zyx"],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": [one | scales]}))
    array_of(path / "0", "/")
    return path


@pytest.mark.parametrize(
    "scales",
    [
        {"datasets": {}}, {"datasets": [{}]}, {"datasets": None}, {"datasets": [{"path": "../x"}]}, {"axes": 3},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": ["1 um"] * 3}]}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}]},
        {"axes": [{"name": "z"}]}, {"datasets": [{"path": "1"}]}, {"version": {"a": 1}, "datasets": [3]},
    ],
)  # fmt: skip
def test_broken_metadata_is_a_line(tmp_path: Path, scales: Any) -> None:
    with pytest.raises(VolumeError) as caught:
        voxweft.open_volume(image_of(tmp_path / "v.zarr", **scales))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "scales",
    [
        {"datasets": [{"path": "0", "coordinateTransformations": None}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "translation", "translation": None}]}]},
        {"axes": ["z", "y", "x"]},
        {"coordinateTransformations": None},
    ],
)
def test_what_is_missing_is_not_needed(tmp_path: Path, scales: Any) -> None:
    assert np.array_equal(read(image_of(tmp_path / "v.zarr", **scales))[0], VOXELS)


def test_an_array_that_grew_after_it_was_consolidated(tmp_path: Path) -> None:
    path = image_of(tmp_path / "v.zarr")
    array = json.loads((path / "0/.zarray").read_text()) | {"shape": [4, 7, 8]}
    parts = {".zgroup": {"zarr_format": 2}, ".zattrs": json.loads((path / ".zattrs").read_text()), "0/.zarray": array}
    (path / ".zmetadata").write_text(json.dumps({"zarr_consolidated_format": 1, "metadata": parts}))
    volume = voxweft.open_volume(path)
    assert np.array_equal(volume.read(voxweft.Box.of(SHAPE))[0], VOXELS)
    assert "of earlier" in volume.info.notes[0]


def test_images_in_images(tmp_path: Path) -> None:
    path = tmp_path / "b.zarr"
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    image_of(path / "0")
    assert np.array_equal(read(path)[0], VOXELS)
    image_of(path / "1")
    with pytest.raises(VolumeError, match="2 images of bioformats2raw; choose one with --series"):
        voxweft.open_volume(path)
    assert np.array_equal(read(path, series=1)[0], VOXELS)
    (path / ".zattrs").write_text('{"plate": {}}')
    with pytest.raises(VolumeError, match="plate of OME-Zarr"):
        voxweft.open_volume(path)


@pytest.mark.parametrize("name", [".zgroup", ".zattrs", "0/.zarray"])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "loop"])
def test_metadata_that_are_no_files(tmp_path: Path, name: str, kind: str) -> None:
    place = image_of(tmp_path / "v.zarr") / name
    place.unlink()
    {"pipe": os.mkfifo, "zeros": lambda p: p.symlink_to("/dev/zero"), "loop": lambda p: p.symlink_to(p)}[kind](place)
    with pytest.raises(VolumeError):
        voxweft.open_volume(tmp_path / "v.zarr")


# ---------------------------------------------------------------- HDF5


def test_data_of_other_files_stay_in_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(VOXELS.tobytes())
    for name, place in (("near.h5", "raw.bin"), ("far.h5", str(tmp_path / "secret")), ("up.h5", "../secret")):
        (inside / "raw.bin").write_bytes(VOXELS.tobytes())
        with h5py.File(inside / name, "w") as file:
            file.create_dataset("data", SHAPE, "u2", external=[(place, 0, VOXELS.nbytes)])
    assert np.array_equal(read(inside / "near.h5")[0], VOXELS)
    for name in ("far.h5", "up.h5"):
        with pytest.raises(VolumeError, match="outside its folder"):
            voxweft.open_volume(inside / name)
    with h5py.File(inside / "link.h5", "w") as file:
        file["data"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")
    with pytest.raises(VolumeError):
        voxweft.open_volume(f"{inside / 'link.h5'}::data")


def test_a_virtual_set_without_its_source(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = VOXELS
    layout = h5py.VirtualLayout(shape=SHAPE, dtype="u2")
    layout[:] = h5py.VirtualSource("part.h5", "data", shape=SHAPE)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    assert np.array_equal(read(tmp_path / "all.h5")[0], VOXELS)
    (tmp_path / "part.h5").unlink()
    with pytest.raises((VolumeError, ReadError), match=r"part\.h5, which is not there"):
        voxweft.open_volume(tmp_path / "all.h5")


@pytest.mark.parametrize("said", [["4 nm"] * 3, [np.nan, 4, 4], [0, 1, 1], [-1, 1, 1]])
def test_a_voxel_size_that_is_none_is_unknown_and_said(tmp_path: Path, said: Any) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["data"] = VOXELS > 100
        file["data"].attrs["resolution"] = said
    volume = voxweft.open_volume(tmp_path / "v.h5")
    assert (volume.info.geometry.unit, volume.info.dtype) == ("", "uint8")
    assert "taken for unknown" in volume.info.notes[0]
    assert np.array_equal(volume.read(voxweft.Box.of(SHAPE))[0], VOXELS > 100)


def test_each_axis_has_its_unit(tmp_path: Path) -> None:
    axes = [{"name": n, "unit": u} for n, u in zip("zyx", ("nanometer", "um", "micrometer"), strict=True)]
    steps = [{"type": "scale", "scale": [40, 0.004, 0.004]}]
    path = image_of(tmp_path / "v.zarr", axes=axes, datasets=[{"path": "0", "coordinateTransformations": steps}])
    assert voxweft.open_volume(path).info.geometry.voxel_size_zyx == (0.04, 0.004, 0.004)
    assert voxel_size((1, 1, 1), ("nm", "pixel", "nm"))[1] == ""


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
def test_a_chunk_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path, codec: str) -> None:
    packers = {"gzip": zarr.codecs.GzipCodec, "zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec}
    packer, zeros, stored = packers[codec](), np.zeros(1 << 26, np.uint8), {"write_empty_chunks": True}
    zarr.create_array(str(tmp_path / "a.zarr"), data=VOXELS, chunks=(6, 7, 8), compressors=packer)
    zarr.create_array(str(tmp_path / "b.zarr"), data=zeros, chunks=zeros.shape, compressors=packer, config=stored)
    bomb = next(p for p in (tmp_path / "b.zarr").rglob("0") if p.is_file())
    assert np.array_equal(read(tmp_path / "a.zarr")[0], VOXELS)
    shutil.copy(bomb, tmp_path / "a.zarr/c/0/0/0")
    with pytest.raises(ReadError, match=r"chunk 0/0/0 .*claims to unpack to \d{6,} bytes, and a chunk has 672"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", [{"zarr_format": 2}, {"zarr_format": 3}, {"zarr_format": 3, "shards": (2, 8, 8, 8)}])
def test_what_is_stored_is_asked_chunk_by_chunk(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Of an array [channel, z, y, x] one chunk, or its shard, is there."""
    array = zarr.create_array(str(tmp_path / "v.zarr"), shape=(2, 16, 16, 16), chunks=(1, 4, 4, 4), dtype="u1", **kind)
    array[1, 9, 1, 13] = 1
    volume = ZarrVolume(str(tmp_path / "v.zarr"))
    size = 8 if "shards" in kind else 4
    found = [box for box in Box.of((16, 16, 16)).cells((size,) * 3) if volume.stores(box)]
    assert found == [Box((8, 0, 16 - size), (8 + size, size, 16))]
    assert volume.stores(Box((0, 0, 0), (16, 16, 16)))
