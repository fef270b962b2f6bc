"""Particles found in blocks are those of the whole volume; counting; lists of particles read back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from voxweft.apps.particles.find import BORDER, Wanted
from voxweft.apps.particles.localize import localize_array
from voxweft.ops.metrics import count_nearest, count_one_to_one, curve_of, pairs_of
from voxweft.ops.peaks import apart, peaks
from voxweft.stores.particle_lists import Listed, as_text, read_list

segmentation = pytest.importorskip("skimage.segmentation")
starfile = pytest.importorskip("starfile")


def balls(shape: tuple[int, int, int], n: int, seed: int, noise: float = 0.0) -> Any:
    """Labels 1 and 2 of balls that may touch, with holes and specks."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for k in range(n):
        c, r = rng.integers(0, shape), rng.uniform(2, 7)
        labels[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < r * r] = 1 + k % 2
    speckled = rng.random(shape) < noise
    labels[speckled] = rng.integers(0, 3, speckled.sum())
    return labels


scenes = st.builds(
    balls,
    st.tuples(st.integers(8, 36), st.integers(20, 60), st.integers(20, 80)),
    st.integers(0, 40),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.002, 0.05]),
)
OBJECTS = [Wanted(name, n, radius=6.0, smallest=2.4, largest=6.0) for n, name in ((1, "one"), (2, "two"))]


def by_octopi(labels: Any, one: Wanted, method: str, filter_size: int) -> Any:
    """The centres of the spec's steps on the whole volume, before they are merged: [n, 3] in no order."""
    mask = labels == one.label
    if not mask.any():
        return np.zeros((0, 3))
    if method == "com":
        ids, n = ndimage.label(mask)
        numbers = [k for k in range(1, n + 1) if one.least < (ids == k).sum() < one.most]
        return np.array(ndimage.center_of_mass(mask, ids, numbers)).reshape(-1, 3)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    opened = ndimage.binary_opening(mask[box], ndimage.generate_binary_structure(3, 1))
    distance = ndimage.distance_transform_edt(opened).astype(np.float32)
    centres = (distance == ndimage.maximum_filter(distance, size=filter_size)) & opened
    marks, _ = ndimage.label(centres)
    basins = segmentation.watershed(-distance, marks, mask=opened)
    sizes = np.bincount(basins.ravel())
    numbers = [k for k in range(1, len(sizes)) if one.least <= sizes[k] <= one.most]
    found = np.array([np.argwhere(basins == k).mean(axis=0) for k in numbers]).reshape(-1, 3)
    return found + [s.start for s in box]


def merged(centres: Any, one: Wanted, shape: tuple[int, int, int]) -> Any:
    """Centres linked by steps of the smallest radius as their means; without those at the border."""
    groups: list[list[int]] = []
    for k in range(len(centres)):
        near = [g for g in groups if any(np.linalg.norm(centres[k] - centres[j]) <= one.smallest for j in g)]
        groups = [g for g in groups if g not in near] + [[k, *(j for g in near for j in g)]]
    means = np.array([centres[g].mean(axis=0) for g in groups]).reshape(-1, 3)
    size = np.array(shape)
    return means[((means >= BORDER * size) & (means <= size - BORDER * size)).all(axis=1)]


def in_order(centres: Any) -> Any:
    return centres[np.lexsort(centres.round(6).T)]


@settings(max_examples=40)
@given(scenes, st.sampled_from(["watershed", "com"]), st.sampled_from([0, 64]), st.sampled_from([3, 4, 10]))
def test_particles_are_those_of_the_steps_of_octopi(labels: Any, method: str, block: int, filter_size: int) -> None:
    """A watershed of all at once, components in blocks too."""
    block = block if method == "com" else 0
    found = localize_array(labels, OBJECTS, method=method, block=block, filter_size=filter_size)
    for one in OBJECTS:
        wanted = merged(by_octopi(labels, one, method, filter_size), one, labels.shape)
        assert found[one.name]["centre"].shape == wanted.shape
        assert np.allclose(in_order(found[one.name]["centre"]), in_order(wanted))


wide = st.builds(
    balls,
    st.tuples(st.integers(8, 30), st.integers(60, 140), st.integers(60, 140)),
    st.integers(0, 150),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.002, 0.05]),
)


