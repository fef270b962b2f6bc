"""What is true of matching, grouping, medians, tables and components whatever the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import voxweft
from slicestacks import overlaps_of, pieces_of, same_objects
from voxweft.apps import label as app
from voxweft.apps.label import LabelOptions, label
from voxweft.geometry.box import Box
from voxweft.ops.components import connected, keep_largest
from voxweft.ops.consensus import Votes, consensus
from voxweft.ops.grouping import group_pixels
from voxweft.ops.holes import fill_holes
from voxweft.ops.matching import Rules, track_backward, track_forward
from voxweft.ops.median import RunningMedian
from voxweft.ops.objects import dilated, eroded
from voxweft.ops.runs import Runs, looked_up, measured, merged

ndimage = pytest.importorskip("scipy.ndimage")
pytest.importorskip("cc3d")

slices = st.integers(0, 2**31).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 5, (5, 7, 1))
        * np.random.default_rng(seed + 1).integers(0, 2, (5, 7, 1))
    ).repeat([1, 2, 4, 8, 16, 32, 64], axis=1)
)
"""Stacks of five slices. Each row is larger than all before it together, so no two pairs of pieces share as much."""


def tracked(stack: Any, rules: Rules) -> Any:
    """The stack with the labels of its objects."""
    pieces, values = pieces_of(stack)
    overlaps = overlaps_of(stack, pieces, values, rules.max_gap + 1)
    labels = track_backward(pieces, overlaps, track_forward(pieces, overlaps, rules), rules)
    made = np.zeros_like(stack)
    for z in range(len(stack)):
        lo, hi = pieces.first[z : z + 2]
        made[z] = looked_up(stack[z], values[lo:hi], labels[lo:hi])
    return made


@given(slices, st.integers(0, 2**31), st.integers(0, 2))
def test_other_numbers_of_pieces_change_nothing_but_names(stack: Any, seed: int, gap: int) -> None:
    rng = np.random.default_rng(seed)
    other = np.stack([np.concatenate([[0], 10 + rng.permutation(4)])[one] for one in stack])
    rules = Rules(max_gap=gap)
    a, b = tracked(stack, rules), tracked(other, rules)
    assert np.array_equal(a > 0, stack > 0)
    assert same_objects(a, b)


@given(slices)
def test_an_object_that_does_not_change_keeps_its_label(stack: Any) -> None:
    stack = np.stack([stack[0]] * 4)
    made = tracked(stack, Rules())
    assert (made == made[:1]).all()


@given(arrays(np.float32, (9, 3, 4), elements=st.floats(0, 1, width=32)), st.sampled_from([1, 3, 5]), st.integers(0, 8))
def test_a_plain_median_is_the_same_wherever_a_part_begins(values: Any, kernel: int, begin: int) -> None:
    """A part that begins ``kernel // 2`` slices earlier than what it puts out gives what the whole does."""
    whole = dict(_pushed(RunningMedian(kernel, "plain", 0, 9), values))
    first = max(0, begin - kernel // 2)
    part = dict(_pushed(RunningMedian(kernel, "plain", first, 9), values[first:]))
    assert sorted(whole) == list(range(9))
    for z in range(begin, 9):
        assert np.array_equal(part[z], whole[z])
    half = kernel // 2
    wanted = values.copy()
    for z in range(half, 9 - half):
        wanted[z] = np.median(values[z - half : z + half + 1], axis=0)
    assert np.array_equal(np.stack([whole[z] for z in range(9)]), wanted)


def _pushed(median: RunningMedian, values: Any) -> list[tuple[int, Any]]:
    return [one for slice_ in values for one in median.push(slice_)]


@given(arrays(np.float32, (7, 3, 4), elements=st.floats(0, 1, width=32)), st.sampled_from(["plain", "recursive"]))
def test_the_median_of_bits_is_that_of_values(values: Any, mode: Any) -> None:
    bits = [b for _, b in _pushed(RunningMedian(5, mode, 0, 7), values >= 0.5)]
    likely = [v for _, v in _pushed(RunningMedian(5, mode, 0, 7), values)]
    assert all(np.array_equal(b, v >= 0.5) for b, v in zip(bits, likely, strict=True))


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4))
def test_grouping_takes_the_nearest_centre(seed: int, n: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    centres = np.unique(rng.integers(0, 12, (n, 2)), axis=0)
    offsets = rng.integers(-9, 9, (2, 12, 12)).astype(np.float32)
    pixels = np.argwhere(rng.random((12, 12)) < 0.5)
    aims = pixels * step + offsets[:, pixels[:, 0], pixels[:, 1]].T
    distances = ((aims[:, None] - centres * step) ** 2).sum(axis=2)
    found = group_pixels(pixels, offsets, centres, step)
    nearest = distances[np.arange(len(pixels)), found - 1] if len(pixels) else np.zeros(0)
    assert np.allclose(nearest, distances.min(axis=1)) if len(pixels) else True


@given(st.integers(0, 2**31))
def test_slices_of_a_volume_have_the_tables_of_the_whole(seed: int) -> None:
    """Measures of blocks joined are those of the whole."""
    labels = np.random.default_rng(seed).integers(0, 4, (6, 5, 8))
    whole = measured(runs := Runs.of([labels], (0, 0, 0)), [runs.values[:, 0]])
    keys, tables = [], []
    for box in Box.of((6, 5, 8)).cells((4, 3, 3)):
        cell = box & Box.of((6, 5, 8))
        part = Runs.of([labels[cell.slices]], cell.start)
        (key,), table = measured(part, [part.values[:, 0]])
        keys.append(key)
        tables.append(table)
    (found,), table = merged([np.concatenate(keys)], {n: np.concatenate([t[n] for t in tables]) for n in tables[0]})
    assert np.array_equal(found, whole[0][0])
    for name, values in table.items():
        assert np.array_equal(values, whole[1][name]), name


@given(st.integers(0, 2**31), st.booleans())
def test_a_consensus_is_numbered_without_a_gap_and_of_two_votes(seed: int, one_view: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = np.unique(rng.integers(0, 4, (12, 3)), axis=0)
    rows = rows[rows.any(axis=1)]
    voxels = rng.integers(1, 500, len(rows))
    made = consensus(rows, voxels, Votes(2, 0.75, one_view))
    names = sorted(set(made.tolist()) - {0})
    assert names == list(range(1, len(names) + 1))
    assert not made[(rows > 0).sum(axis=1) < 2].any()


@given(st.integers(0, 2**31), st.sampled_from([6, 18, 26]), st.booleans())
def test_components_of_blocks_are_those_of_the_whole(seed: int, connectivity: int, each: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 45, 3))
    values = (rng.random(shape) < rng.choice([0.1, 0.3, 0.5])) * rng.integers(1, 4 if each else 2, shape)
    sink = voxweft.open_sink("memory://")
    before, app.BLOCK = app.BLOCK, 16
    try:
        label(values.astype(np.uint8), sink, LabelOptions(connectivity=connectivity, each_label=each, chunk="16,16,16"))
    finally:
        app.BLOCK = before
    found = sink.read(voxweft.Box.of(shape))[0]
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    wanted, n = np.zeros(shape, np.int64), 0
    for value in np.unique(values[values > 0]):
        part, more = ndimage.label(values == value, structure)
        wanted[part > 0] = part[part > 0] + n
        n += more
    assert int(found.max()) == n
    assert same_objects(found, wanted)


@given(st.integers(0, 2**31))
def test_hysteresis_and_sizes(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 100, (9, 20, 30)).astype(np.uint8)
    sink = voxweft.open_sink("memory://")
    label(values, sink, LabelOptions(low="70", high="97", connectivity=6, min_size=3, max_size=60, chunk="16,16,16"))
    found = sink.read(voxweft.Box.of(values.shape))[0]
    parts, n = ndimage.label(values >= 70)
    for k in range(1, n + 1):
        inside = parts == k
        kept = (values[inside] >= 97).any() and 3 <= inside.sum() <= 60
        assert (found[inside] > 0).all() == kept


@given(st.integers(0, 2**31), st.sampled_from([2, 3]))
def test_components_of_bool_planes(seed: int, n_axes: int) -> None:
    """Also where the library has a short way for them."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 24, n_axes))
    values = rng.random(shape) < 0.5
    wanted, n = ndimage.label(values, np.ones((3,) * n_axes))
    found = connected(values, 8 if n_axes == 2 else 26)
    assert int(found.max(initial=0)) == n
    assert same_objects(found, wanted)
    if n_axes == 3 and n:
        kept = keep_largest(values.astype(np.uint8), [[1]])
        assert kept.sum() == np.bincount(wanted.ravel())[1:].max()


@given(st.integers(0, 2**31))
def test_filling_fills_holes_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 3, (12, 14)) * (rng.random((12, 14)) < 0.7)).astype(np.uint8)
    filled = fill_holes(labels)
    assert np.array_equal(filled[labels > 0], labels[labels > 0])
    for value in (1, 2):
        alone = np.where(labels == value, labels, 0)
        if np.array_equal(alone, labels):
            assert np.array_equal(filled > 0, ndimage.binary_fill_holes(labels > 0))


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_erosion_and_dilation_of_one_object(seed: int, n: int) -> None:
    labels = np.random.default_rng(seed).random((7, 8, 9)) < 0.8
    cross = ndimage.generate_binary_structure(3, 1)
    assert np.array_equal(eroded(labels.astype(int), n) > 0, ndimage.binary_erosion(labels, cross, n, border_value=1))
    assert np.array_equal(dilated((~labels).astype(int), n) > 0, ndimage.binary_dilation(~labels, cross, n))
