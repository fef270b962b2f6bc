"""Every store keeps the contract."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import zarr

import voxweft
from voxweft.image import Permute, Stack
from voxweft.stores.memory import MemoryRecords, MemorySink
from voxweft.stores.segments import Flattened
from voxweft.stores.url import LocalRecords
from voxweft.testing import RecordsContract, SinkContract, VolumeContract
from voxweft.testing.roll import write_tifxyz

RNG = np.random.default_rng(1)
CUBE = RNG.integers(0, 60000, (1, 21, 33, 45)).astype(np.uint16)
MANY = RNG.normal(size=(3, 20, 30, 40)).astype(np.float32)


class TestMemory(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        return voxweft.open_volume(CUBE[0])


class TestZarr2(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        made = zarr.create_array(
            str(tmp_path / "v.zarr"),
            shape=CUBE.shape[1:],
            chunks=(8, 16, 16),
            dtype="u2",
            zarr_format=2,
            overwrite=True,
        )
        made[:] = CUBE[0]
        return voxweft.open_volume(tmp_path / "v.zarr")


class TestShardedZarr3(VolumeContract):
    array = MANY

    def make(self, tmp_path: Path) -> Any:
        made = zarr.create_array(
            str(tmp_path / "v.zarr"),
            shape=MANY.shape,
            chunks=(1, 8, 8, 8),
            shards=(3, 16, 16, 16),
            dtype="f4",
            overwrite=True,
        )
        made[:] = MANY
        return voxweft.open_volume(tmp_path / "v.zarr")


class TestTiff(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        tifffile.imwrite(tmp_path / "v.tif", CUBE[0], compression="zlib")
        return voxweft.open_volume(tmp_path / "v.tif")


class TestFlattened(VolumeContract):
    """Along a plane of constant z, whose normal points to smaller z."""

    array = CUBE[:, ::-1]

    def make(self, tmp_path: Path) -> Any:
        depth, rows, columns = CUBE.shape[1:]
        y, x = np.mgrid[:rows, :columns].astype(np.float32)
        write_tifxyz(tmp_path / "seg", np.stack([np.full_like(x, (depth - 1) / 2), y, x]))
        return Flattened(str(tmp_path / "seg"), voxweft.open_volume(CUBE[0]), depth=depth)


class TestImageJTiff(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        tifffile.imwrite(tmp_path / "v.tif", CUBE[0], imagej=True, metadata={"spacing": 3.0, "unit": "um"})
        return voxweft.open_volume(tmp_path / "v.tif")


class TestTiffFolder(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        (tmp_path / "planes").mkdir(exist_ok=True)
        for z, plane in enumerate(CUBE[0]):
            tifffile.imwrite(tmp_path / "planes" / f"scan2_{z}.tif", plane)  # 10 comes after 9
        return voxweft.open_volume(tmp_path / "planes")


class TestHdf5(VolumeContract):
    array = MANY

    def make(self, tmp_path: Path) -> Any:
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file.create_dataset("volumes/raw", data=MANY, chunks=(1, 8, 8, 8))
            file["volumes/labels"] = CUBE[0]
        return voxweft.open_volume(f"{tmp_path}/v.h5::/volumes/raw")


class TestOmeZarrSink(SinkContract):
    def make(self, tmp_path: Path) -> Any:
        from voxweft.stores.ome_zarr import OmeZarrSink

        return OmeZarrSink(str(tmp_path / "o.zarr"))

    def reopen(self, sink: Any, tmp_path: Path) -> Any:
        return self.make(tmp_path)

    def test_attributes_survive_another_workers_create(self, tmp_path: Path) -> None:
        for n in range(20):
            one, other = (self.make(tmp_path / str(n)) for _ in range(2))
            ready = threading.Barrier(2)

            def create(sink: Any, attributes: Any, ready: Any = ready) -> None:
                ready.wait()
                sink.create(self.spec)
                if attributes:
                    sink.set_attributes(attributes)

            with ThreadPoolExecutor(2) as pool:
                futures = [pool.submit(create, one, {"voxweft": n}), pool.submit(create, other, {})]
            assert [f.result() for f in futures] == [None, None]
            attributes = zarr.open_group(str(tmp_path / str(n) / "o.zarr"), mode="r").attrs
            assert attributes["voxweft"] == n
            assert "ome" in attributes


class TestMemorySink(SinkContract):
    def make(self, tmp_path: Path) -> Any:
        return MemorySink()

    def reopen(self, sink: Any, tmp_path: Path) -> Any:
        return sink


class TestPermutedSink(SinkContract):
    def make(self, tmp_path: Path) -> Any:
        from voxweft.stores.ome_zarr import OmeZarrSink
        from voxweft.stores.permuted import PermutedSink

        return PermutedSink(OmeZarrSink(str(tmp_path / "o.zarr")), (2, 0, 1))

    def reopen(self, sink: Any, tmp_path: Path) -> Any:
        return self.make(tmp_path)


class TestPermuted(VolumeContract):
    array = CUBE

    def make(self, tmp_path: Path) -> Any:
        return Permute((2, 0, 1)).of(voxweft.open_volume(CUBE[0].transpose(1, 2, 0).copy()))


class TestStack(VolumeContract):
    array = MANY

    def make(self, tmp_path: Path) -> Any:
        return Stack([voxweft.open_volume(MANY[:1]), voxweft.open_volume(MANY[1:])])


class TestLocalRecords(RecordsContract):
    def make(self, tmp_path: Path) -> Any:
        return LocalRecords(tmp_path / "records")


class TestMemoryRecords(RecordsContract):
    _one = None

    def make(self, tmp_path: Path) -> Any:
        self._one = self._one or MemoryRecords()
        return self._one
