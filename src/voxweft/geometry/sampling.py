"""Places in a box that stand for all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.tiling import AxisTiles, TileGrid

BASES = (2, 3, 5)  # of the Halton sequence, along z, y and x


def spread_points(box: Box, n: int) -> Iterator[Zyx]:
    """Voxels of a box, evenly spread: any first part of them covers it as well as so many can.

    >>> list(spread_points(Box((0, 0, 0), (1, 10, 100)), 3))
    [(0, 3, 20), (0, 6, 40), (0, 1, 60)]
    """
    for i in range(1, n + 1):
        sides = zip(box.start, box.shape, BASES, strict=True)
        z, y, x = (a + int(_radical_inverse(i, base) * side) for a, side, base in sides)
        yield z, y, x


def _radical_inverse(n: int, base: int) -> float:
    """The digits of ``n`` behind the point."""
    value, share = 0.0, 1.0
    while n:
        n, digit = divmod(n, base)
        share /= base
        value += digit * share
    return value


def sample_boxes(grid: TileGrid, region: Box, n: int) -> Iterator[Box]:
    """Boxes of about half a patch, at most ``n``, none twice, at points spread over a region.

        patches   |=======|
                     |=======|
                        |=======|         faces come in their true share, and few patches are needed for a box:
        boxes     |  |-|  |               two an axis where patches overlap by half, one at a face

    A few voxels at an end of a box are left out where a third patch reaches into it.
    """
    axes = [
        _spans(axis, o, (a, b)) for axis, o, a, b in zip(grid.axes, grid.origin, region.start, region.stop, strict=True)
    ]
    seen = set[Box]()
    for point in spread_points(region, n):
        (z, z1), (y, y1), (x, x1) = (
            next(span for span in one if p < span[1]) for one, p in zip(axes, point, strict=True)
        )
        box = Box((z, y, x), (z1, y1, x1))
        if box not in seen:
            seen.add(box)
            yield box


def _spans(axis: AxisTiles, origin: int, whole: tuple[int, int]) -> list[tuple[int, int]]:
    """The boxes of an axis, in order."""
    half, (lo, hi) = axis.size / 2, whole
    starts = [start + origin for start in axis.starts]
    edges = [lo]
    for start in (*starts, round(starts[-1] + half)):
        if start - edges[-1] >= 0.75 * half and hi - start >= 0.5 * half:
            edges.append(start)
    ends = [start + axis.size for start in starts]
    spans = list[tuple[int, int]]()
    for a, b in zip(edges, [*edges[1:], hi], strict=True):
        inside = [end for end in ends[bisect_right(ends, a) :][:2] if end <= min(a + half / 4, b - 1)]
        spans.append((max([a, *inside]), b))
    return spans
