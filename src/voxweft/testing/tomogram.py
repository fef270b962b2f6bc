"""A simulated tomogram with particles of three kinds at known places: noise, a missing wedge, gold beads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx
from voxweft.stores.copick import create_project
from voxweft.stores.copick_files import Picks, PicksName, TomogramName
from voxweft.stores.ngff04 import write_group

SPACING = 10.0  # Angstrom
RADII = {"cage": 60.0, "complex": 100.0, "shell": 130.0}  # of the kinds, Angstrom
HOLLOW = {"cage": 0.55, "complex": 0.0, "shell": 0.75}  # inner radius / outer radius
COLOURS = ((255, 170, 0, 255), (0, 170, 255, 255), (220, 60, 160, 255))
NOISE, WEDGE_DEGREES = 1.6, 60.0
LABELS = {name: n for n, name in enumerate(RADII, start=1)}


@dataclass(frozen=True, slots=True)
class Tomogram:
    """A simulated tomogram and what is truly there.

    Attributes
    ----------
    image
        float32 [Z, Y, X]: particles are bright, beads very bright.
    centres
        Of every kind, x y z in Angstrom, float64 [n, 3]; voxel i lies at i times 10 Angstrom.
    """

    image: NDArray[np.float32]
    centres: Mapping[str, NDArray[np.float64]]


def make_tomogram(shape: Zyx = (64, 160, 160), n: int = 14, seed: int = 0, noise: float = NOISE) -> Tomogram:
    """Make a tomogram with ``n`` particles of each kind, or fewer; the same numbers give the same voxels.

    Examples
    --------
    >>> made = make_tomogram((32, 64, 64), n=2)
    >>> made.image.shape, sorted(made.centres)
    ((32, 64, 64), ['cage', 'complex', 'shell'])
    """
    rng = np.random.default_rng(seed)
    density = np.zeros(shape, np.float32)
    taken: list[tuple[NDArray[np.float64], float]] = []
    centres: dict[str, list[NDArray[np.float64]]] = {name: [] for name in RADII}
    for name in sorted(RADII, key=lambda k: -RADII[k]):
        radius = RADII[name] / SPACING
        for _ in range(40 * n):
            if len(centres[name]) == n:
                break
            room = np.minimum(radius * 0.6, np.array(shape) / 2 - 1)
            place = rng.uniform(room, np.array(shape) - room)
            if all(np.linalg.norm(place - other) > radius + far + 1 for other, far in taken):
                taken.append((place, radius))
                centres[name].append(place[::-1] * SPACING)
                _paint(density, place, radius, HOLLOW[name] * radius, rng)
    for _ in range(2):
        _paint(density, rng.uniform(3, np.array(shape) - 3), 2.5, 0.0, rng, 6.0)
    image = _tilted(density + rng.normal(0, noise, shape).astype(np.float32))
    return Tomogram(image, {k: np.array(v).reshape(-1, 3) for k, v in centres.items()})


def sphere_targets(made: Tomogram, share: float = 0.7) -> NDArray[np.uint8]:
    """Labels [Z, Y, X]: a ball of a share of its radius around every centre, as octopi trains with."""
    labels = np.zeros(made.image.shape, np.uint8)
    for name, number in LABELS.items():
        radius = share * RADII[name] / SPACING
        for centre in made.centres[name][:, ::-1] / SPACING:
            window, squares = _around(labels.shape, centre, radius)
            labels[window][squares <= radius**2] = number
    return labels


def write_project(folder: Path, n_runs: int = 2, seed: int = 0) -> str:
    """Write tomograms and their true picks (user "truth", session 0) as a copick project; the path of its config.

    What is there already is replaced; the tomograms differ, and so do those of another seed.
    """
    objects = [
        {"name": name, "is_particle": True, "label": n, "radius": RADII[name], "color": list(colour)}
        for (name, n), colour in zip(LABELS.items(), COLOURS, strict=True)
    ]
    project = create_project(folder / "config.json", folder, objects, "demo")
    for k in range(n_runs):
        made, run = make_tomogram(seed=100 * seed + k), f"TS-{k + 1:03d}"
        write_group(
            project.tomogram_place(run, TomogramName("wbp", SPACING)),
            lambda box, image=made.image: image[box.slices][None],  # type: ignore[misc]
            shape_zyx=made.image.shape,
            dtype="float32",
            voxel_size=SPACING,
            n_levels=2,
        )
        for name, centres in made.centres.items():
            project.write_picks(run, PicksName(name, "truth", "0"), Picks(centres))
    return str(folder / "config.json")


def _paint(
    density: NDArray[np.float32],
    place: NDArray[np.float64],
    outer: float,
    inner: float,
    rng: np.random.Generator,
    height: float = 1.0,
) -> None:
    """A ball or a shell with soft edges, its surface a little uneven."""
    window, squares = _around(density.shape, place, outer + 2)
    distance = np.sqrt(squares) + rng.normal(0, 0.35, squares.shape)
    inside = np.clip(outer - distance + 0.5, 0, 1) * np.clip(distance - inner + 0.5, 0, 1)
    density[window] = np.maximum(density[window], height * inside)


def _around(
    shape: tuple[int, ...], place: NDArray[np.float64], radius: float
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """The box of a ball, and the squared distances from its centre there."""
    lo = np.maximum(0, np.floor(place - radius)).astype(int)
    hi = np.minimum(shape, np.ceil(place + radius) + 1).astype(int)
    axes = [np.arange(a, b) - p for a, b, p in zip(lo, hi, place, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return tuple(slice(a, b) for a, b in zip(lo, hi, strict=True)), z**2 + y**2 + x**2


def _tilted(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without what tilts up to 60 degrees about y do not show."""
    z, y, x = volume.shape
    kz, kx = np.abs(np.fft.fftfreq(z))[:, None, None], np.fft.rfftfreq(x)[None, None, :]
    seen = kz <= np.tan(np.radians(WEDGE_DEGREES)) * kx + 1e-9
    return np.fft.irfftn(np.fft.rfftn(volume) * seen, s=(z, y, x), axes=(0, 1, 2)).astype(np.float32)
