"""The voxel size of training against that of a volume."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.engine.options import RunOptions
from voxweft.engine.planning import make_plan
from voxweft.image.info import Geometry, VolumeInfo
from voxweft.model import ModelCard
from voxweft.model.spacing import spacing_note

SIZES = st.tuples(*[st.floats(0.01, 1000)] * 3)
UNITS = st.sampled_from(["", "nanometer", "micrometer", "millimeter", "angstrom", "parsec"])


def note(trained: Any, found: Any, unit: str = "", spacing_unit: str = "") -> Any:
    card = ModelCard("m", "nnU-Net v2", "", (16, 16, 16), spacing_zyx=trained, spacing_unit=spacing_unit)
    return spacing_note(card, Geometry(found, unit))


@pytest.mark.parametrize(
    ("trained", "found", "unit", "spacing_unit", "says"),
    [
        (None, (2.0, 1.0, 1.0), "nanometer", "", []),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), "", "", []),  # a volume that says nothing
        ((1.0, 1.0, 1.0), (1.19, 1.0, 0.85), "millimeter", "", []),
        ((1.0, 1.0, 1.0), (1.3, 1.0, 1.0), "millimeter", "", ["1.3 times as long in z (1.3) as at training (1)"]),
        ((1.0, 1.0, 1.0), (1.0, 0.5, 2.0), "", "", ["0.5 times as long in y (0.5)", "2 times as long in x (2)"]),
        ((4.0, 4.0, 4.0), (8.0, 8.0, 8.0), "nanometer", "", []),  # may be another unit
        ((4.0, 4.0, 4.0), (8.0, 8.0, 8.0), "nanometer", "nanometer", ["in z, y, x (8)"]),
        (
            (1.0, 1.0, 1.0),
            (30.0, 4.0, 4.0),
            "nanometer",
            "",
            ["its other sides, a voxel is 7.5 times as long in z (30)"],
        ),
        ((0.03, 0.004, 0.004), (30.0, 4.0, 4.0), "nanometer", "", []),
        ((0.03, 0.004, 0.004), (30.0, 4.0, 4.0), "nanometer", "micrometer", []),
        ((0.03, 0.004, 0.004), (30.0, 4.0, 4.0), "micrometer", "micrometer", ["1e+03 times as long in z"]),
        ((2.0, 2.0, 2.0), (4.0, 4.0, 4.0), "", "micrometer", []),
    ],
)
def test_examples(trained: Any, found: Any, unit: Any, spacing_unit: Any, says: Any) -> None:
    told = note(trained, found, unit, spacing_unit)
    assert bool(told) == bool(says)
    assert all(text in told for text in says)
    if says:
        assert "--level" in told
        assert f"{unit or 'no unit'} here" in told


@given(SIZES, UNITS, UNITS)
def test_the_training_volume_itself_needs_no_note(size: Any, unit: Any, other: Any) -> None:
    assert note(size, size, unit, unit) == ""
    factor = {"nanometer": 1e6, "micrometer": 1e3, "millimeter": 1.0, "angstrom": 1e7}
    if unit in factor and other in factor:
        converted = tuple(s * factor[other] / factor[unit] for s in size)
        assert note(size, converted, other, unit) == ""
        if other != "millimeter":
            assert note(size, converted, other) == ""


@given(SIZES, st.sampled_from([0, 1, 2]), st.floats(1.21, 50), UNITS)
def test_one_axis_that_differs_is_named(size: Any, axis: Any, factor: Any, unit: Any) -> None:
    found = tuple(s * factor if a == axis else s for a, s in enumerate(size))
    told = note(size, found, unit)
    assert f"times as long in {'zyx'[axis]} (" in told
    assert not any(f"times as long in {other} (" in told for other in set("zyx") - {"zyx"[axis]})


def test_it_is_a_note_of_the_plan() -> None:
    card = ModelCard("m", "nnU-Net v2", "", (16, 16, 16), spacing_zyx=(1.0, 1.0, 1.0))
    volume = VolumeInfo("v.zarr", "zarr v3", (40, 40, 40), "uint8", geometry=Geometry((2.0, 1.0, 1.0), "millimeter"))
    assert any("2 times as long in z" in n for n in make_plan(volume, card, RunOptions()).notes)
