"""The scaling of the hybrid ink networks: clipped to percentiles, median and median distance from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxweft.errors import ModelError
from voxweft.model.card import Normalization
from voxweft.ops.normalize import normalize

ROBUST = (Normalization("robust_mad"),)


def scaled(values: Any, schemes: tuple[Normalization, ...] = ROBUST) -> Any:
    patch = torch.from_numpy(np.array(values, dtype=np.float32))
    normalize(patch, schemes)
    return patch.numpy()


def grey(seed: int = 0, shape: tuple[int, ...] = (5, 1, 16, 16)) -> Any:
    return np.random.default_rng(seed).gamma(3, 25, shape).round().clip(0, 255)


def by_hand(values: Any, lower: float = 1, upper: float = 99) -> Any:
    """In float64, from the formula."""
    low, high = np.percentile(values, (lower, upper))
    clipped = np.clip(values.astype(np.float64), low, high)
    middle = np.median(clipped)
    return (clipped - middle) / (1.4826 * np.median(abs(clipped - middle)))


def test_the_formula() -> None:
    assert abs(scaled(grey()) - by_hand(grey())).max() < 1e-5
    other = (Normalization("robust_mad", lower=10.0, upper=80.0),)
    assert abs(scaled(grey(), other) - by_hand(grey(), 10, 80)).max() < 1e-5


def test_layers_are_scaled_together() -> None:
    layers = grey() + np.arange(5).reshape(5, 1, 1, 1) * 20
    assert abs(scaled(layers) - by_hand(layers)).max() < 1e-5
    assert np.ptp([np.median(one) for one in scaled(layers)]) > 1
    apart = scaled(layers, ROBUST * 5)
    assert np.ptp([np.median(one) for one in apart]) < 1e-6


def test_another_unit_or_darkness_makes_no_difference() -> None:
    assert abs(scaled(grey() * 17 + 400) - scaled(grey())).max() < 1e-4


def test_outliers_make_no_difference() -> None:
    bright = grey()
    bright[0, 0, 0, 0] = 60000
    assert abs(scaled(bright) - scaled(grey()))[1:].max() < 0.2


def test_where_half_of_the_voxels_are_alike() -> None:
    mostly = np.zeros((1, 1, 10, 10))
    mostly[0, 0, :4] = 100
    assert np.unique(scaled(mostly)) == pytest.approx([0, 100 / mostly.std()])
    assert not scaled(np.full((2, 1, 4, 4), 7.0)).any()


def test_percentiles_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="percentiles 99 and 1"):
        Normalization("robust_mad", lower=99.0, upper=1.0)
