"""Volumes as one explores them: sliced as numpy does, reading no more than the box, shown without fail."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import voxweft
from voxweft.errors import ReadError
from voxweft.image import Crop, VolumeInfo


class Watched:
    """A volume of another maker, that remembers what was read of it."""

    def __init__(self, array: np.ndarray, chunk: tuple[int, int, int] = (8, 8, 8)) -> None:
        c, z, y, x = array.shape
        self.array, self.read_boxes = array, list[voxweft.Box]()
        self.info = VolumeInfo("watched", "test", (z, y, x), array.dtype.name, n_channels=c, chunk_zyx=chunk)

    def read(self, box: voxweft.Box) -> np.ndarray:
        self.read_boxes.append(box)
        return self.array[(slice(None), *box.slices)]


def _index(n: int, rng: random.Random) -> int | slice:
    if rng.random() < 0.3:
        return rng.randrange(-n, n)
    ends = [rng.choice([None, rng.randrange(-n - 3, n + 3)]) for _ in "ab"]
    return slice(*ends, rng.choice([None, 1, 2, -1, -3, 11, -12]))


@pytest.mark.parametrize("channels", [1, 3])
def test_any_index_gives_what_numpy_gives(channels: int) -> None:
    rng, array = random.Random(3), np.arange(channels * 13 * 20 * 31).reshape(channels, 13, 20, 31)
    volume, wanted = voxweft.open_volume(Watched(array)), array[0] if channels == 1 else array
    assert (volume.shape, volume.dtype, volume.ndim, len(volume)) == (
        wanted.shape,
        wanted.dtype,
        wanted.ndim,
        len(wanted),
    )
    assert np.array_equal(np.asarray(volume), wanted)
    for _ in range(300):
        index = [_index(n, rng) for n in wanted.shape][: rng.randrange(wanted.ndim + 1)]
        if rng.random() < 0.4:
            index.insert(rng.randrange(len(index) + 1), ...)
        found = volume[tuple(index)]
        assert np.array_equal(found, wanted[tuple(index)])
        assert np.shape(found) == wanted[tuple(index)].shape


def test_only_the_box_is_read_and_planes_far_apart_one_by_one() -> None:
    source = Watched(np.zeros((1, 64, 40, 40), np.uint8))
    volume = voxweft.open_volume(source)
    _ = volume[3, 5:9, -4:]
    assert source.read_boxes == [voxweft.Box((3, 5, 36), (4, 9, 40))]
    source.read_boxes.clear()
    assert volume[::20].shape == (4, 40, 40)
    assert [box.shape[0] for box in source.read_boxes] == [1, 1, 1, 1]


@pytest.mark.parametrize("index", [64, -65, (0, 0, 0, 0), (..., 0, ...), 1.5, [1, 2], True, None])
def test_what_is_no_index_is_refused(index: object) -> None:
    with pytest.raises(IndexError):
        voxweft.open_volume(np.zeros((64, 4, 4)))[index]


def test_dask_takes_a_volume_and_a_view() -> None:
    import dask.array as da

    array = np.random.default_rng(0).integers(0, 255, (20, 30, 40), dtype=np.uint8)
    volume = voxweft.open_volume(array)
    seen = Crop(voxweft.Box((2, 0, 0), (20, 30, 40))).of(volume)
    for one, wanted in ((volume, array), (seen, array[2:])):
        made = da.from_array(one, chunks=(8, 16, 16))
        assert made.dtype == np.uint8
        assert np.array_equal(made.compute(scheduler="threads"), wanted)


def test_a_page_shows_a_picture_of_little_and_leaves_out_what_fails(tmp_path: Path) -> None:
    large = Watched(np.broadcast_to(np.uint8(1), (1, 600, 30_000, 30_000)), chunk=(64, 64, 64))
    shown = voxweft.open_volume(large)
    assert "600 x 30000 x 30000 voxels (z y x)" in repr(shown)
    assert "<img" in shown._repr_html_()
    assert sum(box.n_voxels for box in large.read_boxes) < 1 << 20
    large.read_boxes.clear()
    large.info = VolumeInfo("pages <b>", "test", (9, 30_000, 30_000), "uint8", chunk_zyx=(1, 30_000, 30_000))
    page = voxweft.open_volume(large)._repr_html_()
    assert "<img" not in page
    assert "pages &lt;b&gt;" in page
    assert not large.read_boxes

    def fail(_box: voxweft.Box) -> np.ndarray:
        raise ReadError("gone")

    small = Watched(np.zeros((1, 4, 4, 4), np.uint8))
    small.read = fail
    assert "4 x 4 x 4" in voxweft.open_volume(small)._repr_html_()


def test_labels_of_every_dtype_have_colours() -> None:
    for dtype in ("uint8", "uint16", "uint32"):
        one = Watched(np.arange(64, dtype=dtype).reshape(1, 1, 8, 8))
        one.info = VolumeInfo("labels", "test", (1, 8, 8), dtype, is_label=True)
        assert "<img" in voxweft.open_volume(one)._repr_html_()
