"""A view reads what numpy gives of the whole array, and keeps every voxel at its place in the world."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image import AsChannels, Crop, EightBit, Flip, Permute, Stack, View, VolumeRef, volume_ref
from voxweft.stores.memory import MemoryVolume
from voxweft.testing.strategies import boxes_in, geometries, shapes

ORDERS = list(itertools.permutations(range(3)))
AXES = [axes for n in range(4) for axes in itertools.combinations(range(3), n)]


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[View, Callable[[Any], Any]]:
    """A view of [1, *shape], and the same by numpy on the array."""
    match draw(st.sampled_from(["crop", "permute", "flip", "eight bit"])):
        case "crop":
            box = draw(boxes_in(shape))
            return Crop(box), lambda a: a[(slice(None), *box.slices)]
        case "permute":
            order = draw(st.sampled_from(ORDERS))
            return Permute(order), lambda a: a.transpose(0, *(k + 1 for k in order))
        case "flip":
            axes = draw(st.sampled_from(AXES))
            return Flip(axes), lambda a: np.flip(a, tuple(k + 1 for k in axes))
        case _:
            return EightBit(), lambda a: a if a.dtype == np.uint8 else (a >> 8).astype(np.uint8)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Any, MemoryVolume, list[View], Any]:
    """An array [1, Z, Y, X], its volume, some views one after the other, and what numpy makes of the array."""
    shape = draw(shapes(9))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    array = np.random.default_rng(draw(st.integers(0, 99))).integers(0, np.iinfo(dtype).max, (1, *shape), dtype)
    seen, chain = array, []
    for _ in range(draw(st.integers(1, 4))):
        view, by_numpy = draw(views(seen.shape[1:]))
        chain.append(view)
        seen = by_numpy(seen)
    if draw(st.booleans()):
        axis, reverse = draw(st.sampled_from([0, 1, 2])), draw(st.booleans())
        chain.append(AsChannels(axis, reverse))
        seen = np.expand_dims(np.moveaxis(seen[0], axis, 0)[:: -1 if reverse else 1], axis + 1)
    return array, MemoryVolume(array, draw(geometries()), chunk_zyx=(2, 3, 4)), chain, seen


@given(chains(), st.data())
def test_any_box_through_any_views_is_what_numpy_gives(chain: Any, data: st.DataObject) -> None:
    _, volume, through, expected = chain
    for view in through:
        volume = view.of(volume)
    info = volume.info
    assert (info.n_channels, *info.shape_zyx, info.dtype) == (*expected.shape, expected.dtype.name)
    assert info.levels == (info.shape_zyx,)
    box = data.draw(boxes_in(info.shape_zyx))
    values = volume.read(box)
    assert np.array_equal(values, expected[(slice(None), *box.slices)])
    assert values.dtype == expected.dtype
    assert values.flags.c_contiguous


@given(chains(), st.data())
def test_a_voxel_stays_at_its_place_in_the_world(chain: Any, data: st.DataObject) -> None:
    """Every voxel holds its own number, so that it is found again through the views."""
    array, volume, through, _ = chain
    numbers = np.arange(array.size, dtype=np.int64).reshape(array.shape)
    seen = MemoryVolume(numbers, volume.info.geometry)
    for view in through:
        seen = view.of(seen) if view != EightBit() else seen
    place = tuple(data.draw(st.integers(0, n - 1)) for n in seen.info.shape_zyx)
    found = seen.read(Box(place, tuple(i + 1 for i in place))).ravel()
    before = [volume.info.geometry.world(np.unravel_index(n, array.shape[1:])) for n in found]
    assert np.allclose(seen.info.geometry.world(place), np.mean(before, axis=0), rtol=1e-9, atol=1e-6)


@given(chains())
def test_a_reference_carries_the_views_and_is_json(chain: Any) -> None:
    _, volume, through, _ = chain
    for view in through:
        volume = view.of(volume)
    ref, adapter = volume_ref(volume), TypeAdapter(VolumeRef)
    assert ref == VolumeRef("memory://", views=tuple(through))
    assert adapter.validate_json(adapter.dump_json(ref)) == ref


@given(st.data())
def test_a_stack_has_the_channels_of_all(data: st.DataObject) -> None:
    shape = data.draw(shapes(6))
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 100, (n, *shape)).astype(dtype) for n, dtype in ((2, np.uint8), (1, np.int16), (3, np.uint8))
    ]
    stack = Stack([MemoryVolume(a, chunk_zyx=(k + 1, 4 - k, 2)) for k, a in enumerate(arrays)])
    expected = np.concatenate(arrays)
    assert (stack.info.n_channels, *stack.info.shape_zyx) == expected.shape
    assert stack.info.dtype == expected.dtype == np.int16
    assert stack.info.chunk_zyx == (3, 4, 2)
    box = data.draw(boxes_in(shape))
    assert np.array_equal(stack.read(box), expected[(slice(None), *box.slices)])
    assert np.array_equal(Flip((0, 2)).of(stack).read(Box.of(shape)), expected[:, ::-1, :, ::-1])


def test_only_what_is_wanted_is_read() -> None:
    class Watched(MemoryVolume):
        read_boxes: ClassVar[list[Box]] = []

        def read(self, box: Any) -> Any:
            self.read_boxes.append(box)
            return super().read(box)

    base = Watched(np.zeros((8, 50, 60), np.uint8))
    seen = Flip((0,)).of(Permute((1, 0, 2)).of(AsChannels(0).of(Crop(Box((2, 0, 0), (6, 50, 60))).of(base))))
    assert seen.info.shape_zyx == (50, 1, 60)
    assert seen.read(Box((0, 0, 10), (3, 1, 20))).shape == (4, 3, 1, 10)
    assert base.read_boxes == [Box((2, 47, 10), (6, 50, 20))]


def test_stored_bytes_of_a_crop_are_its_share() -> None:
    volume = MemoryVolume(np.zeros((10, 10, 10), np.uint16))
    assert Crop(Box((0, 0, 0), (10, 10, 5))).of(volume).info.stored_bytes == 1000
    unknown = MemoryVolume(np.zeros((10, 10, 10), np.uint16))
    unknown.info = dataclasses.replace(unknown.info, stored_bytes=None)
    assert Crop(Box((0, 0, 0), (10, 10, 5))).of(unknown).info.stored_bytes is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: Crop(Box((0, 0, 0), (9, 2, 2))).of(v), r"0:9,0:2,0:2 is empty or leaves memory:// of \(4, 5, 6\)"),
        (lambda v: Crop(Box((1, 1, 1), (1, 2, 2))).of(v), "is empty"),
        (lambda v: EightBit().of(v), "holds float32 values; only uint8 and uint16"),
        (lambda v: AsChannels(0).of(Stack([v, v])), "has 2 channels already"),
        (lambda v: Stack([v, Permute((2, 1, 0)).of(v)]), r"\(6, 5, 4\) voxels and memory:// \(4, 5, 6\)"),
        (lambda v: Stack([]), "at least one"),
    ],
)
def test_what_cannot_be_seen_so_is_refused(make: Any, message: Any) -> None:
    with pytest.raises(VolumeError, match=message):
        make(MemoryVolume(np.zeros((4, 5, 6), np.float32)))


@pytest.mark.parametrize(
    "make", [lambda: Permute((0, 0, 2)), lambda: Flip((1, 1)), lambda: Flip((3,)), lambda: AsChannels(3)]
)
def test_axes_that_are_none_are_refused(make: Any) -> None:
    with pytest.raises(RequestError):
        make()


@given(geometries(), shapes(9), st.sampled_from(ORDERS), st.sampled_from(AXES))
def test_what_is_undone_is_as_before(place: Any, shape: Any, order: Any, axes: Any) -> None:
    from voxweft.image.order import inverse, permute

    assert place.permuted(order).permuted(inverse(order)) == place
    again = place.flipped(axes, shape).flipped(axes, shape)
    assert again.direction == place.direction
    assert np.allclose(again.origin_zyx, place.origin_zyx, atol=1e-6)
    assert permute(permute(shape, order), inverse(order)) == shape


@given(geometries(), st.integers(1, 4))
def test_a_coarse_voxel_lies_in_the_middle_of_its_block(place: Any, level: Any) -> None:
    k = 2**level
    fine = [place.world(index) for index in itertools.product((2 * k, 3 * k - 1), (0, k - 1), (k, 2 * k - 1))]
    coarse = place.coarser((k, k, k))
    assert np.allclose(coarse.world((2, 0, 1)), np.mean(fine, axis=0), atol=1e-6)
    twice = place
    for _ in range(level):
        twice = twice.coarser((2, 2, 2))
    assert np.allclose(twice.origin_zyx, coarse.origin_zyx, atol=1e-6)
    assert twice.voxel_size_zyx == pytest.approx(coarse.voxel_size_zyx)
