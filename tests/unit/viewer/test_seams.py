"""The seam check sees seams, also those of a tenth of a plane, and nothing where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.geometry.tiling import TileGrid
from voxweft.viewer.seams import SeamCheck, check_seams

SHAPE = (96, 96, 96)
GRID = TileGrid.of(SHAPE, (32, 32, 32), 0.0, "snap")
HALF = TileGrid.of(SHAPE, (32, 32, 32), 0.5)


def field(seed: int) -> NDArray[np.float32]:
    """A smooth random field, as a probability."""
    noise = np.fft.fftn(np.random.default_rng(seed).normal(size=SHAPE))
    z, y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in SHAPE), indexing="ij")
    smooth = np.fft.ifftn(noise * np.exp(-2 * (np.pi * 4) ** 2 * (z**2 + y**2 + x**2))).real
    return np.asarray(1 / (1 + np.exp(-2 * smooth / smooth.std())), np.float32)


def positions(found: SeamCheck) -> set[tuple[int, int]]:
    return {(border.axis, border.position) for border in found.seams}


@pytest.mark.parametrize("seed", range(2))
def test_a_smooth_field_has_no_seams_and_a_block_in_a_tenth_of_a_plane_is_one(seed: int) -> None:
    values = field(seed)
    noise = np.random.default_rng(seed).normal(0, 20, SHAPE)
    image = (200 * values + noise).astype(np.float32)
    grid = (GRID, HALF)[seed % 2]
    for known in (None, image):
        assert check_seams(values, Box.of(SHAPE), grid, image=known).verdict().startswith("no seams")
        labels = (values > 0.5).astype(np.uint8)
        assert check_seams(labels, Box.of(SHAPE), grid, image=known, labels=True).verdict().startswith("no seams")
    values[32:64, :32, :30] += 0.2
    found = check_seams(values, Box.of(SHAPE), grid, image=image)
    assert positions(found) >= {(0, 32), (0, 64)}
    z, y, x = next(border.at for border in found.seams if border.axis == 0)
    assert z in (32, 64)
    assert y < 32
    assert x < 32


def test_noise_has_no_seams() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    assert check_seams(noise, Box.of(SHAPE), GRID).verdict().startswith("no seams")


def test_patches_that_differ_by_a_constant_have_seams() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32) * 0.1
    noise[32:64] += 0.05
    noise[:, :, 64:] += 0.2
    found = check_seams(noise, Box.of(SHAPE), GRID)
    assert positions(found) == {(0, 32), (0, 64), (2, 64)}
    assert found.verdict().startswith("seams")
    assert "along x, at 64" in found.verdict()


def test_blocks_that_fade_into_each_other_in_empty_background_are_seen() -> None:
    """As a network with InstanceNorm leaves them: the step lies half way between patches, not where they begin."""
    ramp = 1 / (1 + np.exp(-(np.arange(96) - 40) / 1.5))  # from the patch at 16 to the one at 32
    values, image = field(1), np.asarray(200 * field(1), np.float32)
    image[:, :40], values[:, :40] = 0, (0.2 + 0.6 * ramp[:, None, None]).astype(np.float32)
    found = check_seams(values, Box.of(SHAPE), HALF, image=image)
    assert found.seams[0].axis == 0
    assert found.seams[0].position == 40
    assert found.seams[0].in_empty


def test_a_window_that_begins_elsewhere_knows_where_the_borders_are() -> None:
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32) * 0.1
    noise[:, :, 64:] += 0.2
    window = Box((5, 7, 11), (90, 80, 96))
    assert positions(check_seams(noise[window.slices], window, GRID)) == {(2, 64)}


def test_a_window_without_borders_says_so() -> None:
    found = check_seams(field(0)[:10, :10, :10], Box.of((10, 10, 10)), GRID)
    assert found.worst is None
    assert "no patch border" in found.verdict()
    dense = TileGrid.of(SHAPE, (32, 32, 32), 0.875)  # hardly a plane lies clear of all borders
    assert check_seams(field(0), Box.of(SHAPE), dense).verdict().startswith("nothing can be told")
