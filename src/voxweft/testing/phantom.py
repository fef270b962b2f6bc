"""Phantoms with a known truth: crowded membranes and ellipsoids, noise and a missing wedge. numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

CELL = 46.0  # mean distance of cell centres, voxels
WALL = 1.7  # half thickness of a membrane, voxels
TILT_DEG = 60.0
GREY = {"cytosol": 0.62, "membrane": 0.18, "lumen": 0.46}


@dataclass(frozen=True, slots=True)
class Phantom:
    """A simulated image and what is truly there.

    Attributes
    ----------
    image
        uint8 [Z, Y, X]: dark membranes, noisy, smeared along z by the missing wedge.
    membrane
        bool [Z, Y, X]: walls of cells and shells of ellipsoids.
    """

    image: NDArray[np.uint8]
    membrane: NDArray[np.bool_]


def make_phantom(shape: Zyx = (128, 128, 128), seed: int = 0, noise: float = 0.22) -> Phantom:
    """Make a phantom; the same numbers give the same voxels.

    Parameters
    ----------
    shape
        Extent in voxels z y x.
    seed
        Of numpy's default generator.
    noise
        Standard deviation of white noise, where the contrast of a membrane is 0.44.

    Examples
    --------
    >>> phantom = make_phantom((32, 40, 48), seed=3)
    >>> phantom.image.shape, phantom.image.dtype, bool(phantom.membrane.any())
    ((32, 40, 48), dtype('uint8'), True)
    """
    rng = np.random.default_rng(seed)
    points = _warped_grid(shape, rng)
    wall = _cell_walls(points, shape, rng)
    shell, lumen = _ellipsoids(shape, rng)
    membrane = (wall & ~lumen) | shell
    density = np.full(shape, GREY["cytosol"], np.float32)
    density[lumen] = GREY["lumen"]
    density[membrane] = GREY["membrane"]
    density += rng.normal(0.0, noise, shape).astype(np.float32)
    seen = _missing_wedge(density)
    return Phantom(np.clip(seen * 255.0, 0, 255).astype(np.uint8), membrane)


def _warped_grid(shape: Zyx, rng: np.random.Generator) -> NDArray[np.float32]:
    """Voxel coordinates [3, Z, Y, X] bent by a few long waves, so that walls between them are curved."""
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    bent = grid.copy()
    for axis in range(3):
        for other in range(3):
            if other != axis:
                period = rng.uniform(40, 90)
                bent[axis] += 3.0 * np.sin(2 * np.pi * grid[other] / period + rng.uniform(0, 2 * np.pi))
    return bent


def _cell_walls(points: NDArray[np.float32], shape: Zyx, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Borders of the Voronoi cells of random centres: voxels near the plane between the two nearest centres."""
    reach = np.array(shape) + 2 * CELL
    count = max(4, round(float(np.prod(reach)) / CELL**3))
    centres = (rng.uniform(0, 1, (count, 3)) * reach - CELL).astype(np.float32)
    first, second = np.full(shape, np.inf, np.float32), np.full(shape, np.inf, np.float32)
    nearest, next_one = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for index, centre in enumerate(centres):
        distance = np.square(points[0] - centre[0])
        distance += np.square(points[1] - centre[1])
        distance += np.square(points[2] - centre[2])
        closest = distance < first
        closer = ~closest & (distance < second)
        np.copyto(next_one, index, where=closer)
        np.copyto(second, distance, where=closer)
        np.copyto(next_one, nearest, where=closest)
        np.copyto(second, first, where=closest)
        np.copyto(nearest, index, where=closest)
        np.copyto(first, distance, where=closest)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    return np.asarray(second - first < 2 * WALL * apart[nearest, next_one])


def _ellipsoids(shape: Zyx, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Shells and insides of randomly turned ellipsoids, one per 30^3 voxels."""
    shell, lumen = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for _ in range(max(2, math.prod(shape) // 30**3)):
        radii = rng.uniform(5, 14, 3)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        centre = rng.uniform(0, 1, 3) * shape
        lo = np.maximum(0, np.floor(centre - 18)).astype(int)
        hi = np.minimum(shape, np.ceil(centre + 18)).astype(int)
        where = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        axes = (np.arange(a, b) - c for a, b, c in zip(lo, hi, centre, strict=True))
        local = np.tensordot(turn, np.stack(np.meshgrid(*axes, indexing="ij")), axes=1)
        outer = sum(np.square(local[i] / (radii[i] + WALL)) for i in range(3)) < 1
        inner = sum(np.square(local[i] / (radii[i] - WALL)) for i in range(3)) < 1
        shell[where] = (shell[where] & ~inner) | (outer & ~inner)
        lumen[where] = (lumen[where] & ~outer) | inner
    return shell, lumen


def _missing_wedge(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """What tilts of +-60 degrees about y can see: no frequencies in the wedge about z."""
    spectrum = np.fft.rfftn(density)
    kz = np.abs(np.fft.fftfreq(density.shape[0]))[:, None, None]
    kx = np.abs(np.fft.rfftfreq(density.shape[2]))[None, None, :]
    lost = kz > math.tan(math.radians(TILT_DEG)) * kx
    lost[0, 0, 0] = False
    spectrum *= ~lost
    return np.fft.irfftn(spectrum, s=density.shape, axes=(0, 1, 2)).astype(np.float32)
