"""What an output may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.errors import RequestError
from voxweft.image import OutputSpec
from voxweft.image.info import LABELS

SHAPE = ((8, 8, 8), 1)
UNITS = ((8, 8, 8), (8, 8, 8))


@pytest.mark.parametrize("dtype", LABELS)
def test_labels_are_never_averaged(dtype: Any) -> None:
    assert OutputSpec(*SHAPE, dtype, *UNITS, pyramid="mean", is_label=True).halving == "nearest"
    assert OutputSpec(*SHAPE, dtype, *UNITS, pyramid="none", is_label=True).halving == "none"
    assert OutputSpec(*SHAPE, dtype, *UNITS, pyramid="mean").halving == "mean"


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_labels_of_another_dtype_are_refused(dtype: Any) -> None:
    with pytest.raises(RequestError, match=f"labels cannot be {dtype}; use uint8, uint16, uint32, uint64"):
        OutputSpec(*SHAPE, dtype, *UNITS, is_label=True)


def test_an_order_is_a_permutation() -> None:
    with pytest.raises(RequestError, match="no order of three axes"):
        OutputSpec(*SHAPE, "uint8", *UNITS, order=(0, 0, 1))


@given(st.tuples(*[st.integers(1, 5000)] * 3))
def test_levels_end_when_no_side_is_long(shape: Any) -> None:
    spec = OutputSpec(shape, 1, "uint8", (64, 64, 64), (64, 64, 64))
    levels = spec.level_shapes
    assert levels[0] == shape
    assert max(levels[-1]) <= 256
    assert all(max(s) > 256 for s in levels[:-1])
    assert replace(spec, pyramid="none").level_shapes == (shape,)
