"""A surface volume rolled up again: a piece of a scroll, and the surface that unrolls it, both known exactly. numpy."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

AIR, GRAIN = 45.0, 8.0  # grey levels around the sheet


@dataclass(frozen=True, slots=True)
class Roll:
    r"""A piece of a cylinder whose axis is z.

        rows follow z; columns the arc, a voxel each; layers the radius, outwards

               _.-----._        y ^        layer L - 1 is the outermost
             .'  sheet  '.        |
            /   .-----.   \       +--> x   radius: of the middle between the first and the last layer

    Attributes
    ----------
    rows, columns, layers
        Of the surface volume, all in voxels.
    radius
        In voxels; the arc is less than half a circle.
    margin
        Voxels of air around it.

    Examples
    --------
    >>> roll = Roll(20, 60, 6, radius=50.0)
    >>> roll.shape_zyx, roll.points().shape
    ((32, 32, 79), (3, 20, 60))
    >>> int(roll.lay(np.full((6, 20, 60), 200, np.uint8)).max())
    200
    """

    rows: int
    columns: int
    layers: int
    radius: float = 400.0
    margin: int = 6

    @property
    def _half(self) -> float:
        return (self.columns - 1) / 2 / self.radius

    @property
    def _reach(self) -> float:
        return self.layers / 2 + self.margin

    @property
    def _centre_yx(self) -> tuple[int, int]:
        """Where the axis lies, in voxels of the volume."""
        lowest = math.floor((self.radius - self._reach) * math.cos(self._half)) - self.margin
        widest = math.ceil((self.radius + self._reach) * math.sin(self._half)) + self.margin
        return -lowest, widest

    @property
    def shape_zyx(self) -> Zyx:
        """Voxels of the volume."""
        y, x = self._centre_yx
        return self.rows + 2 * self.margin, y + math.ceil(self.radius + self._reach) + 1, 2 * x + 1

    def points(self) -> NDArray[np.float32]:
        """The surface: z, y, x of every pixel, float32 [3, rows, columns], in voxels."""
        y, x = self._centre_yx
        angle = (np.arange(self.columns) - (self.columns - 1) / 2) / self.radius
        found = np.empty((3, self.rows, self.columns), np.float32)
        found[0] = (self.margin + np.arange(self.rows))[:, None]
        found[1], found[2] = y + self.radius * np.cos(angle), x + self.radius * np.sin(angle)
        return found

    def lay(self, layers: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
        """The volume [Z, Y, X] that holds a surface volume [layer, row, column]; 0 far from the sheet."""
        depth, column = self._unrolled()
        near = (np.abs(depth - (self.layers - 1) / 2) <= self._reach) & (np.abs(column) < self.columns + self.margin)
        inside = (depth >= 0) & (depth <= self.layers - 1) & (column >= 0) & (column <= self.columns - 1)
        rng, volume = np.random.default_rng(seed), np.zeros(self.shape_zyx, np.uint8)
        air = rng.normal(AIR, GRAIN, (self.shape_zyx[0], int(near.sum())))
        volume[:, near] = np.clip(air, 0, 255).astype(np.uint8)
        d, c = depth[inside], column[inside]
        i, j = np.floor(d).astype(int).clip(max=self.layers - 2), np.floor(c).astype(int).clip(max=self.columns - 2)
        u, v = d - i, c - j
        values = layers.astype(np.float32)
        laid = (1 - u) * ((1 - v) * values[i, :, j].T + v * values[i, :, j + 1].T)
        laid += u * ((1 - v) * values[i + 1, :, j].T + v * values[i + 1, :, j + 1].T)
        volume[self.margin : self.margin + self.rows, inside] = np.rint(laid).astype(np.uint8)
        return volume

    def _unrolled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Layer and column, with fractions, of every voxel [Y, X] of a plane."""
        _, height, width = self.shape_zyx
        cy, cx = self._centre_yx
        y, x = np.arange(height)[:, None] - cy, np.arange(width)[None] - cx
        depth = np.hypot(y, x) - self.radius + (self.layers - 1) / 2
        return depth, np.arctan2(x, y) * self.radius + (self.columns - 1) / 2


def write_tifxyz(folder: Path, points: NDArray[np.float32], scale: float = 1.0, source: str = "") -> Path:
    """Write points [3, rows, columns] (z y x, NaN for none) as a tifxyz segment, every ``1 / scale``-th of them."""
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    step = round(1 / scale)
    kept = points[:, ::step, ::step]
    low, high = (f(kept.reshape(3, -1), axis=1)[::-1].tolist() for f in (np.nanmin, np.nanmax))
    for name, values in zip("zyx", kept, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", np.where(np.isnan(values), -1, values), compression="zlib")
    meta = {"type": "seg", "format": "tifxyz", "uuid": folder.name, "scale": [scale, scale], "bbox": [low, high]}
    (folder / "meta.json").write_text(json.dumps(meta))
    if source:
        (folder / "volume_source.txt").write_text(source)
    return folder
