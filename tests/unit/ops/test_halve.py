"""Halved levels: what they hold, and that pieces of them are the pieces of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.engine.stage import Source
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.ops.halve import HALVINGS, halve
from voxweft.testing.strategies import shapes

dtypes = st.sampled_from(["uint8", "uint16", "uint32", "uint64", "int16", "int64", "float16", "float32"])


@given(shapes(13), dtypes, st.sampled_from(HALVINGS), st.integers(0, 99), st.data())
def test_a_piece_is_the_piece_of_the_whole(shape: Any, dtype: Any, method: Any, seed: Any, data: st.DataObject) -> None:
    whole = (np.random.default_rng(seed).random((2, *shape)) * 250).astype(dtype)
    coarse = halve(whole, method)
    assert coarse.dtype == whole.dtype
    assert coarse.shape[1:] == tuple(-(-n // 2) for n in shape)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in coarse.shape[1:])
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, coarse.shape[1:], strict=True))
    piece = halve(
        whole[(slice(None), *(Source("fine", finer_zyx=(2, 2, 2)).reads(Box(start, stop)) & Box.of(shape)).slices)],
        method,
    )
    assert np.array_equal(piece, coarse[(slice(None), *Box(start, stop).slices)])


@given(shapes(13), st.integers(0, 99))
def test_the_mean_is_that_of_the_voxels_there_are(shape: Any, seed: Any) -> None:
    whole = np.random.default_rng(seed).integers(0, 256, (1, *shape), dtype=np.uint8)
    coarse = halve(whole, "mean")
    for place in np.ndindex(coarse.shape):
        block = whole[(0, *(slice(2 * i, 2 * i + 2) for i in place[1:]))].astype(float)
        assert coarse[place] == np.floor(block.mean() + 0.5)


@given(shapes(9), st.sampled_from([(1, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 2), (1, 1, 1)]), st.sampled_from(HALVINGS))
def test_only_some_axes_are_halved(shape: Any, factors: Any, method: Any) -> None:
    whole = np.random.default_rng(1).integers(0, 256, (1, *shape), dtype=np.uint8)
    coarse = halve(whole, method, factors)
    assert coarse.shape[1:] == tuple(-(-n // k) for n, k in zip(shape, factors, strict=True))
    for place in np.ndindex(coarse.shape):
        block = whole[(0, *(slice(k * i, k * i + k) for i, k in zip(place[1:], factors, strict=True)))]
        wanted = block.flat[0] if method == "nearest" else np.floor(block.mean() + 0.5)
        assert coarse[place] == wanted


def test_labels_keep_large_numbers_and_make_no_new_ones() -> None:
    labels = np.array([7, 2**63 + 5, 3, 3], np.uint64).reshape(1, 1, 2, 2)
    assert halve(labels, "nearest").ravel().tolist() == [7]
    assert halve(labels[..., ::-1], "nearest").ravel().tolist() == [2**63 + 5]


def test_another_method_is_refused() -> None:
    with pytest.raises(RequestError, match="'median'; use mean or nearest"):
        halve(np.zeros((1, 2, 2, 2)), "median")
