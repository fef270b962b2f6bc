"""Surfaces in a volume as grids of points [3, rows, columns], z y x in voxels, NaN where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

Points = NDArray[np.float32]
LEAST = 1e-12  # length of a normal that has a direction


def grid_normals(points: Points) -> Points:
    """Unit normals of a grid of points, float32 [3, rows, columns], z y x.

    They are the cross product of the step along columns and the step along rows, in z y x, which is the one of rows
    and columns in x y z: the direction in which the layers of a segment are numbered. Steps are central differences,
    one-sided at the rim and beside points that are not there; NaN where a point has no neighbour.

    Examples
    --------
    >>> y, x = np.mgrid[:3, :4].astype(np.float32)
    >>> grid_normals(np.stack([np.zeros_like(x), y, x]))[:, 1, 2]
    array([-1.,  0.,  0.], dtype=float32)
    """
    normal = np.cross(_steps(points, 2), _steps(points, 1), axis=0)
    length = np.sqrt((normal * normal).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(length > LEAST, normal / length, np.nan)
    return np.where(np.isnan(points[0]), np.nan, unit).astype(np.float32)


def _steps(points: Points, axis: int) -> NDArray[np.float64]:
    """The change from point to point along an axis."""
    values = points.astype(np.float64)
    rim = np.full_like(values.take([0], axis), np.nan)
    change = np.concatenate([rim, np.diff(values, axis=axis), rim], axis)
    before, after = (change.take(range(k, k + values.shape[axis]), axis) for k in (0, 1))
    both = (before + after) / 2
    return np.where(np.isnan(both), np.where(np.isnan(before), after, before), both)


def between(grid: Points, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Points:
    """Values at fractions of a grid [3, rows, columns], bilinear; NaN where one that is needed is not there.

    >>> between(np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([0.5]), np.array([0.0, 1.5, 2.5]))
    array([[[1.5, 3. , nan]]], dtype=float32)
    """
    for axis, at in ((1, rows), (2, columns)):
        n = grid.shape[axis]
        low = np.floor(at).astype(np.int64)
        part = (at - low).reshape([-1 if k == axis else 1 for k in range(3)])
        there = ((at >= 0) & (at <= n - 1)).reshape(part.shape)
        a, b = (grid.take(np.clip(low + k, 0, n - 1), axis) for k in (0, 1))
        grid = np.where(there, np.where(part > 0, a + (b - a) * part, a), np.nan).astype(np.float32)
    return grid


def touched_cells(points: Points, cell_zyx: Zyx, grid_zyx: Zyx) -> NDArray[np.bool_]:
    """Which cells of a regular grid hold a point, bool [Z, Y, X]; points outside count for nothing.

    >>> touched_cells(np.array([[[0.0]], [[3.9]], [[4.0]]], np.float32), (4, 4, 4), (1, 1, 2)).ravel()
    array([False,  True])
    """
    found = np.zeros(grid_zyx, np.bool_)
    flat = points.reshape(3, -1)
    flat = flat[:, np.isfinite(flat).all(axis=0)]
    index = np.floor(flat.astype(np.float64)) // np.array(cell_zyx)[:, None]
    index = index[:, ((index >= 0) & (index < np.array(grid_zyx)[:, None])).all(axis=0)].astype(np.int64)
    found[tuple(index)] = True
    return found


def with_halo(cells: NDArray[np.bool_], halo: int) -> NDArray[np.bool_]:
    """Cells and all that are at most so many away from one of them, diagonally too.

    >>> with_halo(np.array([[[True, False, False]]]), 1).ravel()
    array([ True,  True, False])
    """
    for axis in range(cells.ndim):
        source, n = cells, cells.shape[axis]
        cells = source.copy()
        for k in range(1, min(halo, n - 1) + 1):
            ahead, behind = (
                tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(k, None), slice(-k))
            )
            cells[ahead] |= source[behind]
            cells[behind] |= source[ahead]
    return cells


def corner_cells(places: NDArray[np.float64], shape_zyx: Zyx, cell_zyx: Zyx) -> tuple[Zyx, NDArray[np.bool_]]:
    """The cells whose voxels are needed for values at places [3, N] inside a volume, by linear interpolation.

    Returns
    -------
    tuple
        Index of the first cell, and which are needed, bool [Z, Y, X] from there on.
    """
    low, high = np.empty(places.shape, np.int32), np.empty(places.shape, np.int32)
    for axis, (n, size) in enumerate(zip(shape_zyx, cell_zyx, strict=True)):
        voxel = np.clip(np.floor(places[axis]), 0, n - 1).astype(np.int32)
        cell_of = np.arange(n, dtype=np.int32) // size
        low[axis], high[axis] = cell_of[voxel], cell_of[np.minimum(voxel + 1, n - 1)]
    first, stop = low.min(axis=1), high.max(axis=1) + 1
    needed = np.zeros(stop - first, np.bool_)
    low -= first[:, None]
    needed[tuple(low)] = True
    high -= first[:, None]
    across = (low != high).any(axis=0)
    ends = (low[:, across], high[:, across])
    for corner in product((0, 1), repeat=3):
        z, y, x = (ends[k][axis] for axis, k in enumerate(corner))
        needed[z, y, x] = True
    z0, y0, x0 = first.tolist()
    return (z0, y0, x0), needed


def values_at(local: NDArray[np.generic], places: NDArray[np.float64], *, nearest: bool = False) -> NDArray[np.float32]:
    """Values float32 [C, N] of an array [C, Z, Y, X] at places [3, N], trilinear or of the nearest voxel.

    Beyond the middle of the outermost voxels their value goes on.

    >>> values_at(np.arange(4.0).reshape(1, 1, 1, 4), np.array([[0.0, 0], [0, 0], [1.5, 3.2]])).round(3)
    array([[1.5, 3. ]], dtype=float32)
    """
    import torch

    sides: Sequence[int] = local.shape[1:]
    scaled = [2 * p / (n - 1) - 1 if n > 1 else np.zeros_like(p) for p, n in zip(places, sides, strict=True)]
    grid = torch.from_numpy(np.stack(scaled[::-1], axis=-1).astype(np.float32))[None, None, None]
    values = torch.from_numpy(np.ascontiguousarray(local, np.float32))[None]
    how = {"mode": "nearest" if nearest else "bilinear", "padding_mode": "border", "align_corners": True}
    return torch.nn.functional.grid_sample(values, grid, **how)[0, :, 0, 0].numpy()  # type: ignore[arg-type]
