"""The output is valid OME-Zarr 0.5 that other readers understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray

import voxweft as package
from conftest import Voxweft
from voxweft.geometry.box import Box
from voxweft.image import Geometry, OutputSpec
from voxweft.ops.halve import halve


def test_the_output_of_a_run_is_valid_and_keeps_the_voxel_size(
    voxweft: Voxweft, tmp_path: Path, image: NDArray[Any]
) -> None:
    big = np.tile(image, (3, 5, 4))[:140, :300, :280]
    zarr.create_array(str(tmp_path / "in.zarr/s0"), data=big, chunks=(32, 64, 64), zarr_format=2)
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [40.0, 8.0, 8.0]}, {"type": "translation", "translation": [400.0, 80.0, 0.0]}]
    level = {"path": "s0", "coordinateTransformations": steps}
    (tmp_path / "in.zarr/.zgroup").write_text('{"zarr_format": 2}')
    scales = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": [level]}]}
    (tmp_path / "in.zarr/.zattrs").write_text(json.dumps(scales))
    voxweft("run", "in.zarr", "o.zarr", "--model", "fake://null?patch=32,32,32&classes=3", "--chunk", "32,64,64")

    yaozarrs.validate_zarr_store(str(tmp_path / "o.zarr"))
    ome = json.loads((tmp_path / "o.zarr/zarr.json").read_text())["attributes"]["ome"]
    (scales,) = ome["multiscales"]
    assert [a["name"] for a in scales["axes"]] == ["c", "z", "y", "x"]
    assert scales["axes"][1]["unit"] == "nanometer"
    assert scales["name"] == "o"
    assert [c["label"] for c in ome["omero"]["channels"]] == ["background", "class 1", "class 2"]
    first, second, *_ = (d["coordinateTransformations"] for d in scales["datasets"])
    assert first[0]["scale"] == [1.0, 40.0, 8.0, 8.0]
    assert first[1]["translation"] == [0.0, 400.0, 80.0, 0.0]
    assert second[0]["scale"] == [1.0, 40.0, 16.0, 16.0]
    assert second[1]["translation"] == [0.0, 400.0, 84.0, 4.0]
    fine, coarse = (zarr.open(str(tmp_path / "o.zarr" / str(k)), mode="r") for k in (0, 1))
    assert coarse.shape == (3, 140, 150, 140)  # the planes are thick, and stay
    assert np.abs(coarse[1, 5, 6, 7].astype(int) - fine[1, 5, 12:14, 14:16].mean()) <= 1
    assert [d["coordinateTransformations"][0]["scale"][1:] for d in scales["datasets"]] == [
        [40, 8, 8],
        [40, 16, 16],
        [40, 32, 32],
        [80, 64, 64],
        [160, 128, 128],
    ]
    assert fine.chunks == (1, 32, 64, 64)
    assert fine.shards[0] == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_labels_are_valid_and_said_to_be_labels(tmp_path: Path, dtype: Any) -> None:
    big = np.iinfo(dtype).max
    labels = np.where(np.arange(40 * 300).reshape(1, 1, 40, 300) % 3, 7, big).astype(dtype)
    sink = package.open_sink(str(tmp_path / "l.zarr"))
    sink.create(OutputSpec((1, 40, 300), 1, dtype, (1, 16, 64), (1, 32, 64), is_label=True))
    sink.write(Box.of((1, 40, 300)), labels)
    sink.write(Box.of((1, 20, 150)), halve(labels, "nearest"), 1)

    yaozarrs.validate_zarr_store(str(tmp_path / "l.zarr"))
    found = yaozarrs.v05.LabelImage.model_validate(
        json.loads((tmp_path / "l.zarr/zarr.json").read_text())["attributes"]["ome"]
    )
    assert found.multiscales[0].type == "nearest"
    spec = package.open_sink(str(tmp_path / "l.zarr")).open()
    assert spec.is_label and spec.dtype == dtype
    fine, coarse = (package.open_volume(tmp_path / "l.zarr", level=k) for k in (0, 1))
    assert fine.info.is_label and coarse.info.is_label
    assert np.array_equal(fine.read(Box.of((1, 40, 300))), labels)
    assert np.array_equal(coarse.read(Box.of((1, 20, 150))), labels[:, :, ::2, ::2])


def test_an_image_is_not_said_to_be_labels(tmp_path: Path) -> None:
    sink = package.open_sink(str(tmp_path / "i.zarr"))
    sink.create(OutputSpec((8, 8, 8), 1, "uint8", (8, 8, 8), (8, 8, 8)))
    assert not sink.open().is_label
    assert not package.open_volume(tmp_path / "i.zarr").info.is_label


def test_the_labels_of_a_run_are_refused_as_an_image(voxweft: Voxweft, tmp_path: Path, image: NDArray[Any]) -> None:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(32, 32, 32), dtype="u1")[:] = image
    model = ("--model", "fake://blur?patch=16,16,16&classes=3", "--runtime", "torch", "--chunk", "16,32,32")
    voxweft("run", "in.zarr", "l.zarr", *model, "--output", "labels")
    yaozarrs.validate_zarr_store(str(tmp_path / "l.zarr"))
    done = voxweft("run", "l.zarr", "o.zarr", *model, code=2)
    assert "its metadata says so" in done.stderr


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_turned_volume_keeps_its_place_through_store_and_levels(tmp_path: Path, order: Any) -> None:
    s, c = np.sin(0.4), np.cos(0.4)
    place = Geometry((4.0, 2.0, 1.0), "nanometer", (10.0, -20.0, 30.0), ((1, 0, 0), (0.0, c, -s), (0.0, s, c)))
    sink = package.open_sink(str(tmp_path / "t.zarr"), order=order)
    sink.create(OutputSpec((9, 30, 600), 1, "uint8", (16, 16, 64), (16, 32, 64), geometry=place))
    sink.set_attributes({"voxweft": {"version": "x"}})

    yaozarrs.validate_zarr_store(str(tmp_path / "t.zarr"))
    found = package.open_sink(str(tmp_path / "t.zarr"), order=order).open().geometry
    assert np.allclose(found.world((3, 5, 7)), place.world((3, 5, 7)))
    assert found == place
    for level in (1, 2):
        stored = package.open_volume(tmp_path / "t.zarr", level=level).info.geometry
        k, inside = 2**level, (2**level - 1) / 2
        coarse, fine = (2, 3, 5), tuple(i * k + inside for i in (2, 3, 5))
        assert np.allclose(stored.world([coarse[axis] for axis in order]), place.world(fine))
    assert zarr.open_group(str(tmp_path / "t.zarr"), mode="r").attrs["voxweft"]["version"] == "x"


def test_each_stored_file_is_written_once(tmp_path: Path, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counted in the store and on the disk: no shard is written twice, no chunk of the input read twice."""
    from collections import Counter

    from zarr.storage import LocalStore

    from voxweft.apps.run import run
    from voxweft.runner.execution import Execution

    puts, gets = Counter[str](), Counter[str]()
    put, read_bytes = LocalStore.set, Path.read_bytes

    async def counted_put(self: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        puts[key] += "/c/" in key
        return await put(self, key, value, *args, **kwargs)

    def counted_read(self: Path) -> bytes:
        gets[str(self)] += "/in.zarr/c/" in str(self)
        return read_bytes(self)

    monkeypatch.setattr(LocalStore, "set", counted_put)
    monkeypatch.setattr(Path, "read_bytes", counted_read)
    big = np.tile(image, (3, 5, 4))[:140, :300, :280]
    source = zarr.create_array(str(tmp_path / "in.zarr"), shape=big.shape, chunks=(32, 64, 64), dtype="uint8")
    source[:] = big
    puts.clear()
    gets.clear()
    volume = package.open_volume(tmp_path / "in.zarr")
    options = package.RunOptions(chunk="32,64,64", runtime="torch", pyramid=False)
    run(volume, str(tmp_path / "o.zarr"), "fake://null?patch=32,32,32", options, execution=Execution())
    shards = [k for k, n in puts.items() if n]
    assert len(shards) == 5 * 2 * 2
    assert {puts[k] for k in shards} == {1}
    chunks = [k for k, n in gets.items() if n]
    assert len(chunks) == 5 * 5 * 5
    extra = {k: n for k, n in gets.items() if n > 1}
    assert len(extra) <= 16, "only the chunks that are looked at beforehand are read twice"
