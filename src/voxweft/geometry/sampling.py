"""Places in a box that stand for all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.tiling import AxisTiles, TileGrid

RATIO = 1.2207440846057596  # g with g^4 = g + 1: multiples of 1/g, 1/g^2, 1/g^3 fill a cube evenly


def spread_points(box: Box, n: int) -> Iterator[Zyx]:
    """Voxels of a box, evenly spread: any first part of them covers it as well as so many can.

    >>> list(spread_points(Box((0, 0, 0), (1, 10, 100)), 3))
    [(0, 1, 4), (0, 8, 59), (0, 5, 14)]
    """
    for i in range(1, n + 1):
        sides = zip(box.start, box.shape, (1, 2, 3), strict=True)
        z, y, x = (a + int((0.5 + i / RATIO**k) % 1 * side) for a, side, k in sides)
        yield z, y, x


def sample_boxes(grid: TileGrid, region: Box, n: int) -> Iterator[Box]:
    """Boxes of about half a patch, at most ``n``, none twice; each voxel of the region is as likely as any other.

    patches   |=======|
                  |=======|
                      |=======|       so that faces come in their true share, and few patches are needed
    boxes     |   |   |   |   |       for a box: two an axis, one at a face

    """
    edges = [
        _edges(axis, o, (a, b)) for axis, o, a, b in zip(grid.axes, grid.origin, region.start, region.stop, strict=True)
    ]
    seen = set[Box]()
    for point in spread_points(region, n):
        spans = [(e[i - 1], e[i]) for e, p in zip(edges, point, strict=True) for i in [bisect_right(e, p)]]
        (z, z1), (y, y1), (x, x1) = spans
        box = Box((z, y, x), (z1, y1, x1))
        if box not in seen:
            seen.add(box)
            yield box


def _edges(axis: AxisTiles, origin: int, span: tuple[int, int]) -> list[int]:
    """Where boxes meet: at starts of patches, about half a patch apart, and in the middle of the last."""
    half, (lo, hi) = axis.size / 2, span
    edges = [lo]
    for start in (*axis.starts, round(axis.start(axis.count - 1) + half)):
        if start + origin - edges[-1] >= 0.75 * half and hi - start - origin >= 0.5 * half:
            edges.append(start + origin)
    return [*edges, hi]
