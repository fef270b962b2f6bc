"""The accumulator of a column: weighted logits, rolled along z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile, TileGrid
from voxweft.geometry.window import unity_profiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Profiles:
    """Blend weights of every patch of a grid: float32 [count, patch] an axis, summing to one along it."""

    z: NDArray[np.float32]
    y: NDArray[np.float32]
    x: NDArray[np.float32]

    @classmethod
    def of(cls, grid: TileGrid, window: str, sigma_scale: float) -> Profiles:
        """The profiles of a grid."""
        return cls(*(unity_profiles(axis, window, sigma_scale) for axis in grid.axes))


class Weaver:
    """Sums of weighted logits over a column; ``patch_z`` planes are held at any time.

        z  |~~~~~~~~~~~~~|  final: handed out by ``take`` and rolled away
           |=====+=======|  layer i: held, float32 [C', patch_z, Y, X]
           |=====+=======|
                 |=====+=====|  layer i + 1

    Each voxel's sum is made of the same products in the same order in every cut of the volume: products and sums are
    rounded one by one, never fused. Where patches were skipped, the sum is divided by the weight of those that ran.

    Parameters
    ----------
    grid, profiles
        Patch positions and weights.
    area
        The column's output box; only y and x are used.
    n_accumulated, differences
        Channels held; whether they are differences to class 0.
    device
        Where the sums lie.
    """

    def __init__(
        self, grid: TileGrid, profiles: Profiles, area: Box, n_accumulated: int, differences: bool, device: str
    ) -> None:
        import torch

        self._grid, self._area, self._differences = grid, area, differences
        _, height, width = area.shape
        self._sum = torch.zeros((n_accumulated, grid.patch[0], height, width), device=device)
        self._product = torch.empty(grid.patch, device=device)
        self._weights = tuple(torch.from_numpy(p).to(device) for p in (profiles.z, profiles.y, profiles.x))
        self._skips = _Skips(grid, profiles, area)
        self._base = 0

    def begin_layer(self, z_index: int) -> None:
        """Make room for the patches of a layer: their first plane becomes plane 0 of the sums."""
        start = self._grid.axes[0].start(z_index) + self._grid.origin[0]
        step = start - self._base
        depth = self._sum.shape[1]
        if 0 < step < depth:
            for plane in range(depth - step):  # plane by plane: source and target never overlap
                self._sum[:, plane].copy_(self._sum[:, plane + step])
        self._sum[:, max(0, depth - step) if step >= 0 else 0 :].zero_()
        self._base = start
        self._skips.begin_layer(z_index, start)

    def add(self, tile: Tile, logits: torch.Tensor) -> None:
        """Add the weighted logits [n_classes, *patch] of a patch of the current layer."""
        import torch

        iz, iy, ix = tile.index
        wz, wy, wx = self._weights
        plane = wy[iy][:, None] * wx[ix]
        column = wz[iz][:, None, None]
        inside, target = self._cut(tile)
        for channel, total in enumerate(self._sum):
            if self._differences:
                torch.sub(logits[channel + 1], logits[0], out=self._product)
                self._product.mul_(plane)
            else:
                torch.mul(logits[channel], plane, out=self._product)
            self._product.mul_(column)
            total[(slice(None), *target)].add_(self._product[(slice(None), *inside)])

    def skip(self, tile: Tile) -> None:
        """Note that a patch of the current layer did not run."""
        self._skips.add(tile)

    def take(self, lo: int, hi: int) -> tuple[torch.Tensor, NDArray[np.bool_] | None]:
        """The blended planes ``lo <= z < hi`` [C', Z, Y, X] (a view) and where no patch ran, [Z, Y, X] or None."""
        import torch

        blended = self._sum[:, lo - self._base : hi - self._base]
        weight = self._skips.weight(lo, hi)
        if weight is None:
            return blended, None
        bare = weight == 0
        blended.div_(torch.from_numpy(np.where(bare, np.float32(1), weight)).to(blended.device))
        return blended, bare

    def _cut(self, tile: Tile) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices over y and x of the patch and of the column where they meet."""
        inside, target = [], []
        for a in (1, 2):
            lo = max(tile.box.start[a], self._area.start[a])
            hi = max(lo, min(tile.box.stop[a], self._area.stop[a]))
            inside.append(slice(lo - tile.box.start[a], hi - tile.box.start[a]))
            target.append(slice(lo - self._area.start[a], hi - self._area.start[a]))
        return (inside[0], inside[1]), (target[0], target[1])


class _Skips:
    """Which patches of the live layers were skipped, and the weight of those that ran.

    The weights of a layer factorise once more: sum over patches = sum over rows of wy x (sum over the row's patches
    of wx). Zeros that other patches add change no bit, so the result at a voxel does not depend on the cut.
    """

    def __init__(self, grid: TileGrid, profiles: Profiles, area: Box) -> None:
        self._grid, self._profiles, self._area = grid, profiles, area
        self._layers: dict[int, tuple[int, set[tuple[int, int]]]] = {}
        self._planes: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}

    def begin_layer(self, z_index: int, start: int) -> None:
        depth = self._grid.patch[0]
        for old in [i for i, (s, _) in self._layers.items() if s + depth <= start]:
            del self._layers[old]
            self._planes.pop(old, None)
        self._layers[z_index] = (start, set())

    def add(self, tile: Tile) -> None:
        z, y, x = tile.index
        self._layers[z][1].add((y, x))

    def weight(self, lo: int, hi: int) -> NDArray[np.float32] | None:
        """Sum of the weights that ran [Z, Y, X], exactly 1 where nothing was skipped; None where nothing at all was."""
        depth = self._grid.patch[0]
        live = {i: s for i, (s, _) in self._layers.items() if s < hi and s + depth > lo}
        if not any(self._layers[i][1] for i in live):
            return None
        total = np.zeros((hi - lo, *self._area.shape[1:]), np.float32)
        touched = np.zeros(total.shape, np.bool_)
        for i, start in sorted(live.items()):
            ran, skipped = self._plane(i)
            for z in range(max(lo, start), min(hi, start + depth)):
                total[z - lo] += self._profiles.z[i, z - start] * ran
                touched[z - lo] |= skipped
        return np.where(touched, total, np.float32(1))

    def _plane(self, z_index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Of one layer: the weight over y and x that ran, and where a skipped patch lies."""
        if z_index not in self._planes:
            skipped = self._layers[z_index][1]
            _, height, width = self._area.shape
            ran, holes = np.zeros((height, width), np.float32), np.zeros((height, width), np.bool_)
            _, ys, xs = self._grid.touching(self._area)
            spans_x = [(x, *self._span(2, x)) for x in xs]
            for y in ys:
                rows, source = self._span(1, y)
                row = np.zeros(width, np.float32)
                for x, columns, inner in spans_x:
                    if (y, x) in skipped:
                        holes[rows, columns] = True
                    else:
                        row[columns] += self._profiles.x[x, inner]
                ran[rows] += self._profiles.y[y, source][:, None] * row
            self._planes[z_index] = (ran, holes)
        return self._planes[z_index]

    def _span(self, axis: int, index: int) -> tuple[slice, slice]:
        """Where window ``index`` of an axis lies in the column, and the part of its profile that does."""
        start = self._grid.axes[axis].start(index) + self._grid.origin[axis]
        lo = max(start, self._area.start[axis])
        hi = max(lo, min(start + self._grid.patch[axis], self._area.stop[axis]))
        return slice(lo - self._area.start[axis], hi - self._area.start[axis]), slice(lo - start, hi - start)
