"""What may be taken in the place of what is asked for, and where it is tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxweft.engine.choices import Choice, ChosenOptions, Row, cheapest, choices_for
from voxweft.engine.options import RunOptions
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.geometry.sampling import sample_boxes, spread_points
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import VolumeInfo
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting
from voxweft.testing.strategies import boxes_in, shapes

ROWS = st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), min_size=1, max_size=9).map(
    lambda pairs: [Row(Choice(str(n)), seconds, flips) for n, (seconds, flips) in enumerate(pairs)]
)
CARD = ModelCard("m", "", "", (64, 64, 64), divisor_zyx=(8, 8, 8))
INFO = VolumeInfo("v", "", (200, 150, 100), "uint8")


def _choices(options: RunOptions, card: ModelCard = CARD, precision: str = "fp32") -> tuple[Choice, ...]:
    return choices_for(options, card, INFO, ForwardSetting("jit", "cpu", precision, 1, (64,) * 3), ["torch"], ["bf16"])


@given(ROWS, st.floats(0, 1))
def test_the_fastest_that_keeps_the_tolerance(rows: list[Row], tolerance: float) -> None:
    kept = [row for row in rows if row.flips is not None and row.flips <= tolerance]
    if not kept:
        with pytest.raises(RequestError, match="none of"):
            cheapest(rows, None, tolerance)
    else:
        assert cheapest(rows, None, tolerance) in kept
        assert (cheapest(rows, None, tolerance).seconds or 0) <= 1.03 * min(row.seconds or 0 for row in kept)


@given(ROWS, st.floats(1, 1e6))
def test_the_most_exact_that_keeps_the_budget(rows: list[Row], budget_s: float) -> None:
    kept = [row for row in rows if row.seconds is not None and row.seconds <= budget_s]
    if not kept:
        with pytest.raises(RequestError, match="even the fastest choice takes"):
            cheapest(rows, budget_s, 0.0)
    else:
        taken = cheapest(rows, budget_s, 0.0)
        assert taken in kept and taken.flips == min(row.flips or 0 for row in kept)
        assert cheapest(rows, budget_s, 1.0) == cheapest(kept, None, 1.0)


def test_where_nothing_was_compared_the_request_itself_is_taken() -> None:
    rows = [Row(Choice("reference", {"precision": "fp32"}, is_reference=True)), Row(Choice("asked"), 10.0)]
    assert cheapest(rows, None, 0.0) == cheapest(rows, 20.0, 0.0) == rows[1]
    with pytest.raises(RequestError, match="even the fastest"):
        cheapest(rows, 5.0, 0.0)


@given(
    st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.5, 0.75]),
    st.sampled_from(["none", "mirroring"]),
    st.sampled_from([("auto", "auto"), ("jit", "auto"), ("auto", "fp32"), ("torch", "fp32")]),
    st.sampled_from([0.0, 0.001]),
    st.booleans(),
)
def test_choices_respect_what_is_asked_for_by_name(
    overlap: float, tta: str, how: tuple[str, str], tolerance: float, fixed: bool
) -> None:
    options = RunOptions(overlap=overlap, tta=tta, runtime=how[0], precision=how[1], tolerance=tolerance)
    card = ModelCard("m", "", "", (64, 64, 64), divisor_zyx=(8, 8, 8), fixed_patch=fixed)
    found = _choices(options, card)
    assert len({one.name for one in found}) == len(found)
    assert [one.is_asked for one in found].count(True) == [one.is_reference for one in found].count(True) == 1
    made = [ChosenOptions.of(options, one.options) for one in found]  # all of them can be asked for
    dearest = next(one for one, choice in zip(made, found, strict=True) if choice.is_reference)
    assert dearest.overlap >= max(0.5, overlap) and dearest.tta == tta and dearest.precision == "fp32"
    assert all(one.overlap <= dearest.overlap or one.patch_stride for one in made)
    if how[1] != "auto" or tolerance == 0:
        assert all(one.precision in ("auto", "fp32") for one in made)
    if fixed:
        assert not any(one.patch_size for one in made)
    for one in made:
        assert one.request() == options.request()


def test_a_larger_window_keeps_the_overlap_in_voxels_and_what_the_network_divides_by() -> None:
    (wide,) = (one.options for one in _choices(RunOptions(overlap=0.25)) if "patch_size" in one.options)
    assert wide == {"patch_size": "96,96,96", "patch_stride": "80,80,80"}
    (flat,) = (
        one.options
        for one in _choices(RunOptions(), ModelCard("m", "", "", (1, 64, 80), divisor_zyx=(1, 32, 16), n_dimensions=2))
        if "patch_size" in one.options
    )
    assert flat["patch_size"].startswith("1,96,80")  # 128 would not fit into 100


@given(shapes(max_side=60, min_side=5), st.sampled_from([0.5, 0.6, 0.75]), st.data())
def test_regions_lie_in_what_is_asked_for_and_need_few_patches(
    shape: tuple[int, int, int], overlap: float, data: st.DataObject
) -> None:
    grid = TileGrid.of(shape, (8, 8, 8), overlap)
    region = data.draw(boxes_in(shape))
    found = list(sample_boxes(grid, region, 64))
    assert found and len(set(found)) == len(found)
    assert all(box in region and box.n_voxels for box in found)
    if overlap == 0.5:
        assert max(len(r) for box in found for r in grid.touching(box)) <= 3


def test_faces_come_in_their_true_share() -> None:
    grid, region = TileGrid.of((250, 250, 250), (64, 64, 64), 0.5), Box.of((250, 250, 250))
    found = list(sample_boxes(grid, region, 64))
    patches = np.array([[len(r) for r in grid.touching(box)] for box in found])
    assert patches.max() == 2
    assert abs((patches == 1).mean() - 62 / 250) < 0.08
    points = np.array(list(spread_points(region, 64)))
    assert [len(np.unique(axis // 63)) for axis in points.T] == [4, 4, 4]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"budget": "soon", "effort": "auto"}, "--budget 'soon' is no time"),
        ({"budget": "0s", "effort": "auto"}, "is no time"),
        ({"budget": "2h"}, "needs --effort auto"),
        ({"effort": "little"}, "use one of asked, auto"),
        ({"tolerance": 1.5}, "--tolerance 1.5 is no share"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        RunOptions(**wrong)
    assert len(str(caught.value).splitlines()) == 1