@settings(max_examples=20)
@given(wide, st.sampled_from([3, 10]))
def test_blocks_of_any_size_give_the_same_particles(labels: Any, filter_size: int) -> None:
    first, *others = (localize_array(labels, OBJECTS, block=b, filter_size=filter_size) for b in (64, 128, 192))
    for other, one in itertools.product(others, OBJECTS):
        for name in ("centre", "score", "voxels"):
            assert np.array_equal(first[one.name][name], other[one.name][name])


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([64, 128]))
def test_a_chain_longer_than_any_halo_gives_the_same_in_all_blocks(seed: int, block: int) -> None:
    """A component of the length of the volume, of balls that touch: parted tile by tile."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((20, 70, 260), np.uint8)
    z, y, x = np.indices(labels.shape)
    for k in range(30):
        c = (10 + rng.integers(-1, 2), 20 + rng.integers(-3, 4), 6 + 8 * k)
        labels[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < rng.uniform(4.9, 5.6) ** 2] = 1
    assert max(s[2].stop - s[2].start for s in ndimage.find_objects(ndimage.label(labels)[0])) > 64
    whole = localize_array(labels, OBJECTS[:1], block=320)["one"]
    assert len(whole["centre"]) > 15
    divided = localize_array(labels, OBJECTS[:1], block=block)["one"]
    for name in ("centre", "score", "voxels"):
        assert np.array_equal(whole[name], divided[name])
    theirs = localize_array(labels, OBJECTS[:1])["one"]["centre"]
    far = np.linalg.norm(theirs[:, None] - whole["centre"][None], axis=2)
    assert len(theirs) == len(whole["centre"])
    assert far.min(axis=1).max() < 0.5  # of a voxel


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([64, 128]))
def test_peaks_and_scores_do_not_depend_on_blocks(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    labels = balls((24, 76, 140), 30, seed)
    p = np.stack([ndimage.gaussian_filter((labels == n).astype(np.float32), 1.0) for n in range(3)])
    p = np.clip(p + rng.normal(0, 0.02, p.shape).astype(np.float32), 0, 1)
    stored = np.rint(p * 65535).astype(np.uint16)
    for method in ("peaks", "watershed", "com"):
        whole, divided = (
            localize_array(labels, OBJECTS, method=method, probabilities=stored, block=b) for b in (192, block)
        )
        for one in OBJECTS:
            for name in ("centre", "score", "voxels"):
                assert np.array_equal(whole[one.name][name], divided[one.name][name])
    assert sum(len(one["centre"]) for one in whole.values()) > 0


@given(st.integers(3, 9), st.tuples(*[st.floats(9, 14)] * 3))
def test_the_peak_of_a_ball_is_its_centre(radius: int, centre: Any) -> None:
    z, y, x = np.indices((24, 24, 24))
    inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= (0.7 * radius) ** 2
    at, value = peaks(inside.astype(np.float32), float(radius), 0.3)
    at, value = (one[apart(at, value, 1.0)] for one in (at, value))
    assert len(at) == 1
    assert np.abs(at[0] - centre).max() < 0.75
    assert 0.3 <= value[0] <= 1


points = st.integers(0, 12).flatmap(
    lambda n: st.builds(lambda seed: np.random.default_rng(seed).uniform(0, 6, (n, 3)), st.integers(0, 10**6))
)


@given(points, points, st.floats(0.2, 4))
def test_counts_of_both_kinds(picks: Any, truth: Any, distance: float) -> None:
    one, nearest = count_one_to_one(picks, truth, distance), count_nearest(picks, truth, distance)
    assert (one.tp + one.fp, one.tp + one.fn) == (len(picks), len(truth))
    assert nearest.tp + nearest.fp == len(picks)
    assert one.tp <= nearest.tp
    pairs = pairs_of(picks, truth, distance)
    assert len({*pairs[:, 0]}) == len({*pairs[:, 1]}) == len(pairs)
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    near = np.linalg.norm(picks[:, None] - truth[None], axis=2) <= distance
    most = maximum_bipartite_matching(csr_array(near)) if near.size else np.zeros(0)
    assert one.tp == (most >= 0).sum()


@given(points, points, st.integers(0, 10**6))
def test_a_curve_ends_where_all_picks_count(picks: Any, truth: Any, seed: int) -> None:
    scores = np.random.default_rng(seed).choice([0.1, 0.5, 0.9], len(picks))
    curve = curve_of([(picks, scores, truth), (picks[:0], scores[:0], truth)], 1.0, 2.0)
    assert len(curve.threshold) == len(np.unique(scores))
    assert (np.diff(curve.recall) >= 0).all()
    if len(picks):
        assert curve.threshold[-1] == scores.min()
        assert round(curve.precision[-1] * len(picks)) == round(curve.recall[-1] * max(1, 2 * len(truth)))


@given(points, st.floats(0.1, 4), st.integers(0, 10**6))
def test_apart_keeps_no_two_that_are_near_and_drops_none_without_reason(at: Any, distance: float, seed: int) -> None:
    value = np.random.default_rng(seed).random(len(at))
    kept = apart(at, value, distance)
    far = np.linalg.norm(at[:, None] - at[None], axis=2)
    for k in range(len(at)):
        better = [j for j in kept if j != k and far[k, j] < distance and value[j] >= value[k]]
        assert (k not in kept) == bool(better)


@settings(max_examples=25)
@given(points, st.sampled_from(["relion5", "relion4", "csv"]), st.integers(0, 10**6))
def test_lists_read_back(tmp_path_factory: Any, centres: Any, kind: str, seed: int) -> None:
    from scipy.spatial.transform import Rotation

    rng, n = np.random.default_rng(seed), len(centres)
    turns = Rotation.random(n, rng).as_matrix() if n else np.zeros((0, 3, 3))
    names = [["ribosome", "cage"][k % 2] for k in range(n)]
    listed = Listed([f"TS_{k % 3}" for k in range(n)], names, centres * 1000 - 3000, rng.random(n), turns)
    place: Path = tmp_path_factory.mktemp("lists") / ("p.csv" if kind == "csv" else "p.star")
    place.write_text(as_text(listed, kind, {"ribosome": 1, "cage": 2}))
    if not n:
        return
    found = read_list(str(place))
    assert np.allclose(found.centres, listed.centres, atol=2e-4)
    assert np.allclose(found.scores, listed.scores, atol=1e-6)
    assert (found.centred, found.in_pixels) == (kind == "relion5", kind == "relion4")
    assert list(found.runs) == list(listed.runs)
    if kind == "csv":
        assert list(found.objects) == names
    else:
        assert found.objects[0] == "class 1"
        assert np.allclose(found.turns, turns, atol=1e-5)
        table = starfile.read(place, always_dict=True)["particles"]
        assert len(table) == n
        assert "rlnAutopickFigureOfMerit" in table
