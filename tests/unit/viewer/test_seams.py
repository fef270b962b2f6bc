"""The seam check sees seams, and nothing where there are none."""

from __future__ import annotations

import numpy as np

from voxweft.geometry.box import Box
from voxweft.geometry.tiling import TileGrid
from voxweft.viewer.seams import check_seams

SHAPE = (96, 96, 96)
GRID = TileGrid.of(SHAPE, (32, 32, 32), 0.0, "snap")
SMOOTH = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32).cumsum(0) * 0.01


def test_noise_has_no_seams() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    found = check_seams(noise, Box.of(SHAPE), GRID)
    assert found.worst < 1.05
    assert found.verdict.startswith("no seams")


def test_patches_that_differ_by_a_constant_have_seams() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32) * 0.1
    noise[32:64] += 0.05
    noise[:, :, 64:] += 0.2
    found = check_seams(noise, Box.of(SHAPE), GRID)
    z, y, x = found.ratio_zyx
    assert z > 1.1
    assert x > 1.3
    assert y < 1.05
    assert found.verdict.startswith("seams")


def test_a_window_that_begins_elsewhere_knows_where_the_borders_are() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32) * 0.1
    noise[:, :, 64:] += 0.2
    window = Box((5, 7, 11), (90, 80, 96))
    found = check_seams(noise[window.slices], window, GRID)
    assert found.ratio_zyx[2] > 1.3


def test_a_window_without_borders_says_so() -> None:
    found = check_seams(SMOOTH[:10, :10, :10], Box.of((10, 10, 10)), GRID)
    assert found.worst is None
    assert "no patch border" in found.verdict
