"""Surfaces of segments: three formats, one surface; volumes along them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

import voxweft
from segments import Given, plane, write_obj, write_ppm
from servers import environment, upload
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image import VolumeRef, volume_ref
from voxweft.ops.surface import grid_normals
from voxweft.stores import open_ref
from voxweft.stores.segments import Flattened, SurfaceMask, open_segment
from voxweft.stores.surface import survey
from voxweft.testing.roll import Roll, write_tifxyz

tifffile = pytest.importorskip("tifffile")
ROLL = Roll(30, 70, 6, radius=60.0)


def cylinder() -> NDArray[Any]:
    """With a hole in it."""
    points = ROLL.points()
    points[:, 8:14, 20:29] = np.nan
    return points


def write_all(folder: Path, points: NDArray[Any]) -> list[Any]:
    """The same points as tifxyz, obj and ppm, opened."""
    write_tifxyz(folder / "tifxyz", points)
    write_obj(folder / "mesh.obj", points)
    write_ppm(folder / "map.ppm", points, grid_normals(points))
    return [open_segment(str(folder / name)) for name in ("tifxyz", "mesh.obj", "map.ppm")]


@pytest.mark.parametrize("points", [plane(), cylinder()], ids=["plane", "cylinder"])
def test_three_formats_are_one_surface(tmp_path: Path, points: NDArray[Any]) -> None:
    for surface in write_all(tmp_path, points):
        rows, columns = surface.info.shape
        assert (rows, columns) == points.shape[1:]
        found = surface.points(0, rows)
        assert np.array_equal(np.isnan(found), np.isnan(points)), surface.info.format
        np.testing.assert_allclose(found, points, atol=1e-3)
        np.testing.assert_array_equal(surface.points(5, 12, 15, 31), found[:, 5:12, 15:31])
        normals = surface.normals(0, rows)
        np.testing.assert_allclose(normals, grid_normals(points), atol=2e-3)
        np.testing.assert_allclose(surface.normals(5, 12, 15, 31), normals[:, 5:12, 15:31], atol=1e-6)


def test_normals_of_a_cylinder_point_outwards_where_layers_grow() -> None:
    points = ROLL.points()
    normals = grid_normals(points)
    angle = (np.arange(70) - 34.5) / 60
    outwards = np.stack([np.zeros(70), np.cos(angle), np.sin(angle)])
    assert np.abs(normals - outwards[:, np.newaxis]).max() < 0.02


def test_a_coarse_grid_gives_the_points_between(tmp_path: Path) -> None:
    points = plane(41, 61)
    write_tifxyz(tmp_path / "seg", points, 0.25)
    write_obj(tmp_path / "seg.obj", points, step=4)
    assert open_segment(str(tmp_path / "seg")).info.shape == (11, 16)
    volume = voxweft.open_volume(np.arange(60 * 60 * 90, dtype=np.float32).reshape(60, 60, 90))
    wanted = Flattened(str(tmp_path / "seg.obj"), volume, depth=3).read(Box.of((3, 41, 61)))
    found = Flattened(str(tmp_path / "seg"), volume, depth=3)
    assert found.info.shape_zyx == (3, 44, 64)  # a step of the grid a point
    np.testing.assert_allclose(found.read(Box.of((3, 41, 61))), wanted, rtol=1e-4)
    assert not found.read(Box((0, 41, 0), (3, 44, 64))).any()  # beyond the last points


def test_texture_coordinates_of_a_picture_become_voxels(tmp_path: Path) -> None:
    points = ROLL.points()
    write_obj(tmp_path / "seg.obj", points, normalized=True)
    surface = open_segment(str(tmp_path / "seg.obj"))
    assert np.abs(np.array(surface.info.shape) - points.shape[1:]).max() <= 1
    found = surface.points(0, 30)
    assert np.nanmax(np.abs(found[:, :30, :69] - points[:, :30, :69])) < 1


def linear(z: Any, y: Any, x: Any) -> Any:
    return 3 + 2.0 * z + 0.5 * y - 0.25 * x


@pytest.mark.parametrize("level", [0, 1])
def test_a_flattened_volume_has_the_values_of_the_places(tmp_path: Path, level: int) -> None:
    points = plane()
    write_tifxyz(tmp_path / "seg", points)
    z, y, x = np.mgrid[:64, :64, :80].astype(np.float32)
    values = linear(z, y, x)
    if level:  # what a voxel of the next level stands for
        values = values.reshape(32, 2, 32, 2, 40, 2).mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)
    volume = voxweft.open_volume(values)
    seen = Flattened(str(tmp_path / "seg"), volume, level=level, depth=5, step=0.5, spacing=1 / 2**level)
    found = seen.read(Box.of(seen.info.shape_zyx))
    away = (np.arange(5) - 2) * 0.5 * 2**level
    places = points[:, np.newaxis] + away[:, np.newaxis, np.newaxis] * grid_normals(points)[:, np.newaxis]
    np.testing.assert_allclose(found[0], linear(*places), atol=2e-3)
    nearest = Flattened(str(tmp_path / "seg"), volume, level=level, depth=1, interpolation="nearest")
    assert np.isin(nearest.read(Box.of(nearest.info.shape_zyx)), values).all()


def test_only_chunks_that_are_touched_are_read_and_none_twice(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    points = cylinder()
    write_tifxyz(tmp_path / "seg", points)
    zarr.create_array(str(tmp_path / "v.zarr"), shape=ROLL.shape_zyx, chunks=(8, 8, 8), dtype="u1")[:] = 7
    volume = voxweft.open_volume(tmp_path / "v.zarr")
    read, inner = [], volume.read
    volume.read = lambda box: read.append(box.start) or inner(box)
    seen = Flattened(str(tmp_path / "seg"), volume, depth=1)
    found = seen.read(Box.of(seen.info.shape_zyx))[0, 0]
    there = ~np.isnan(points[0])
    assert np.array_equal(found, np.where(there, 7, 0))
    corners = np.floor(points[:, there])[:, :, np.newaxis] + np.array(list(np.ndindex(2, 2, 2))).T[:, np.newaxis]
    wanted = {tuple(n) for n in (corners.reshape(3, -1).T // 8 * 8).astype(int).tolist()}
    assert set(read) <= wanted
    assert len(read) == len(set(read))


def test_references_open_the_same_again(tmp_path: Path, image: NDArray[Any]) -> None:
    zarr = pytest.importorskip("zarr")
    write_tifxyz(tmp_path / "seg", plane())
    zarr.create_array(str(tmp_path / "v.zarr"), shape=image.shape, chunks=(16, 16, 16), dtype="u1")[:] = image
    adapter = TypeAdapter(VolumeRef)
    volume = voxweft.open_volume(tmp_path / "v.zarr")
    for made in (
        Flattened(str(tmp_path / "seg"), volume, depth=4, spacing=2.0),
        SurfaceMask(str(tmp_path / "seg"), 0, "16,16,16", "50,61,72", 1),
    ):
        again = open_ref(adapter.validate_json(adapter.dump_json(volume_ref(made))))
        box = Box.of(made.info.shape_zyx)
        assert again.info == made.info
        assert np.array_equal(again.read(box), made.read(box))


def test_segments_on_a_server_are_the_same(tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    points = cylinder()
    here = write_all(tmp_path, points)
    upload(s3, tmp_path, "segment")
    for name, value in environment(s3).items():
        monkeypatch.setenv(name, value)
    there = [open_segment(f"s3://bucket/segment/{name}") for name in ("tifxyz", "mesh.obj", "map.ppm")]
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.points(3, 20), other.points(3, 20), equal_nan=True)
    for name in ("nowhere", "nowhere.ppm", "nowhere.obj"):
        with pytest.raises(VolumeError, match="nowhere"):
            open_segment(f"s3://bucket/{name}")


def test_points_outside_the_volume_are_counted() -> None:
    points = np.array([[[1, 5]], [[1, 5]], [[1, 25]]], float)
    found = survey(Given(points), 1, (4, 4, 4), (8, 8, 8))
    assert (found.n_points, found.n_inside) == (2, 1)
    assert np.argwhere(found.cells).tolist() == [[0, 0, 0]]


def test_what_is_no_segment_is_refused_in_a_line(tmp_path: Path) -> None:
    points = plane(6, 7)
    write_tifxyz(tmp_path / "short", points)
    (tmp_path / "short/y.tif").unlink()
    write_tifxyz(tmp_path / "unequal", points)
    tifffile.imwrite(tmp_path / "unequal/y.tif", np.zeros((5, 7), np.float32))
    write_tifxyz(tmp_path / "cut", points)
    (tmp_path / "cut/x.tif").write_bytes(b"II*\0")
    write_tifxyz(tmp_path / "whole", points)
    tifffile.imwrite(tmp_path / "whole/x.tif", np.zeros((6, 7), np.uint8))
    write_tifxyz(tmp_path / "scaled", points)
    (tmp_path / "scaled/meta.json").write_text('{"scale": [0, 1]}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "wrong.obj").write_text("v 0 0 0\nvt 0 0\nf 1/1 2/2 3/3\n")
    write_ppm(tmp_path / "cut.ppm", points, points)
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "cut.ppm").read_bytes()[:-8])
    (tmp_path / "picture.ppm").write_bytes(b"P6 3 3 255\n" + bytes(27))
    said = {
        "short": "y.tif is missing",
        "unequal": "x.tif 6 x 7, y.tif 5 x 7",
        "cut": "no readable TIFF",
        "whole": "uint8",
        "scaled": "scale of 0.0",
        "empty": "no segment",
        "nowhere": "no segment",
        "flat.obj": "texture coordinates",
        "wrong.obj": "not there",
        "cut.ppm": "is cut",
        "picture.ppm": "no ppm of volume-cartographer",
    }
    for name, words in said.items():
        with pytest.raises(VolumeError, match=words):
            open_segment(str(tmp_path / name))
    with pytest.raises(RequestError, match="cannot be"):
        Flattened(str(tmp_path / "flat.obj"), voxweft.open_volume(np.zeros((3, 3, 3))), depth=0)
