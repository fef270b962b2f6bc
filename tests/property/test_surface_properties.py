"""The chunks of a surface against a plain count, for any chunk, level and halo."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segments import Given
from voxweft.geometry.box import Zyx
from voxweft.stores.surface import surface_cells

sides = st.tuples(*[st.integers(1, 40)] * 3)
places = st.floats(-5, 90, width=32) | st.just(math.nan)


@given(
    points=arrays(np.float32, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4)), elements=places),
    level=st.integers(0, 2),
    chunk=sides,
    shape=sides,
    halo=st.integers(0, 2),
)
def test_cells_are_those_of_a_plain_count(points: Any, level: int, chunk: Zyx, shape: Zyx, halo: int) -> None:
    found = surface_cells(Given(points), level, chunk, shape, halo)
    grid = [math.ceil(n / c) for n, c in zip(shape, chunk, strict=True)]
    wanted = np.zeros(grid, bool)
    for point in points.reshape(3, -1).T.tolist():
        if any(map(math.isnan, point)):
            continue
        voxel = [math.floor(p / 2**level) for p in point]
        if all(0 <= v < n for v, n in zip(voxel, shape, strict=True)):
            middle = [v // c for v, c in zip(voxel, chunk, strict=True)]
            for cell in product(*map(range, grid)):
                wanted[cell] |= max(abs(a - b) for a, b in zip(cell, middle, strict=True)) <= halo
    assert np.array_equal(found, wanted)
