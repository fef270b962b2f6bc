"""Ink in the frame of the scroll: voxweft ink volume, and voxweft ink flatten, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from conftest import Voxweft
from segments import Given, write_obj, write_ppm
from voxweft.geometry.box import Box
from voxweft.image.info import Geometry, OutputSpec
from voxweft.ops.surface import grid_normals
from voxweft.stores import open_sink, open_volume
from voxweft.stores.segments import Flattened
from voxweft.stores.surface import surface_cells
from voxweft.testing.roll import Roll, write_tifxyz

pytest.importorskip("tifffile")
ROLL, CHUNK = Roll(40, 100, 8, radius=60.0, margin=20), 16
BLUR = ("--model", "fake://blur?patch=16,16,16&classes=1", "--runtime", "torch")


@pytest.fixture
def scroll(tmp_path: Path) -> NDArray[Any]:
    """scroll.zarr of 2.4 micrometres, chunks of 16, and the segment seg on it."""
    rng = np.random.default_rng(2)
    values = ROLL.lay(rng.integers(60, 200, (8, 40, 100), dtype=np.uint8))
    sink, shape = open_sink(str(tmp_path / "scroll.zarr")), ROLL.shape_zyx
    geometry = Geometry((2.4, 2.4, 2.4), "micrometer")
    sink.create(OutputSpec(shape, 1, "uint8", (CHUNK,) * 3, (CHUNK,) * 3, geometry=geometry, pyramid="none"))
    sink.write(Box.of(shape), values[np.newaxis])
    write_tifxyz(tmp_path / "seg", ROLL.points(), 0.5, source="/elsewhere/scroll.zarr\n")
    return values


def read(path: Path, level: int = 0) -> NDArray[Any]:
    return zarr.open(path, mode="r")[str(level)][:]


def dense(halo: int, step: int = 2) -> NDArray[Any]:
    """Voxels of the chunks of the segment, and of those around them."""
    cells = surface_cells(Given(ROLL.points()[:, ::step, ::step]), 0, (CHUNK,) * 3, ROLL.shape_zyx, halo)
    z, y, x = ROLL.shape_zyx
    return np.kron(cells, np.ones((CHUNK,) * 3, np.uint8))[:z, :y, :x]


def test_a_surface_is_a_mask_of_chunks_in_any_number_of_parts(
    tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft
) -> None:
    mask = dense(1)
    assert 0.1 < mask.mean() < 0.95
    zarr.create_array(str(tmp_path / "mask.zarr"), data=mask, chunks=(CHUNK,) * 3)
    voxweft("ink", "volume", "scroll.zarr", "one.zarr", *BLUR, "--surface", "seg")
    voxweft("ink", "volume", "scroll.zarr", "masked.zarr", *BLUR, "--mask", "mask.zarr")
    found = read(tmp_path / "one.zarr")
    assert len(np.unique(found)) > 30
    assert not found[mask == 0].any()
    assert np.array_equal(found, read(tmp_path / "masked.zarr"))
    array = zarr.open(tmp_path / "one.zarr", mode="r")["0"]
    for file in (tmp_path / "one.zarr/0/c").rglob("*"):
        if file.is_file():  # nothing is stored far from the surface
            index = [int(n) for n in file.relative_to(tmp_path / "one.zarr/0/c").parts]
            stored = [slice(i * n, (i + 1) * n) for i, n in zip(index, array.shards or array.chunks, strict=True)]
            assert mask[tuple(stored)].any()
    for part in (2, 0, 1):
        voxweft(
            "ink", "volume", "scroll.zarr", "parts.zarr", *BLUR, "--surface", "seg", "--num-parts", 3, "--part-id", part
        )
    group = zarr.open(tmp_path / "parts.zarr", mode="r")
    assert sorted(group.array_keys()) == [str(n) for n in range(6)]
    for level in range(6):
        assert np.array_equal(read(tmp_path / "parts.zarr", level), read(tmp_path / "one.zarr", level))
    steps = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert steps[0]["scale"] == [2.4, 2.4, 2.4]
    voxweft("verify", "parts.zarr")


def test_what_is_written_of_touched_chunks_does_not_depend_on_those_around(
    tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft
) -> None:
    write_obj(tmp_path / "seg.obj", ROLL.points())
    voxweft("ink", "volume", "scroll.zarr", "all.zarr", *BLUR, "--surface", "seg")
    voxweft("ink", "volume", "scroll.zarr", "own.zarr", *BLUR, "--surface", "seg.obj", "--write-region", "occupied")
    own = dense(0, step=1) > 0
    assert own.sum() < (dense(1) > 0).sum()
    found = read(tmp_path / "own.zarr")
    assert not found[~own].any()
    assert np.array_equal(found[own], read(tmp_path / "all.zarr")[own])


def test_a_coarser_level_lies_where_the_finer_one_does(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    z, y, x = (n // 2 * 2 for n in scroll.shape)
    coarse = scroll[:z, :y, :x].reshape(z // 2, 2, y // 2, 2, x // 2, 2).mean(axis=(1, 3, 5)).astype(np.uint8)
    group = zarr.open(tmp_path / "two.zarr", mode="w")
    for n, values in enumerate((scroll, coarse)):
        group.create_array(str(n), data=values, chunks=(CHUNK,) * 3)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    datasets: Any = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [2.4 * 2**n] * 3}]} for n in (0, 1)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    voxweft("ink", "volume", "two.zarr", "out.zarr", *BLUR, "--surface", "seg", "--level", 1)
    steps = zarr.open(tmp_path / "out.zarr", mode="r").attrs["ome"]["multiscales"][0]["datasets"][0]
    assert steps["coordinateTransformations"][0]["scale"] == [4.8, 4.8, 4.8]
    found = read(tmp_path / "out.zarr")
    cells = surface_cells(Given(ROLL.points()[:, ::2, ::2]), 1, (CHUNK,) * 3, coarse.shape, 1)
    wanted = np.kron(cells, np.ones((CHUNK,) * 3, np.uint8))[tuple(map(slice, coarse.shape))]
    assert not found[wanted == 0].any()
    assert found[wanted > 0].mean() > 10


def test_the_plan_counts_what_lies_near(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    done = voxweft("ink", "volume", "scroll.zarr", "--plan-only", *BLUR, "--surface", "seg", "--chunk-halo", 0)
    near, whole = (
        next(int(n) for n in row.split() if n.isdecimal())
        for name in ("patches", "grid")
        for row in done.stdout.splitlines()
        if row.startswith(name)
    )
    mask, starts = dense(0), [[*range(0, n - 16, 8), n - 16] for n in ROLL.shape_zyx]
    boxes = [(z, y, x) for z in starts[0] for y in starts[1] for x in starts[2]]
    assert whole == len(boxes)
    assert near == sum(mask[z : z + 16, y : y + 16, x : x + 16].any() for z, y, x in boxes)
    assert not (tmp_path / "out.zarr").exists()


def test_flattened_pictures_and_layers(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    voxweft("ink", "flatten", "scroll.zarr", "seg", "flat.png", "--depth", 5)
    picture = np.asarray(Image.open(tmp_path / "flat.png"))
    assert picture.shape == (40, 100)
    assert np.array_equal(picture, read(tmp_path / "flat.zarr")[0])
    voxweft("ink", "flatten", "scroll.zarr", "seg", "layers.zarr", "--depth", 5, "--reduce", "none", "--workers", 2)
    layers = read(tmp_path / "layers.zarr")
    assert np.array_equal(layers.max(axis=0), picture)
    about = dict(zarr.open(tmp_path / "layers.zarr", mode="r").attrs)["voxweft"]
    assert about["layers"] == [0, 5] and about["complete"]
    voxweft("ink", "flatten", "scroll.zarr", "seg", "mean.tif", "--depth", 5, "--reduce", "mean")
    tifffile = pytest.importorskip("tifffile")
    mean = tifffile.imread(tmp_path / "mean.tif").astype(float)
    assert np.abs(mean - layers.mean(axis=0)).max() <= 1  # of layers that are rounded themselves


def test_layers_of_a_scroll_are_what_ink_infer_takes(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    voxweft("ink", "flatten", "scroll.zarr", "seg", "layers.zarr", "--depth", 12, "--reduce", "none")
    window = ("--start-layer", 0, "--end-layer", 12, "--stride", 16, "--zarr-output-dir", ".", "--runtime-dir", ".")
    voxweft("ink", "infer", "layers.zarr", "ink.png", "--model", "demo-ink", *window)
    assert np.asarray(Image.open(tmp_path / "ink.png")).shape == (40, 100)


def test_requests_that_are_wrong_are_refused_before_anything_is_written(
    tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft
) -> None:
    points = ROLL.points()
    write_tifxyz(tmp_path / "far", points + 1000)
    write_tifxyz(tmp_path / "partly", points + np.array([0, 0, 80], np.float32).reshape(3, 1, 1))
    write_tifxyz(tmp_path / "none", points)
    for axis in "xyz":
        __import__("tifffile").imwrite(tmp_path / f"none/{axis}.tif", np.full((40, 100), -1, np.float32))
    write_tifxyz(tmp_path / "other", points, source="s3://scrolls/other.zarr")
    zarr.create_array(str(tmp_path / "odd.zarr"), data=np.ones((50, 3, 3), np.uint8))
    run = ("ink", "volume", "scroll.zarr", "out.zarr", *BLUR)
    two = ("--model", "fake://null?patch=16,16,16&inputs=2")
    refused = [
        ((*run,), "one of --surface SEGMENT and --mask"),
        ((*run, "--surface", "seg", "--mask", "odd.zarr"), "one of --surface SEGMENT and --mask"),
        ((*run, "--surface", "nowhere"), "no segment"),
        ((*run, "--surface", "far"), "lies outside scroll.zarr"),
        ((*run, "--surface", "none"), "is empty"),
        ((*run, "--mask", "odd.zarr"), "whole factor"),
        ((*run, "--surface", "seg", "--surface-voxel-size", 9.6), "voxels of 9.6 micrometres"),
        ((*run, "--surface", "seg", "--chunk-halo", -1), "--chunk-halo -1"),
        ((*run, "--surface", "seg", "--write-region", "all"), "expanded, occupied"),
        (("ink", "volume", "scroll.zarr", "out.zarr", *two, "--surface", "seg"), "second channel"),
        (("ink", "flatten", "scroll.zarr", "far", "out.png"), "lies outside"),
        (("ink", "flatten", "scroll.zarr", "seg", "out.jpg"), "must end in"),
        (("ink", "flatten", "scroll.zarr", "seg", "out.png", "--reduce", "none"), "give OUT.zarr"),
        (("ink", "flatten", "scroll.zarr", "seg", "out.png", "--depth", 0, "--step", 0), "--step 0.0 is no distance"),
    ]
    for words, said in refused:
        done = voxweft(*words, code=2)
        assert said in done.stderr, done.stderr
        assert done.stderr.count("\n") <= 3
        assert not [p for p in tmp_path.iterdir() if p.name.startswith("out")]
    done = voxweft(*run, "--surface", "partly", "--surface-voxel-size", 2.4)
    assert "of the points of partly lie outside" in done.stderr
    done = voxweft("ink", "volume", "scroll.zarr", "--estimate", *BLUR, "--surface", "other")
    assert "made on s3://scrolls/other.zarr" in done.stderr
    assert json.loads((tmp_path / "out.zarr.voxweft/report.json").read_text())["status"] == "complete"


def test_a_result_is_never_written_over_what_it_is_made_from(
    tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft
) -> None:
    voxweft("ink", "volume", "scroll.zarr", "ink.zarr", *BLUR, "--surface", "seg", "--quiet")
    before = read(tmp_path / "ink.zarr")
    for more in ((), ("--overwrite",)):
        done = voxweft("ink", "flatten", "ink.zarr", "seg", "ink.png", *more, code=2)
        assert "choose another place" in done.stderr
    assert np.array_equal(read(tmp_path / "ink.zarr"), before)
    assert not (tmp_path / "ink.png").exists()


def test_the_mean_is_rounded_once(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    voxweft("ink", "flatten", "scroll.zarr", "seg", "mean.png", "--depth", 3, "--reduce", "mean", "--step", 0.7)
    seen = Flattened(str(tmp_path / "seg"), open_volume(scroll), depth=3, step=0.7)
    points, normals = seen._grid((0, 40), (0, 100))
    places = [points + (d - 1) * 0.7 * normals for d in range(3)]
    layers = [ndimage.map_coordinates(scroll.astype(float), np.nan_to_num(p), order=1) for p in places]
    found, known = np.asarray(Image.open(tmp_path / "mean.png")), np.isfinite(np.sum(places, axis=(0, 1)))
    assert known.mean() > 0.5
    assert np.abs(found - np.mean(layers, axis=0))[known].max() < 0.51


@pytest.mark.parametrize("line", ["vt nan nan", "vt inf 0", "vt 0", "v 1 1"])
def test_a_mesh_with_broken_numbers_is_refused(
    tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft, line: str
) -> None:
    first = [line if line.split(maxsplit=1)[0] == word.split()[0] else word for word in ("v 1 1 1", "vt 0 0")]
    rest = ["v 9 1 1", "v 1 9 1", "vt 5 0", "vt 0 5", "f 1/1 2/2 3/3"]
    (tmp_path / "bad.obj").write_text("\n".join([*first, *rest]))
    done = voxweft("ink", "flatten", "scroll.zarr", "bad.obj", "bad.png", code=2)
    assert "bad.obj" in done.stderr and len(done.stderr.splitlines()) <= 3


def test_normals_without_length_are_those_of_the_grid(tmp_path: Path, scroll: NDArray[Any], voxweft: Voxweft) -> None:
    points = ROLL.points()
    write_ppm(tmp_path / "zero.ppm", points, np.zeros_like(points))
    write_ppm(tmp_path / "grid.ppm", points, grid_normals(points))
    for name in ("zero", "grid"):
        voxweft("ink", "flatten", "scroll.zarr", f"{name}.ppm", f"{name}.png", "--depth", 5, "--quiet")
    zero, grid = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("zero", "grid"))
    assert grid.any() and np.array_equal(zero, grid)
