"""A reference opens the same voxels again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from pydantic import TypeAdapter

import voxweft
from surfaces import waves, write_layers
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image import AsChannels, Crop, Flip, Permute, Stack, VolumeRef, volume_ref
from voxweft.stores import open_ref
from voxweft.stores.layers import LayersVolume


def again(volume: Any) -> Any:
    """Opened from the JSON of its reference."""
    adapter = TypeAdapter(VolumeRef)
    return open_ref(adapter.validate_json(adapter.dump_json(volume_ref(volume))))


def test_views_of_a_zarr_are_opened_again(tmp_path: Path, image: NDArray[Any]) -> None:
    zarr.create_array(str(tmp_path / "v.zarr"), shape=image.shape, chunks=(16, 16, 16), dtype="u1")[:] = image
    base = voxweft.open_volume(tmp_path / "v.zarr")
    z, y, x = image.shape
    seen = AsChannels(2, reverse=True).of(
        Permute((2, 0, 1)).of(Flip((1,)).of(Crop(Box((1, 2, 3), (z, y, x))).of(base)))
    )
    found = again(seen)
    assert found.info == seen.info
    by_hand = image[1:, 2:, 3:][:, ::-1].transpose(2, 0, 1)
    assert np.array_equal(found.read(Box.of(found.info.shape_zyx))[..., 0], np.moveaxis(by_hand, 2, 0)[::-1])


def test_layers_are_opened_again_with_their_range(tmp_path: Path) -> None:
    values = waves(5, 40, 50)
    write_layers(tmp_path, values, first=7)
    volume = LayersVolume(str(tmp_path), 8, 11)
    assert volume_ref(volume).opener == "layers"
    assert np.array_equal(again(volume).read(Box.of((3, 40, 50)))[0], values[1:4])


def test_a_stack_is_opened_again_with_the_views_of_each(tmp_path: Path, image: NDArray[Any]) -> None:
    for n in range(2):
        made = zarr.create_array(str(tmp_path / f"{n}.zarr"), shape=image.shape, chunks=(16, 16, 16), dtype="u1")
        made[:] = image + n
    one, other = (voxweft.open_volume(tmp_path / f"{n}.zarr") for n in range(2))
    stack = Permute((1, 0, 2)).of(Stack([one, Flip((0,)).of(other)]))
    expected = np.stack([image, (image + 1)[::-1]]).transpose(0, 2, 1, 3)
    found = again(stack)
    assert found.info == stack.info
    assert np.array_equal(found.read(Box.of(found.info.shape_zyx)), expected)


def test_an_opener_that_is_unknown_is_named() -> None:
    with pytest.raises(RequestError, match=r"nothing opens 'os:system'; use layers, sparse, stack"):
        open_ref(VolumeRef("v.zarr", opener="os:system"))
