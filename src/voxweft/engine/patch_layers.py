"""The patches of a grid shared out among parts that keep them by themselves."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from voxweft.geometry.box import Box
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import Tile, TileGrid

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PatchLayers:
    """Patches numbered column by column (each belongs to the column where it begins), then z, y, x.

    Shares are consecutive numbers and differ by at most one patch, so no part is empty unless there are fewer patches
    than parts. The patches of a part that begin on one plane of one column are a layer; layers are numbered over all
    parts.

        column 0            column 1
        |1111|1111|1122|    |2222|2233|3333|3333|         part 1, 2, 3
         z 0  z 1  z 2       z 0  z 1  z 2  z 3

    Parameters
    ----------
    grid, region
        All patches that meet the region.
    columns
        How the output is divided.
    n_parts
        Number of shares.
    """

    grid: TileGrid
    columns: Columns
    region: Box
    n_parts: int

    @property
    def n_layers(self) -> int:
        """Over all parts."""
        return self._first_layers()[-1]

    def layers_of(self, part: int) -> range:
        """The numbers of a part's layers."""
        first = self._first_layers()
        return range(first[part], first[part + 1])

    def place(self, layer: int) -> tuple[int, int]:
        """The part of a layer, and its number in that part."""
        first = self._first_layers()
        part = bisect_right(first, layer) - 1
        return part, layer - first[part]

    def tiles(self, part: int) -> Iterator[list[list[Tile]]]:
        """The patches of a part: of each column its layers, from its first plane to its last."""
        for column, (lo, hi) in self._shares(part):
            zs, ys, xs = _owned(self)[column]
            layers: dict[int, list[Tile]] = {}
            for number in range(lo, hi):
                rest, x = divmod(number, len(xs))
                z, y = divmod(rest, len(ys))
                layers.setdefault(zs[z], []).append(self.grid.tile((zs[z], ys[y], xs[x])))
            yield [*layers.values()]

    def _first_layers(self) -> list[int]:
        return _first_layers(self)

    def _shares(self, part: int) -> Iterator[tuple[int, Span]]:
        """Columns, and the numbers of the patches in each that belong to a part."""
        sizes = [len(z) * len(y) * len(x) for z, y, x in _owned(self)]
        lo, hi = (i * sum(sizes) // self.n_parts for i in (part, part + 1))
        first = 0
        for column, size in enumerate(sizes):
            a, b = max(lo - first, 0), min(hi - first, size)
            if a < b:
                yield column, (a, b)
            first += size


@functools.lru_cache(maxsize=4)
def _first_layers(layers: PatchLayers) -> list[int]:
    """Number of the first layer of each part, and of the one after the last."""
    counts, owned = [0], _owned(layers)
    for part in range(layers.n_parts):
        n = 0
        for column, (lo, hi) in layers._shares(part):
            each = len(owned[column][1]) * len(owned[column][2])
            n += (hi - 1) // each - lo // each + 1
        counts.append(n)
    return [*itertools.accumulate(counts)]


@functools.lru_cache(maxsize=4)
def _owned(layers: PatchLayers) -> list[tuple[range, range, range]]:
    """Of each column the indices z, y, x of its patches; those that begin before the volume count as at 0."""
    grid, columns, region = layers.grid, layers.columns, layers.region
    touching, owned = grid.touching(region), []
    begins = [[max(0, s + o) for s in axis.starts] for axis, o in zip(grid.axes, grid.origin, strict=True)]
    for column in range(columns.n_columns):
        box, found = columns.box(column, range(columns.n_slabs)) & region, []
        for axis, begin in enumerate(begins):
            lo = 0 if box.start[axis] == region.start[axis] else box.start[axis]
            last = box.stop[axis] == region.stop[axis]
            hi = max(grid.axes[axis].extent, box.stop[axis]) if last else box.stop[axis]
            a, b = bisect_left(begin, lo), bisect_left(begin, hi)
            found.append(range(max(a, touching[axis].start), min(b, touching[axis].stop)))
        owned.append((found[0], found[1], found[2]))
    return owned
