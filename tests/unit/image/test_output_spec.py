"""What an output may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.errors import RequestError
from voxweft.image import Geometry, OutputSpec
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


@given(
    st.tuples(*[st.integers(1, 3000)] * 3), st.tuples(*[st.floats(0.1, 100)] * 3), st.sampled_from(["", "nanometer"])
)
def test_levels_by_size_end_and_bring_voxels_nearer_to_cubes(shape: Any, sizes: Any, unit: Any) -> None:
    place = Geometry(sizes if unit else (1.0, 1.0, 1.0), unit)
    units = ((64, 64, 64), (64, 64, 64))
    spec = OutputSpec(shape, 1, "uint8", *units, geometry=place, smallest=64, by_size=True)
    levels, factors = spec.level_shapes, spec.level_factors
    assert max(levels[-1]) <= 64
    assert all(max(s) > 64 for s in levels[:-1])
    for before, after, size in zip(factors, factors[1:], levels, strict=False):
        halved = [b > a for a, b in zip(before, after, strict=True)]
        assert any(halved)
        assert all(b in (a, 2 * a) for a, b in zip(before, after, strict=True))
        lengths = [s * k for s, k in zip(place.voxel_size_zyx, before, strict=True)]
        finest = min(s for s, n in zip(lengths, size, strict=True) if n > 1)
        for s, n, yes in zip(lengths, size, halved, strict=True):
            assert not (yes and n == 1)
            if unit and n > 1:
                assert yes == (s < 2 * finest)


def test_a_stack_of_few_planes_keeps_them() -> None:
    units = ((64, 64, 64), (64, 64, 64))
    cases = {  # voxel size and unit: the levels of 20 planes
        ((50.0, 5.0, 5.0), "nanometer"): [20, 20, 20, 20],
        ((1.0, 1.0, 1.0), ""): [20, 20, 20, 20],  # unknown: few planes are looked at one by one
        ((5.0, 5.0, 5.0), "nanometer"): [20, 10, 5, 3],
    }
    for (sizes, unit), planes in cases.items():
        place = Geometry(sizes, unit)
        spec = OutputSpec((20, 512, 512), 1, "uint8", *units, geometry=place, smallest=64, by_size=True)
        assert spec.level_shapes == tuple((n, 512 >> k, 512 >> k) for k, n in enumerate(planes))
