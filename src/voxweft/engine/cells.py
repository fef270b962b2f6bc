"""The mask of a sparse sweep, cell by cell: cells that hold nothing of it are not looked at again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.masking import mask_scale
from voxweft.geometry.box import Box, Zyx
from voxweft.image.protocols import Volume

Cell = tuple[int, int]
"""Index y, x of a column of cells."""
Inside = NDArray[np.bool_] | None
"""Which voxels [Z, Y, X] of a cell lie inside the mask; None: all of them."""


class CellMask:
    """Where the result counts, for cells of the output grid within a box.

        y,x plane of one row of cells       # inside the mask     . active cells; all others cost nothing
        +-----+-----+-----+-----+
        |     |. ###|.#   |     |
        +-----+-----+-----+-----+
        |.####|.##  |     |     |
        +-----+-----+-----+-----+

    Parameters
    ----------
    volume
        As large as the swept volume, or smaller by a whole factor an axis; inside where it is above 0.
    shape
        Extent of the swept volume.
    cell_zyx
        Of a cell: a chunk of the output.
    box
        What is made; nothing outside it is active.
    """

    def __init__(self, volume: Volume, shape: Zyx, cell_zyx: Zyx, box: Box) -> None:
        self._volume, self._scale = volume, mask_scale(volume.info, shape)
        self.cell_zyx, self._box = cell_zyx, box
        self._rows: dict[int, dict[Cell, Inside]] = {}

    def load(self, hi: int) -> None:
        """Hold the rows of cells up to plane ``hi``."""
        first = max(self._rows, default=self._box.start[0] // self.cell_zyx[0] - 1) + 1
        for row in range(first, self._row_after(min(hi, self._box.stop[0]))):
            self._rows[row] = dict(self._read(row))

    def need(self, lo: int, hi: int) -> None:
        """Hold what covers the planes ``lo <= z < hi``; ``lo`` never goes back."""
        self.load(hi)
        for row in [row for row in self._rows if (row + 1) * self.cell_zyx[0] <= lo and row < max(self._rows)]:
            del self._rows[row]

    def active(self, lo: int, hi: int) -> set[Cell]:
        """The cells that hold anything of the mask in held planes."""
        return {cell for row in self._rows_of(lo, hi) for cell in self._rows.get(row, ())}

    def spans(self, cell: Cell, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The planes of active cells of a column of cells between two planes."""
        depth = self.cell_zyx[0]
        for row in self._rows_of(lo, hi):
            if cell in self._rows.get(row, ()):
                yield max(lo, row * depth), min(hi, (row + 1) * depth)

    def misses(self, box: Box) -> bool:
        """Whether the mask is 0 in all of a box of held planes."""
        within = box & self._box
        ys, xs = (
            range(a // n, -(-b // n))
            for a, b, n in list(zip(within.start, within.stop, self.cell_zyx, strict=True))[1:]
        )
        for row in self._rows_of(within.start[0], within.stop[0]):
            held = self._rows.get(row, {})
            for cell in itertools.product(ys, xs):
                if cell in held and self._any(held[cell], row, cell, within):
                    return False
        return True

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """Where plane ``z`` of the box of a cell lies outside the mask, [Y, X]; None where nowhere."""
        row, cell = z // self.cell_zyx[0], (box.start[1] // self.cell_zyx[1], box.start[2] // self.cell_zyx[2])
        inside = self._rows[row][cell]
        return None if inside is None else ~inside[z - self.area(cell, row).start[0]]

    def area(self, cell: Cell, row: int | None = None) -> Box:
        """The voxels of a cell, or of a whole column of cells, that are made."""
        (z, y, x), (lo, hi) = self.cell_zyx, (self._box.start[0], self._box.stop[0])
        if row is not None:
            lo, hi = row * z, (row + 1) * z
        start, stop = (lo, cell[0] * y, cell[1] * x), (hi, (cell[0] + 1) * y, (cell[1] + 1) * x)
        return Box(start, stop) & self._box

    def _any(self, inside: Inside, row: int, cell: Cell, box: Box) -> bool:
        area = self.area(cell, row)
        return inside is None or bool(inside[(area & box).shift(area.start, -1).slices].any())

    def _rows_of(self, lo: int, hi: int) -> range:
        return range(lo // self.cell_zyx[0], self._row_after(hi))

    def _row_after(self, hi: int) -> int:
        return -(-hi // self.cell_zyx[0])

    def _read(self, row: int) -> Iterator[tuple[Cell, Inside]]:
        """The active cells of a row, read in strips along x."""
        (_, y0, x0), (_, y1, x1) = self._box.start, self._box.stop
        cz, cy, cx = self.cell_zyx
        for y in range(y0 // cy, -(-y1 // cy)):
            strip = Box((row * cz, y * cy, x0), ((row + 1) * cz, (y + 1) * cy, x1)) & self._box
            coarse = self._coarse(strip)
            values = self._volume.read(coarse)[0] > 0
            if not values.any():
                continue
            for x in range(x0 // cx, -(-x1 // cx)):
                area = self.area((y, x), row)
                part = self._coarse(area)
                own = values[part.shift(coarse.start, -1).slices]
                if own.all():
                    yield (y, x), None
                elif own.any():
                    yield (y, x), self._fine(own, part, area)

    def _coarse(self, box: Box) -> Box:
        """The voxels of the mask that cover a box, at least one an axis."""
        extent = self._volume.info.shape_zyx
        start, stop = [], []
        for a, b, k, n in zip(box.start, box.stop, self._scale, extent, strict=True):
            stop.append(min(-(-b // k), n))
            start.append(max(0, min(a // k, stop[-1] - 1)))
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def _fine(self, values: NDArray[np.bool_], coarse: Box, box: Box) -> NDArray[np.bool_]:
        """The voxels of a box from those of the mask that cover it; the last ones go on where the mask is short."""
        for axis, (k, first, a, b) in enumerate(zip(self._scale, coarse.start, box.start, box.stop, strict=True)):
            index = np.minimum(np.arange(a, b) // k - first, values.shape[axis] - 1)
            values = values.take(index, axis)
        return np.ascontiguousarray(values)
