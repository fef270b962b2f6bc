"""Patch positions: per axis, and their product."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from voxweft.errors import GridError
from voxweft.geometry.box import Box, Zyx

Fit = Literal["spread", "snap"]
FITS: tuple[Fit, ...] = ("spread", "snap")


@dataclass(frozen=True, slots=True)
class AxisTiles:
    """Equal windows that cover one axis without a gap.

        extent  |0 1 2 3 4 5 6 7 8 9 10|
        snap    |=======|                 start 0
                      |=======|           start 3
                            |=======|     start 6
                              |=======|   start 7, moved in to end at 11
        spread  |=======|                 start 0    (nnU-Net: the step is made
                    |=======|             start 2     smaller until the windows
                         |=======|        start 5     spread evenly)
                              |=======|   start 7

    Parameters
    ----------
    extent
        Voxels on the axis.
    size
        Voxels of a window.
    step
        Target distance between starts; a float for ``spread``, rounded for ``snap``.
    fit
        "spread": n = ceil((extent - size) / step) + 1, starts round-half-even(i (extent - size) / (n - 1)), as nnU-Net
        and the scroll pipeline do. "snap": i * step, the last window moved in to end with the axis, as ITKIT, the ink
        pipeline and MONAI do.
    mirrored
        Whether the windows lie as they would if the axis were reversed; only where the last one is moved in, or an
        even spread is rounded, does it make a difference.

    Raises
    ------
    GridError
        If the window is longer than the axis (pad first), or the step is below one voxel or longer than the window.

    Examples
    --------
    >>> AxisTiles(extent=11, size=4, step=3, fit="snap").starts
    (0, 3, 6, 7)
    >>> AxisTiles(extent=75, size=32, step=16).starts
    (0, 14, 29, 43)
    >>> AxisTiles(extent=11, size=4, step=3, fit="snap", mirrored=True).starts
    (0, 1, 4, 7)
    >>> AxisTiles(extent=11, size=12, step=3)
    Traceback (most recent call last):
    voxweft.errors.GridError: a window of 12 voxels does not fit an axis of 11; pad first
    """

    extent: int
    size: int
    step: float
    fit: Fit = "spread"
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise GridError(f"fit {self.fit!r} is unknown; use one of {', '.join(FITS)}")
        if self.size > self.extent:
            raise GridError(f"a window of {self.size} voxels does not fit an axis of {self.extent}; pad first")
        if not 1 <= self.step <= self.size:
            raise GridError(f"a step of {self.step} voxels leaves gaps or does not move; use 1 to {self.size}")

    @property
    def count(self) -> int:
        """Number of windows."""
        step = round(self.step) if self.fit == "snap" else self.step
        return math.ceil((self.extent - self.size) / step) + 1

    def start(self, index: int) -> int:
        """First voxel of window ``index``."""
        room = self.extent - self.size
        if self.mirrored:
            return room - replace(self, mirrored=False).start(self.count - 1 - index)
        if self.fit == "snap":
            return min(index * round(self.step), room)
        return round(index * (room / (self.count - 1))) if self.count > 1 else 0

    @property
    def starts(self) -> tuple[int, ...]:
        """First voxel of every window, ascending."""
        return tuple(self.start(i) for i in range(self.count))

    def touching(self, lo: int, hi: int) -> range:
        """Indices of the windows that meet ``lo <= voxel < hi`` (starts ascend, so they are a range).

        >>> AxisTiles(extent=75, size=32, step=16).touching(40, 44)
        range(1, 4)
        """
        starts = self.starts
        first = next((i for i, s in enumerate(starts) if s + self.size > lo), self.count)
        last = next((i for i in range(self.count, 0, -1) if starts[i - 1] < hi), 0)
        return range(first, max(first, last))


@dataclass(frozen=True, slots=True)
class Tile:
    """A patch at a place: its index on each axis of the grid and the voxels that it reads."""

    index: Zyx
    box: Box


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The product of three axes of windows. Nothing is listed: a grid of 10^9 patches costs nothing.

    A volume smaller than the patch is padded on both sides (the smaller half before), as nnU-Net does; the grid
    then covers the padded extent, and ``origin`` says where its voxel (0, 0, 0) lies in the volume (<= 0).

    Examples
    --------
    >>> grid = TileGrid.of(shape=(75, 90, 20), patch=(32, 32, 32), overlap=0.5)
    >>> grid.n_tiles, grid.origin
    (20, (0, 0, -6))
    >>> grid.tile((3, 4, 0)).box
    Box(start=(43, 58, -6), stop=(75, 90, 26))
    """

    axes: tuple[AxisTiles, AxisTiles, AxisTiles]
    origin: Zyx = (0, 0, 0)

    @classmethod
    def of(
        cls,
        shape: Zyx,
        patch: Zyx,
        overlap: float,
        fit: Fit = "spread",
        pad: Literal["both", "after"] = "both",
        steps: Zyx | None = None,
    ) -> TileGrid:
        """The grid of a volume for patches that overlap by a fraction ``0 <= overlap < 1``.

        ``pad`` "after" pads a volume that is smaller than the patch at its end only. ``steps``, in voxels, take the
        place of the overlap.
        """
        if not 0 <= overlap < 1:
            raise GridError(f"an overlap of {overlap} is not a fraction; use 0 <= overlap < 1, for example 0.5")
        steps = steps or tuple(max(1.0, p * (1.0 - overlap)) for p in patch)  # type: ignore[assignment]
        axes = tuple(AxisTiles(max(n, p), p, s, fit) for n, p, s in zip(shape, patch, steps or (), strict=True))
        origin = tuple(-(max(p - n, 0) // 2) if pad == "both" else 0 for n, p in zip(shape, patch, strict=True))
        return cls(axes, origin)  # type: ignore[arg-type]

    def mirrored(self, shape: Zyx, axes: Sequence[int]) -> TileGrid:
        """The grid as it lies over the volume of this shape when the volume is reversed along axes (0 z, 1 y, 2 x).

        >>> TileGrid.of((11, 4, 4), (4, 4, 4), 0.25, "snap").mirrored((11, 4, 4), [0]).axes[0].starts
        (0, 1, 4, 7)
        """
        tiles, origin = list(self.axes), list(self.origin)
        for a in axes:
            tiles[a] = replace(tiles[a], mirrored=not tiles[a].mirrored)
            origin[a] = shape[a] - tiles[a].extent - origin[a]
        return TileGrid((tiles[0], tiles[1], tiles[2]), (origin[0], origin[1], origin[2]))

    @property
    def patch(self) -> Zyx:
        """Shape of a patch."""
        z, y, x = (axis.size for axis in self.axes)
        return z, y, x

    @property
    def n_tiles(self) -> int:
        """Number of patches."""
        return math.prod(axis.count for axis in self.axes)

    def tile(self, index: Zyx) -> Tile:
        """The patch at an index; its box is in voxels of the volume and may leave a volume that was padded."""
        z, y, x = (axis.start(i) + o for axis, i, o in zip(self.axes, index, self.origin, strict=True))
        depth, height, width = self.patch
        return Tile(index, Box((z, y, x), (z + depth, y + height, x + width)))

    def touching(self, box: Box) -> tuple[range, range, range]:
        """Per axis, the indices of the patches that meet a box of the volume."""
        z, y, x = (
            axis.touching(a - o, b - o)
            for axis, o, a, b in zip(self.axes, self.origin, box.start, box.stop, strict=True)
        )
        return z, y, x

    def __iter__(self) -> Iterator[Tile]:
        """All patches in grid order: z outermost, x innermost."""
        for z in range(self.axes[0].count):
            for y in range(self.axes[1].count):
                for x in range(self.axes[2].count):
                    yield self.tile((z, y, x))
