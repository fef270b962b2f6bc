"""The Gaussian of the scroll pipeline and nnU-Net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxweft.geometry.window import gaussian


@pytest.mark.parametrize("size", [16, 32, 128, 192])
def test_profiles(shared: Path, size: int) -> None:
    golden = np.load(shared / f"golden/scroll/gaussian/axis0_profile_{size}x{size}x{size}_s8.npy")
    np.testing.assert_allclose(gaussian(size), golden, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16, 16), (32, 32, 32), (16, 12, 20)])
def test_maps(shared: Path, shape: tuple[int, int, int]) -> None:
    golden = np.load(shared / f"golden/scroll/gaussian/map_{'x'.join(map(str, shape))}_s8.npy")
    z, y, x = (gaussian(n) for n in shape)
    np.testing.assert_allclose(z[:, None, None] * y[:, None] * x, golden, atol=1e-6)
