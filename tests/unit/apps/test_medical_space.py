"""A case as the network sees it, against the same steps written out with numpy and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import zoom

from voxweft.apps.medical.space import prepare
from voxweft.engine.planning import Target
from voxweft.errors import VolumeError
from voxweft.geometry.box import Box
from voxweft.image import Geometry, VolumeInfo
from voxweft.model import ModelCard, Normalization
from voxweft.model.card import Resampling
from voxweft.stores.memory import MemoryVolume


class Placed(MemoryVolume):
    """An array with voxels of a size in millimeters."""

    def __init__(self, array: Any, sizes: tuple[float, float, float]) -> None:
        from dataclasses import replace

        super().__init__(array)
        self.info: VolumeInfo = replace(self.info, geometry=Geometry(sizes, "millimeter"))


def card(spacing: Any, scheme: Normalization, **more: Any) -> ModelCard:
    return ModelCard(
        "net", "nnU-Net v2", "", (8, 8, 8), normalization=(scheme,), resampling=Resampling(spacing), **more
    )


def image(seed: int = 0) -> np.ndarray:
    array = np.zeros((20, 24, 26), np.float32)
    array[3:17, 5:20, 2:24] = np.random.default_rng(seed).normal(40, 10, (14, 15, 22))
    return array


def seen(prepared: Any) -> np.ndarray:
    whole = prepared.volume.read(Box.of(prepared.volume.info.shape_zyx)).astype(np.float64)
    for channel, scheme in zip(whole, prepared.normalization, strict=False):
        if scheme.scheme == "global_zscore":
            channel[...] = (channel - scheme.mean) / scheme.std
    return whole[0]


def resampled(values: Any, shape: Any) -> Any:
    made = zoom(
        values, [b / a for a, b in zip(values.shape, shape, strict=True)], order=3, mode="nearest", grid_mode=True
    )
    return made.clip(values.min(), values.max())


def test_cropped_scaled_and_resampled() -> None:
    prepared = prepare(
        Placed(image(), (1.5, 1.0, 1.0)), card((1.0, 1.0, 2.0), Normalization("global_zscore")), Target()
    )
    box = image()[3:17, 5:20, 2:24].astype(np.float64)
    wanted = resampled((box - box.mean()) / box.std(), (21, 15, 11))
    assert prepared.volume.info.shape_zyx == (21, 15, 11)
    assert np.abs(seen(prepared) - wanted).max() < 1e-4
    assert prepared.target.regrid.box_out == Box((3, 5, 2), (17, 20, 24))
    assert prepared.target.shape_zyx == (20, 24, 26)


def test_clipped_before_it_is_resampled() -> None:
    scheme = Normalization("ct", mean=40.0, std=8.0, lower=30.0, upper=50.0)
    prepared = prepare(Placed(image(), (1.0, 1.0, 1.0)), card((1.0, 0.5, 1.0), scheme), Target())
    wanted = resampled((image()[3:17, 5:20, 2:24].astype(np.float64).clip(30, 50) - 40) / 8, (14, 30, 22))
    assert np.abs(seen(prepared) - wanted).max() < 1e-4


def test_masked_voxels_stay_zero() -> None:
    array = image()
    array[3, 5:12] = 0  # the box is the same, but a part of it lies outside the mask
    model = card((1.0, 1.0, 0.5), Normalization("global_zscore"), masked=(True,))
    prepared = prepare(Placed(array, (1.0, 1.0, 1.0)), model, Target())
    box = array[3:17, 5:20, 2:24].astype(np.float64)
    inside = box != 0
    scaled = np.where(inside, (box - box[inside].mean()) / box[inside].std(), 0.0)
    assert np.abs(seen(prepared) - resampled(scaled, (14, 15, 44))).max() < 1e-4


def test_coarse_planes_are_resampled_by_themselves() -> None:
    model = card((2.0, 1.0, 1.0), Normalization("none"))
    prepared = prepare(Placed(image(), (4.0, 1.0, 0.8)), model, Target())
    assert [axis.order for axis in prepared.target.regrid.axes] == [0, 1, 1]
    assert [axis.order for axis in prepared.volume.view.regrid.axes] == [0, 3, 3]


def test_exchanged_axes_and_a_whole_image() -> None:
    array = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    model = card((1.0, 1.0, 1.0), Normalization("none"), transpose=(2, 0, 1))
    prepared = prepare(Placed(array, (1.0, 1.0, 1.0)), model, Target())
    assert prepared.target.regrid is None
    assert prepared.target.order == (1, 2, 0)
    assert (seen(prepared) == array.transpose(2, 0, 1)).all()


def test_a_voxel_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(VolumeError, match="cannot be right"):
        prepare(Placed(image(), (1e6, 1e6, 1.0)), card((1.0, 1.0, 1.0), Normalization("none")), Target())
