"""A sweep that visits only what its mask touches gives what a sweep of the whole volume under that mask gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import voxweft
from voxweft import Box, Execution, RunOptions
from voxweft.apps.scroll import finalize
from voxweft.apps.scroll.options import ClassOptions, FinalizeOptions
from voxweft.errors import IncompleteError, RequestError
from voxweft.image import VolumeInfo
from voxweft.runner.verify import verify
from voxweft.stores.memory import MemoryVolume

BLUR = "fake://blur?patch=12,16,20&normalization=instance_zscore"
SHAPE = (50, 61, 72)


class Counting:
    """A volume that notes which boxes were read."""

    def __init__(self, values: np.ndarray[Any, Any], chunk: tuple[int, int, int]) -> None:
        self._volume, self.boxes = MemoryVolume(values), list[Box]()
        self.info = VolumeInfo("counted", "memory", values.shape, str(values.dtype), chunk_zyx=chunk)

    def read(self, box: Box) -> np.ndarray[Any, Any]:
        """Its voxels."""
        self.boxes.append(box)
        return self._volume.read(box)


def image() -> np.ndarray[Any, Any]:
    values = np.random.default_rng(3).integers(1, 255, SHAPE, dtype=np.uint8)
    values[10:40, 20:50, 20:60] = 9  # patches of equal voxels are left out
    return values


def put(path: Path, values: np.ndarray[Any, Any], chunk: tuple[int, int, int]) -> str:
    zarr.create_array(str(path), shape=values.shape, chunks=chunk, dtype=values.dtype, overwrite=True)[:] = values
    return str(path)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_same_bits_as_the_whole_sweep(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sparse")
    scale = data.draw(st.sampled_from([(16, 16, 16), (1, 1, 1), (8, 4, 2)]))
    shape = tuple(-(-n // k) for n, k in zip(SHAPE, scale, strict=True))
    mask = np.zeros(shape, np.uint8)
    for _ in range(data.draw(st.integers(1, 3))):
        corner = [data.draw(st.integers(0, n - 1)) for n in shape]
        size = [data.draw(st.integers(1, max(1, n // 3))) for n in shape]
        mask[tuple(slice(a, a + s) for a, s in zip(corner, size, strict=True))] = 1
    more = data.draw(
        st.sampled_from([{}, {"tta": "mirroring", "tta_of": "volume"}, {"bbox": "5:45,3:60,10:70"}, {"output": "mask"}])
    )
    n_parts = data.draw(st.sampled_from([0, 2, 3]))
    source, where = put(folder / "in.zarr", image(), (16, 16, 16)), put(folder / "mask.zarr", mask, shape)
    found: list[Any] = []
    for sparse in (False, True):
        options = RunOptions(mask=where, chunk="16,16,16", runtime="torch", sparse=sparse, **more)
        target = str(folder / f"out{sparse}.zarr")
        try:
            voxweft.run(source, target, BLUR, options, execution=Execution("serial", num_parts=n_parts))
        except RequestError as error:
            assert sparse and "0 everywhere" in str(error)
            assert not np.any(found[0])
            return
        found.append(zarr.open_group(target)["0"][:])
        verify(target)
    np.testing.assert_array_equal(*found)


def test_every_chunk_is_read_once_and_only_where_patches_lie() -> None:
    values, mask = image(), np.zeros((4, 4, 5), np.uint8)
    mask[1, 2, 1:3] = 1
    volume, sink = Counting(values, (16, 16, 16)), voxweft.open_sink("memory://")
    opened = voxweft.runner.planning.plan_run(
        volume,
        [voxweft.load_model(BLUR)],
        RunOptions(mask="given", sparse=True, chunk="16,16,16", runtime="torch"),
        mask=MemoryVolume(mask),
    )
    wanted = opened.plan.sweep
    volume.boxes.clear()
    workers = voxweft.runner.workers.Workers.of(Execution("serial"), ["cpu"])
    place = voxweft.runner.place.Place.of(sink)
    voxweft.runner.run.run_plan(opened, place, workers, Execution("serial"), lambda _event: None)
    assert len(volume.boxes) == len(set(map(str, volume.boxes)))
    inside = Box((16, 32, 16), (32, 48, 48))
    reach = wanted.reach(inside)
    assert volume.boxes
    assert all((box & Box(tuple(a // 16 * 16 for a in reach.start), reach.stop)).n_voxels for box in volume.boxes)
    assert len(volume.boxes) < 4 * 4 * 5 / 2


def test_only_active_chunks_are_stored_at_every_level(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 255, (600, 64, 64), dtype=np.uint8)
    mask = np.zeros((600 // 25, 4, 4), np.uint8)
    mask[3, 1, 1] = 1
    source, where = put(tmp_path / "in.zarr", values, (25, 16, 16)), put(tmp_path / "m.zarr", mask, mask.shape)
    options = RunOptions(mask=where, chunk="25,16,16", runtime="torch", sparse=True)
    report = voxweft.run(source, str(tmp_path / "out.zarr"), "fake://null?patch=16,16,16&classes=1", options)
    stored = {f.relative_to(tmp_path / "out.zarr").parts[0] for f in (tmp_path / "out.zarr").glob("*/c/*/*/*")}
    n_stored = [len(list((tmp_path / "out.zarr" / level / "c").glob("*/*/*"))) for level in ("0", "1")]
    assert report.status == "complete"
    assert stored >= {"0", "1"}
    assert n_stored == [1, 1]


def test_a_chunk_that_changed_is_found(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 5), np.uint8)
    mask[1, 2, 1:3] = 1
    source, where = put(tmp_path / "in.zarr", image(), (16, 16, 16)), put(tmp_path / "m.zarr", mask, mask.shape)
    options = RunOptions(mask=where, chunk="16,16,16", runtime="torch", sparse=True)
    target = str(tmp_path / "out.zarr")
    voxweft.run(source, target, BLUR, options)
    before = zarr.open_group(target)["0"][:]
    zarr.open_group(target)["0"][16:32, 32:48, 16:32] = 3
    with pytest.raises(IncompleteError, match="not what was written"):
        verify(target)
    voxweft.run(source, target, BLUR, options)
    np.testing.assert_array_equal(zarr.open_group(target)["0"][:], before)


def test_finalize_looks_only_where_logits_are_stored(tmp_path: Path) -> None:
    """Of 4096 chunks 2 are stored: the others are not visited, and the result is that of all."""
    url, shape = str(tmp_path / "merged.zarr"), (2, 256, 256, 256)
    logits = zarr.create_array(url, shape=shape, chunks=(1, 16, 16, 16), dtype="f2", zarr_format=2)
    values = np.random.default_rng(0).normal(0, 3, (2, 16, 16, 16)).astype(np.float16)
    logits[:, 32:48, 64:80, 128:144] = values
    report = finalize(url, str(tmp_path / "f.zarr"), (ClassOptions(), FinalizeOptions("serial")))
    found = zarr.open_group(str(tmp_path / "f.zarr"))["0"]
    wide = values.astype(np.float64)
    p = 1 / (1 + np.exp(wide[0] - wide[1]))
    assert report.status == "complete"
    assert np.abs(found[32:48, 64:80, 128:144].astype(float) - np.floor(255 * p)).max() <= 1
    assert np.count_nonzero(found[:]) == np.count_nonzero(found[32:48, 64:80, 128:144])
    swept = sum(part["totals"]["bytes_read"] for part in report.parts if part["stage"] == "finalize")
    assert swept == values.nbytes


@pytest.mark.parametrize("more", [{"output": "logits"}, {"mask": ""}])
def test_what_sparse_cannot_do_is_refused(tmp_path: Path, more: dict[str, str]) -> None:
    mask = put(tmp_path / "m.zarr", np.ones((4, 4, 5), np.uint8), (4, 4, 5))
    options = RunOptions(**{"mask": mask, "chunk": "16,16,16", "sparse": True, **more})
    with pytest.raises(RequestError, match="--sparse"):
        voxweft.run(image(), voxweft.open_sink("memory://"), BLUR, options)
