"""The accumulator of a column: weighted logits of all passes, rolled along z."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.device import fused_weaving
from voxweft.engine.stage import Pass, Sweep
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
    def of(cls, grid: TileGrid, window: str, sigma_scale: float, share: float = 1.0) -> Profiles:
        """The profiles of a grid; those along z sum to ``share``, that of its pass among all."""
        z, y, x = (unity_profiles(axis, window, sigma_scale) for axis in grid.axes)
        return cls(z if share == 1.0 else np.asarray(z * share, np.float32), y, x)


def profiles_of(sweep: Sweep) -> tuple[Profiles, ...]:
    """The profiles of all passes: together they sum to one, or each of them where passes are blended apart."""
    apart = bool(sweep.finish.pass_weights)
    total = sum(one.weight for one in sweep.passes)
    window, sigma = sweep.window, sweep.sigma_scale
    return tuple(Profiles.of(one.grid, window, sigma, 1.0 if apart else one.weight / total) for one in sweep.passes)


class Weights:
    """The blend weights of a sweep where its sums lie, and the products of logits with them, a buffer a pass."""

    def __init__(self, sweep: Sweep, device: str) -> None:
        import torch

        self.profiles, self.differences = profiles_of(sweep), sweep.finish.differences
        self._products = [torch.empty(one.grid.patch, device=device) for one in sweep.passes]
        self._weights = [tuple(torch.from_numpy(a).to(device) for a in (p.z, p.y, p.x)) for p in self.profiles]

    def of(self, one: int, tile: Tile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The weights of a patch along z, y and x."""
        wz, wy, wx = (along[n] for along, n in zip(self._weights[one], tile.index, strict=True))
        return wz, wy, wx

    def products(self, one: int, tile: Tile, logits: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of each channel that is accumulated the weighted logits [*patch]; good until the next one is asked for."""
        import torch

        iz, iy, ix = tile.index
        wz, wy, wx = self._weights[one]
        plane, column, product = wy[iy][:, None] * wx[ix], wz[iz][:, None, None], self._products[one]
        channels = logits.unbind()
        for channel in channels[self.differences :]:
            if self.differences:
                torch.sub(channel, channels[0], out=product)
                product.mul_(plane)
            else:
                torch.mul(channel, plane, out=product)
            yield product.mul_(column)


class Weaver:
    """Sums of weighted logits over a column; as many planes as the deepest patch has are held at any time.

        z  |~~~~~~~~~~~~~|  final: handed out by ``take`` and rolled away
           |=====+=======|  patch layer i: held, float32 [C', patch_z, Y, X]
           |=====+=======|
                 |=====+=====|  patch layer i + 1, of any pass

    Each voxel's sum is made of the same products in the same order in every division of the volume: products and sums
    are rounded one by one, never fused. Where patches were skipped, the sum is divided by the weight of those that ran.
    Passes that are blended apart have channels of their own, one pass after the other.

    Parameters
    ----------
    sweep
        Its passes, and what is accumulated.
    area
        The column's output box; only y and x are used.
    device
        Where the sums lie.
    weights
        Those of the sweep, where several weavers share them.
    """

    def __init__(self, sweep: Sweep, area: Box, device: str, weights: Weights | None = None) -> None:
        import torch

        self._passes, self._area = sweep.passes, area
        self._weights = weights or Weights(sweep, device)
        _, height, width = area.shape
        depth = max(one.grid.patch[0] for one in sweep.passes)
        self._sum = torch.zeros((sweep.finish.n_accumulated, depth, height, width), device=device)
        self._skips = _Skips(sweep.passes, self._weights.profiles, area)
        self._n_groups = len(sweep.finish.pass_weights) or 1
        self._one_is_enough = sweep.finish.average == "maximum"
        self._base = 0
        self._fused = fused_weaving(device)

    def begin_layer(self, one: int, z_index: int) -> None:
        """Make room for a patch layer of pass ``one``: its first plane becomes plane 0 of the sums."""
        grid = self._passes[one].grid
        start = grid.axes[0].start(z_index) + grid.origin[0]
        step = start - self._base
        depth = self._sum.shape[1]
        if 0 < step < depth:
            for plane in range(depth - step):  # plane by plane: source and target never overlap
                self._sum[:, plane].copy_(self._sum[:, plane + step])
        self._sum[:, max(0, depth - step) if step >= 0 else 0 :].zero_()
        self._base = start
        self._skips.begin_layer(one, z_index, start)

    def add(self, one: int, tile: Tile, logits: torch.Tensor) -> None:
        """Add the weighted logits [n_classes, *patch] of a patch of the current layer."""
        if self._fused and logits.stride(-1) == 1:
            (rows, columns), target = self._overlap(tile)
            wz, wy, wx = self._weights.of(one, tile)
            total = self._channels(one)[(slice(None), slice(0, tile.box.shape[0]), *target)]
            weights = (wz, wy[rows], wx[columns])
            self._fused(total, logits[:, :, rows, columns], weights, differences=self._weights.differences)
            return
        for channel, product in enumerate(self._weights.products(one, tile, logits)):
            self.put(one, channel, tile, product)

    def put(self, one: int, channel: int, tile: Tile, product: torch.Tensor) -> None:
        """Add what is weighted already [*patch], of one channel, as far as it lies in the area."""
        inside, target = self._overlap(tile)
        total = self._channels(one)[channel]
        product = product if inside == (slice(0, product.shape[1]), slice(0, product.shape[2])) else product[:, *inside]
        total[: len(product), *target].add_(product)

    def skip(self, one: int, tile: Tile) -> None:
        """Note that a patch of the current layer did not run."""
        self._skips.add(one, tile)

    def take(self, lo: int, hi: int) -> tuple[torch.Tensor, NDArray[np.bool_] | None]:
        """The blended planes ``lo <= z < hi`` [C', Z, Y, X] (a view) and where no patch ran, [Z, Y, X] or None."""
        import torch

        planes = slice(lo - self._base, hi - self._base)
        holes: list[NDArray[np.bool_] | None] = []
        for one in range(self._n_groups):
            weight = self._skips.weight(lo, hi, one if self._n_groups > 1 else None)
            uncovered = None if weight is None else weight == 0
            if weight is not None and uncovered is not None:
                blended = self._channels(one)[:, planes]
                blended.div_(torch.from_numpy(np.where(uncovered, np.float32(1), weight)).to(blended.device))
            holes.append(uncovered)
        return self._sum[:, planes], _nowhere(holes, one_is_enough=self._one_is_enough)

    def sums(self) -> NDArray[np.float32]:
        """The sums themselves, on the host [C', Z, Y, X]; what is written to them counts."""
        found: NDArray[np.float32] = self._sum.numpy()
        return found

    def state(self) -> tuple[int, list[Any]]:
        """The plane that is plane 0 of the sums, and what is known of skipped patches, as JSON values."""
        return self._base, self._skips.state()

    def restore(self, base: int, skips: list[Any]) -> None:
        """Go on from a state, with its sums."""
        self._base = base
        self._skips.restore(skips)

    def _channels(self, one: int) -> torch.Tensor:
        """The sums of a pass."""
        n = len(self._sum) // self._n_groups
        return self._sum[one * n : (one + 1) * n] if self._n_groups > 1 else self._sum

    def _overlap(self, tile: Tile) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices over y and x of the patch and of the column where they meet."""
        inside, target = [], []
        for a in (1, 2):
            lo = max(tile.box.start[a], self._area.start[a])
            hi = max(lo, min(tile.box.stop[a], self._area.stop[a]))
            inside.append(slice(lo - tile.box.start[a], hi - tile.box.start[a]))
            target.append(slice(lo - self._area.start[a], hi - self._area.start[a]))
        return (inside[0], inside[1]), (target[0], target[1])


def _nowhere(holes: Sequence[NDArray[np.bool_] | None], one_is_enough: bool) -> NDArray[np.bool_] | None:
    """Where the result says nothing: where one pass of those blended apart did not run, or where none did."""
    found = [hole for hole in holes if hole is not None]
    if not found or (one_is_enough and len(found) < len(holes)):
        return None
    return np.asarray((np.logical_and if one_is_enough else np.logical_or).reduce(found))


class _Skips:
    """Which patches of the live layers were skipped, and the weight of those that ran.

    The weights of a layer factorise once more: sum over patches = sum over rows of wy x (sum over the row's patches
    of wx). Zeros that other patches add change no bit, so the result at a voxel does not depend on the division.
    """

    def __init__(self, passes: Sequence[Pass], profiles: Sequence[Profiles], area: Box) -> None:
        self._grids, self._profiles, self._area = [one.grid for one in passes], profiles, area
        self._layers: dict[tuple[int, int], tuple[int, set[tuple[int, int]]]] = {}
        self._planes: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]] = {}

    def begin_layer(self, one: int, z_index: int, start: int) -> None:
        for old in [key for key, (s, _) in self._layers.items() if s + self._depth(key) <= start]:
            del self._layers[old]
            self._planes.pop(old, None)
        self._layers[one, z_index] = (start, set())

    def add(self, one: int, tile: Tile) -> None:
        z, y, x = tile.index
        self._layers[one, z][1].add((y, x))

    def state(self) -> list[Any]:
        return [[*key, start, sorted(skipped)] for key, (start, skipped) in self._layers.items()]

    def restore(self, state: list[Any]) -> None:
        self._layers = {(one, z): (start, {(y, x) for y, x in skipped}) for one, z, start, skipped in state}
        self._planes = {}

    def weight(self, lo: int, hi: int, one: int | None = None) -> NDArray[np.float32] | None:
        """Sum of the weights that ran [Z, Y, X], exactly 1 where nothing was skipped; None where nothing at all was.

        ``one``: of this pass alone.
        """
        live = {
            key: s
            for key, (s, _) in self._layers.items()
            if s < hi and s + self._depth(key) > lo and one in (None, key[0])
        }
        if not any(self._layers[key][1] for key in live):
            return None
        total = np.zeros((hi - lo, *self._area.shape[1:]), np.float32)
        touched = np.zeros(total.shape, np.bool_)
        for key, start in sorted(live.items()):
            ran, skipped = self._plane(key)
            rows = self._profiles[key[0]].z[key[1]]
            for z in range(max(lo, start), min(hi, start + self._depth(key))):
                total[z - lo] += rows[z - start] * ran
                touched[z - lo] |= skipped
        return np.where(touched, total, np.float32(1))

    def _depth(self, key: tuple[int, int]) -> int:
        return self._grids[key[0]].patch[0]

    def _plane(self, key: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Of one layer: the weight over y and x that ran, and where a skipped patch lies."""
        if key not in self._planes:
            one, skipped = key[0], self._layers[key][1]
            _, height, width = self._area.shape
            ran, holes = np.zeros((height, width), np.float32), np.zeros((height, width), np.bool_)
            _, ys, xs = self._grids[one].touching(self._area)
            spans_x = [(x, *self._span(one, 2, x)) for x in xs]
            for y in ys:
                rows, source = self._span(one, 1, y)
                row = np.zeros(width, np.float32)
                for x, columns, inner in spans_x:
                    if (y, x) in skipped:
                        holes[rows, columns] = True
                    else:
                        row[columns] += self._profiles[one].x[x, inner]
                ran[rows] += self._profiles[one].y[y, source][:, None] * row
            self._planes[key] = (ran, holes)
        return self._planes[key]

    def _span(self, one: int, axis: int, index: int) -> tuple[slice, slice]:
        """Where window ``index`` of an axis lies in the column, and the part of its profile that does."""
        grid = self._grids[one]
        start = grid.axes[axis].start(index) + grid.origin[axis]
        lo = max(start, self._area.start[axis])
        hi = max(lo, min(start + grid.patch[axis], self._area.stop[axis]))
        return slice(lo - self._area.start[axis], hi - self._area.start[axis]), slice(lo - start, hi - start)
