"""The output is valid OME-Zarr 0.5 that other readers understand."""

from __future__ import annotations

import json

import numpy as np
import yaozarrs
import zarr


def test_the_output_of_a_run_is_valid_and_keeps_the_voxel_size(voxweft, tmp_path, image):
    big = np.tile(image, (3, 5, 4))[:140, :300, :280]
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="w", zarr_format=2)
    group.create_array("s0", shape=big.shape, chunks=(32, 64, 64), dtype="uint8")[:] = big
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [40.0, 8.0, 8.0]}, {"type": "translation", "translation": [400.0, 80.0, 0.0]}]
    level = {"path": "s0", "coordinateTransformations": steps}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    voxweft("run", "in.zarr", "o.zarr", "--model", "fake://null?patch=32,32,32&classes=3", "--chunk", "32,64,64")

    yaozarrs.validate_zarr_store(str(tmp_path / "o.zarr"))
    ome = json.loads((tmp_path / "o.zarr/zarr.json").read_text())["attributes"]["ome"]
    (scales,) = ome["multiscales"]
    assert [a["name"] for a in scales["axes"]] == ["c", "z", "y", "x"]
    assert scales["axes"][1]["unit"] == "nanometer"
    first, second = (d["coordinateTransformations"] for d in scales["datasets"])
    assert first[0]["scale"] == [1.0, 40.0, 8.0, 8.0]
    assert first[1]["translation"] == [0.0, 400.0, 80.0, 0.0]
    assert second[0]["scale"] == [1.0, 80.0, 16.0, 16.0]
    assert second[1]["translation"] == [0.0, 420.0, 84.0, 4.0]
    fine, coarse = (zarr.open(str(tmp_path / "o.zarr" / str(k)), mode="r") for k in (0, 1))
    assert coarse.shape == (3, 70, 150, 140)
    assert np.abs(coarse[1, 5, 6, 7].astype(int) - fine[1, 10:12, 12:14, 14:16].mean()) <= 1
    assert fine.chunks == (1, 32, 64, 64)
    assert fine.shards[0] == 1


def test_each_stored_file_is_written_once(tmp_path, image, monkeypatch):
    """Counted in the store itself: no shard of any level is written twice, none is read while writing."""
    from collections import Counter

    from zarr.storage import LocalStore

    import voxweft as package
    from voxweft.apps.execute import Execution
    from voxweft.apps.run import run

    puts, gets = Counter(), Counter()
    put, get = LocalStore.set, LocalStore.get

    async def counted_put(self, key, value, *args, **kwargs):
        puts[key] += "/c/" in key
        return await put(self, key, value, *args, **kwargs)

    async def counted_get(self, key, *args, **kwargs):
        gets[key] += key.startswith("c/")  # of the input; those of the output begin with the level
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "set", counted_put)
    monkeypatch.setattr(LocalStore, "get", counted_get)
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
