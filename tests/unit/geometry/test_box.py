from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.testing.strategies import boxes


@given(boxes(), boxes())
def test_the_common_box_is_the_common_voxels(a: Box, b: Box) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(-20, 100, 7)] * 3, indexing="ij"), axis=-1)

    def inside(box: Box) -> np.ndarray:
        return ((grid >= box.start) & (grid < box.stop)).all(-1)

    assert (inside(a & b) == (inside(a) & inside(b))).all()


def test_bbox_text() -> None:
    assert Box.parse("10:20, :5 ,3:", (30, 40, 50)) == Box((10, 0, 3), (20, 5, 50))


@pytest.mark.parametrize("text", ["10:20", "a:b,c:d,e:f", "5:5,:,:", "0:31,:,:", "9:3,:,:", "-1:3,:,:"])
def test_a_bbox_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--bbox"):
        Box.parse(text, (30, 40, 50))
