"""Results written as TIFF, HDF5, NIfTI and MRC have the voxels and the voxel size, for us and for other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import voxweft
from voxweft.engine.events import Event
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image import Geometry, OutputSpec
from voxweft.image.units import METERS
from voxweft.stores import outgoing

SHAPE = (21, 30, 37)
PLACE = Geometry((40.0, 8.0, 4.0), "nanometer", (400.0, -80.0, 12.0))


def stored(folder: Path, dtype: str, n: int = 1, place: Geometry = PLACE, largest: int = 200, **more: Any) -> str:
    values = np.random.default_rng(3).integers(0, largest, (n, *SHAPE)).astype(dtype)
    sink = voxweft.open_sink(str(folder / "out.zarr"))
    sink.create(OutputSpec(SHAPE, n, dtype, (8, 16, 16), (16, 32, 32), geometry=place, pyramid="none", **more))
    sink.write(Box.of(SHAPE), values)
    return sink.url


def voxels(url: str) -> NDArray[Any]:
    return voxweft.open_volume(url).read(Box.of(SHAPE))


def nanometers(path: str) -> list[float]:
    place = voxweft.open_volume(path).info.geometry
    return [size * METERS[place.unit] / 1e-9 for size in place.voxel_size_zyx]


@pytest.mark.parametrize("ending", [".tif", ".ome.tiff", ".h5", ".nii", ".nii.gz", ".mrc"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_file_has_the_voxels_and_their_size(tmp_path: Path, ending: Any, dtype: Any) -> None:
    url, file = stored(tmp_path, dtype), str(tmp_path / f"out{ending}")
    assert voxweft.export(url, file) == file
    assert np.array_equal(voxels(file), voxels(url))
    assert nanometers(file) == pytest.approx([40, 8, 4])
    kept = "uint16" if (ending, dtype) == (".mrc", "uint8") else dtype  # bytes of MRC are signed
    assert voxweft.open_volume(file).info.dtype == kept
    assert {p.name for p in tmp_path.iterdir()} <= {"out.zarr", "out.zarr.voxweft", Path(file).name}


def test_a_tiff_of_classes_is_an_ome_tiff_with_their_names(tmp_path: Path) -> None:
    names = ((0, "background"), (1, "vessel"), (2, "wall"))
    url = stored(tmp_path, "uint8", 3, named=names, shown=(0, 255))
    file = voxweft.export(url, str(tmp_path / "out.tif"))
    with tifffile.TiffFile(file) as read:
        assert read.is_ome
        assert (read.series[0].axes, read.series[0].shape) == ("ZCYX", (21, 3, 30, 37))
        assert 'PhysicalSizeZ="40.0"' in read.ome_metadata and 'PhysicalSizeXUnit="nm"' in read.ome_metadata
        assert 'Name="vessel"' in read.ome_metadata
        assert np.array_equal(read.asarray().swapaxes(0, 1), voxels(url))
    one = voxweft.export(url, str(tmp_path / "vessel.tif"), channel=1)
    assert np.array_equal(voxels(one)[0], voxels(url)[1])


def test_other_libraries_see_the_same(tmp_path: Path) -> None:
    url = stored(tmp_path, "uint16", 2, named=((0, "a"), (1, "b")), shown=(0, 65535))
    whole = voxels(url)
    with h5py.File(voxweft.export(url, str(tmp_path / "o.h5"))) as file:
        assert np.array_equal(file["data"][:], whole)
        assert [a["key"] for a in json.loads(file["data"].attrs["axistags"])["axes"]] == ["c", "z", "y", "x"]
        assert file["data"].attrs["element_size_um"].tolist() == [0.04, 0.008, 0.004]
    image = nibabel.load(voxweft.export(url, str(tmp_path / "o.nii")))
    assert np.array_equal(np.asarray(image.dataobj).T, whole)
    with mrcfile.open(voxweft.export(url, str(tmp_path / "o.mrc"), channel=1)) as file:
        assert np.array_equal(file.data, whole[1])
        assert [float(file.voxel_size[a]) for a in "xyz"] == [40, 80, 400]
        assert float(file.header.dmean) == pytest.approx(whole[1].mean())
        assert mrcfile.validate(str(tmp_path / "o.mrc"))


@pytest.mark.parametrize("unit", ["millimeter", "micrometer"])
def test_a_nifti_lies_where_the_volume_lay(tmp_path: Path, unit: Any) -> None:
    s, c = np.sin(0.4), np.cos(0.4)
    place = Geometry((1.5, 0.8, 0.7), unit, (10.0, -20.0, 30.0), ((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)))
    file = voxweft.export(stored(tmp_path, "uint8", place=place), str(tmp_path / "o.nii.gz"))
    found = voxweft.open_volume(file).info.geometry
    assert found.unit == unit
    for index in ((0, 0, 0), (3, 5, 7), (20, 29, 36)):
        assert np.allclose(found.world(index), place.world(index), atol=1e-4)


def test_labels_keep_their_dtype_or_take_the_smallest_that_holds_them(tmp_path: Path) -> None:
    url = stored(tmp_path, "uint32", is_label=True)
    kinds = {e: voxweft.open_volume(voxweft.export(url, str(tmp_path / f"o{e}"))) for e in (".tif", ".nii", ".mrc")}
    assert {e: v.info.dtype for e, v in kinds.items()} == {".tif": "uint32", ".nii": "uint32", ".mrc": "uint16"}
    assert all(np.array_equal(v.read(Box.of(SHAPE)), voxels(url)) for v in kinds.values())


@pytest.mark.parametrize(
    ("made", "ending", "told"),
    [
        ({"dtype": "uint32", "largest": 1 << 20}, ".mrc", "a .mrc cannot hold the values 0 to 10"),
        ({"dtype": "uint8", "n": 2}, ".mrc", "a .mrc holds one channel; choose one of the 2"),
        ({"dtype": "uint8"}, ".png", "a file ends in .ome.tif"),
        ({"dtype": "uint8", "level": 1}, ".tif", "level"),
        ({"dtype": "uint8", "channel": 1}, ".tif", "--channel 1: .* has 1, from 0 on"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, made: Any, ending: Any, told: Any
) -> None:
    asked = {k: made.pop(k) for k in ("level", "channel") if k in made}
    url = stored(tmp_path, **made)
    with pytest.raises(RequestError, match=told):
        voxweft.export(url, str(tmp_path / f"o{ending}"), **asked)
    assert {p.name for p in tmp_path.iterdir()} <= {"out.zarr", "out.zarr.voxweft"}


def test_no_more_planes_are_held_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A band is at most a chunk deep, and shallower where its planes are large."""
    url, seen = stored(tmp_path, "uint8"), list[Event]()
    volume = voxweft.open_volume(url)
    image = outgoing.Outgoing((volume,), "uint8")
    assert {len(band) for band in image.bands()} == {8, 5}
    monkeypatch.setattr(outgoing, "BAND_BYTES", 3 * 30 * 37)
    assert {len(band) for band in image.bands()} == {3}
    file = voxweft.export(url, str(tmp_path / "o.tif"), emit=seen.append)
    assert np.array_equal(voxels(file), voxels(url))
    assert [e.data["n_done"] for e in seen] == [3, 6, 9, 12, 15, 18, 21]
