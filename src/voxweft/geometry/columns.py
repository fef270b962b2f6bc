"""How the output is divided: columns that are swept, slabs that are written, parts that workers take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx


@dataclass(frozen=True, slots=True)
class SlabRange:
    """Consecutive slabs of one column: what a worker sweeps without a stop."""

    column: int
    slabs: range


@dataclass(frozen=True, slots=True)
class Columns:
    """The output divided into columns (over y and x) and slabs (over z).

          y,x plane                 one column
        +-----+-----+---+         +-----+  slab 0
        |  0  |  1  | 2 |         +-----+  slab 1     every slab is written at once,
        +-----+-----+---+         +-----+  slab 2     and once
        |  3  |  4  | 5 |         +-----+
        +-----+-----+---+

    Parameters
    ----------
    shape
        The whole output, voxels z y x.
    region
        The box that is wanted (``--bbox``); slabs that do not meet it are left out.
    column_yx, slab_z
        Extent of a column and of a slab, in voxels; multiples of the shard.
    """

    shape: Zyx
    region: Box
    column_yx: tuple[int, int]
    slab_z: int

    @property
    def _ranges(self) -> tuple[range, range, range]:
        sizes = (self.slab_z, *self.column_yx)
        z, y, x = (
            range(a // s, math.ceil(b / s)) for a, b, s in zip(self.region.start, self.region.stop, sizes, strict=True)
        )
        return z, y, x

    @property
    def n_columns(self) -> int:
        """Number of columns that meet the region."""
        _, y, x = self._ranges
        return len(y) * len(x)

    @property
    def n_slabs(self) -> int:
        """Number of slabs of each column."""
        return len(self._ranges[0])

    @property
    def n_units(self) -> int:
        """Number of (column, slab) pairs: the entries of the ledger."""
        return self.n_columns * self.n_slabs

    def box(self, column: int, slabs: range) -> Box:
        """The output box of consecutive slabs, clipped at the array's end."""
        zs, ys, xs = self._ranges
        y, x = ys[column // len(xs)], xs[column % len(xs)]
        start = (zs[slabs[0]] * self.slab_z, y * self.column_yx[0], x * self.column_yx[1])
        stop = ((zs[slabs[-1]] + 1) * self.slab_z, (y + 1) * self.column_yx[0], (x + 1) * self.column_yx[1])
        return Box(start, stop) & Box.of(self.shape)

    def part(self, index: int, count: int) -> list[SlabRange]:
        """The share of part ``index`` of ``count``: consecutive units, columns outermost.

        Shares differ by at most one slab; some are empty where there are more parts than slabs.

        Raises
        ------
        RequestError
            If the index is not in 0 .. count - 1.

        Examples
        --------
        >>> columns = Columns((512, 512, 512), Box.of((512, 512, 512)), (512, 256), 128)
        >>> columns.part(1, 3)
        [SlabRange(column=0, slabs=range(2, 4)), SlabRange(column=1, slabs=range(0, 1))]
        """
        return list(self.runs(self.units(index, count)))

    def units(self, index: int, count: int) -> range:
        """The share of part ``index`` of ``count`` as numbers of units; see :meth:`part`."""
        if count < 1 or not 0 <= index < count:
            raise RequestError(f"--part-id {index} with --num-parts {count}: use 0 to {max(count, 1) - 1}")
        return range(index * self.n_units // count, (index + 1) * self.n_units // count)

    def touching(self, box: Box) -> Iterator[int]:
        """The numbers of the units that meet a box."""
        zs, ys, xs = self._ranges
        sizes = (self.slab_z, *self.column_yx)
        slabs, rows, columns = (
            range(max(r.start, a // s) - r.start, min(r.stop, -(-b // s)) - r.start)
            for r, a, b, s in zip((zs, ys, xs), box.start, box.stop, sizes, strict=True)
        )
        return (self.unit(y * len(xs) + x, z) for y in rows for x in columns for z in slabs)

    def unit(self, column: int, slab: int) -> int:
        """The number of a unit, columns outermost."""
        return column * self.n_slabs + slab

    def runs(self, units: range) -> Iterator[SlabRange]:
        """Consecutive units as runs of slabs, columns outermost."""
        lo = units.start
        while lo < units.stop:
            column, slab = divmod(lo, self.n_slabs)
            end = min(self.n_slabs, slab + units.stop - lo)
            yield SlabRange(column, range(slab, end))
            lo += end - slab
