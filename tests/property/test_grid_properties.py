"""Every voxel is covered, weights sum to one, parts share the work without gap or overlap."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.errors import GridError, RequestError
from voxweft.geometry.box import Box
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import AxisTiles, TileGrid
from voxweft.geometry.window import WINDOWS, unity_profiles
from voxweft.testing.strategies import axis_tiles


@given(axis_tiles())
def test_windows_cover_the_axis_and_stay_inside(axis: AxisTiles) -> None:
    covered = np.zeros(axis.extent, int)
    for start in axis.starts:
        assert 0 <= start <= axis.extent - axis.size
        covered[start : start + axis.size] += 1
    assert covered.min() >= 1
    assert list(axis.starts) == sorted(axis.starts)
    assert axis.starts[0] == 0 and axis.starts[-1] == axis.extent - axis.size


@given(axis_tiles(), st.data())
def test_touching_is_what_a_search_finds(axis: AxisTiles, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, axis.extent - 1))
    hi = data.draw(st.integers(lo + 1, axis.extent))
    wanted = [i for i, s in enumerate(axis.starts) if s < hi and s + axis.size > lo]
    assert list(axis.touching(lo, hi)) == wanted


@given(axis_tiles(), st.sampled_from(sorted(WINDOWS)), st.floats(3, 16))
def test_weights_sum_to_one_at_every_voxel(axis: AxisTiles, window: str, sigma_scale: float) -> None:
    rows = unity_profiles(axis, window, sigma_scale)
    total = np.zeros(axis.extent)
    for start, row in zip(axis.starts, rows, strict=True):
        assert (row > 0).all()
        total[start : start + axis.size] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@given(
    shape=st.tuples(*[st.integers(1, 400)] * 3),
    column=st.tuples(*[st.integers(1, 4)] * 2),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_parts_share_every_slab_once(shape: Any, column: Any, count: Any, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    region = Box(start, stop)
    columns = Columns(shape, region, (column[0] * 64, column[1] * 64), 32)
    seen = [(r.column, s) for i in range(count) for r in columns.part(i, count) for s in r.slabs]
    assert seen == [(c, s) for c in range(columns.n_columns) for s in range(columns.n_slabs)]
    covered = sum((columns.box(c, range(s, s + 1)) & region).n_voxels for c, s in seen)
    assert covered == region.n_voxels
    sizes = [sum(len(r.slabs) for r in columns.part(i, count)) for i in range(count)]
    assert max(sizes) - min(sizes) <= 1


@given(st.tuples(*[st.integers(1, 60)] * 3), st.tuples(*[st.integers(1, 30)] * 3), st.floats(0, 0.9))
def test_a_small_volume_is_padded_evenly(shape: Any, patch: Any, overlap: Any) -> None:
    grid = TileGrid.of(shape, patch, overlap)
    tiles = list(grid)
    assert len(tiles) == grid.n_tiles
    for n, p, a, b in zip(shape, patch, tiles[0].box.start, tiles[-1].box.stop, strict=True):
        before, after = -a, b - n
        if n >= p:
            assert before == after == 0
        else:
            assert before + after == p - n and 0 <= after - before <= 1


def test_a_grid_of_a_billion_patches_costs_nothing() -> None:
    begun = time.perf_counter()
    grid = TileGrid.of((100_000, 100_000, 100_000), (64, 64, 64), 0.5)
    assert grid.n_tiles > 10**9
    assert grid.tile((3123, 3123, 3123)).box.stop == (100_000,) * 3
    assert [len(r) for r in grid.touching(Box((50_000,) * 3, (50_128,) * 3))] == [6, 6, 6]
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AxisTiles(10, 4, 0.5), "leaves gaps or does not move"),
        (lambda: AxisTiles(10, 4, 5), "leaves gaps"),
        (lambda: AxisTiles(10, 4, 2, "loose"), "use one of spread, snap"),
        (lambda: TileGrid.of((9, 9, 9), (4, 4, 4), 1.0), "0 <= overlap < 1"),
        (lambda: unity_profiles(AxisTiles(10, 4, 2), "boxcar"), "gaussian, gaussian-centred, hann, uniform"),
        (lambda: unity_profiles(AxisTiles(10, 4, 2), "gaussian", 0), "not positive"),
    ],
)
def test_a_tiling_that_cannot_be_says_why(make: Any, says: Any) -> None:
    with pytest.raises(GridError, match=says):
        make()


def test_a_part_that_does_not_exist_is_refused() -> None:
    columns = Columns((64, 64, 64), Box.of((64, 64, 64)), (64, 64), 32)
    with pytest.raises(RequestError, match="use 0 to 2"):
        columns.part(3, 3)
