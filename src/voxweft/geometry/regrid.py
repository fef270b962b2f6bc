"""Maps between two grids that cover the same extent: per axis, and their product.

Resampling is a weighted sum along each axis in turn, so it can be done for any box by itself.

    in      |   0   |   1   |   2   |       5 voxels for 3, the same edges:
    out     | 0  | 1  | 2  | 3  | 4  |      centre of out o = in (o + 0.5) n_in / n_out - 0.5

What lies beyond the first or last centre takes the value of the edge.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ORDERS = (0, 1, 3)
NEGLIGIBLE = 1e-7  # weight of an interpolating cubic spline below which a voxel is left out; about 12 away


@dataclass(frozen=True, slots=True)
class AxisMap:
    """How the voxels of one axis are made of those of another.

    Attributes
    ----------
    n_in, n_out
        Voxels of both.
    order
        0 nearest, 1 linear, 3 the interpolating cubic spline (that of ``scipy.ndimage.zoom`` with ``grid_mode``).
    offset
        Index, in the array that is made, of the first voxel out.

    Raises
    ------
    RequestError
        If a number is impossible.

    Examples
    --------
    >>> AxisMap(3, 5, 1).span(0, 2)
    (0, 2)
    >>> AxisMap(3, 5, 1).taps[1]
    array([[1. , 0. ],
           [0.6, 0.4],
           [1. , 0. ],
           [0.4, 0.6],
           [1. , 0. ]])
    >>> AxisMap(3, 5, 2)
    Traceback (most recent call last):
    voxweft.errors.RequestError: resampling 3 voxels to 5 by order 2; use order 0, 1 or 3 and at least one voxel
    """

    n_in: int
    n_out: int
    order: int
    offset: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS or min(self.n_in, self.n_out) < 1:
            raise RequestError(
                f"resampling {self.n_in} voxels to {self.n_out} by order {self.order}; use order 0, 1 or 3 and at "
                "least one voxel"
            )

    @property
    def taps(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Of every voxel out, first voxel in and weights [n_out, n]; voxels beyond the end have weight 0."""
        return _taps(self.n_in, self.n_out, self.order)

    def span(self, lo: int, hi: int) -> tuple[int, int]:
        """The voxels in that ``lo <= voxel out < hi`` are made of; indices out count from ``offset``."""
        first, weights = self.taps
        a, b = lo - self.offset, hi - self.offset
        return int(first[a:b].min()), min(self.n_in, int((first[a:b]).max()) + weights.shape[1])

    def matrix(self, lo: int, hi: int) -> csr_array:
        """Weights float32 of the voxels out, by rows, over those of their :meth:`span`."""
        from scipy.sparse import csr_array

        first, weights = self.taps
        a, b = lo - self.offset, hi - self.offset
        start, stop = self.span(lo, hi)
        n, k = b - a, weights.shape[1]
        columns = first[a:b, None] + np.arange(k) - start
        rows = np.repeat(np.arange(n), k)
        keep = weights[a:b].ravel() != 0
        values = weights[a:b].ravel()[keep].astype(np.float32)
        return csr_array((values, (rows[keep], columns.ravel()[keep])), shape=(n, stop - start))


@functools.lru_cache(64)
def _taps(n_in: int, n_out: int, order: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    places = np.arange(n_out)
    if n_in == n_out:
        return places, np.ones((n_out, 1))
    centres = np.clip((places + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    if order == 0:
        return np.floor(centres + 0.5).astype(np.int64).clip(0, n_in - 1), np.ones((n_out, 1))
    if order == 1:
        below = np.floor(centres).astype(np.int64)
        part = np.round(centres - below, 12)
        return below, np.stack([1 - part, part], axis=1)
    return _banded(_cubic(n_in, n_out))


def _cubic(n_in: int, n_out: int) -> NDArray[np.float64]:
    """The whole matrix [n_out, n_in], a column for each unit impulse."""
    from scipy.ndimage import zoom

    columns = [zoom(row, n_out / n_in, order=3, mode="nearest", grid_mode=True) for row in np.eye(n_in)]
    return np.stack(columns, axis=1)


def _banded(matrix: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The part of each row that is not negligible, at one width; rows sum to one."""
    heavy = np.abs(matrix) > NEGLIGIBLE
    first = heavy.argmax(axis=1)
    last = matrix.shape[1] - heavy[:, ::-1].argmax(axis=1)
    width = int((last - first).max())
    first = np.minimum(first, matrix.shape[1] - width)
    kept = np.take_along_axis(np.where(heavy, matrix, 0.0), first[:, None] + np.arange(width), axis=1)
    return first, kept / kept.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Regrid:
    """The product of the maps of three axes.

    Examples
    --------
    >>> maps = Regrid.of((10, 20, 20), (30, 20, 10), order=1)
    >>> maps.reach(Box((3, 0, 0), (6, 5, 5)))
    Box(start=(0, 0, 0), stop=(3, 5, 10))
    """

    axes: tuple[AxisMap, AxisMap, AxisMap]

    @classmethod
    def of(
        cls,
        shape_in: Zyx,
        shape_out: Zyx,
        order: int,
        *,
        offset: Zyx = (0, 0, 0),
        apart: int | None = None,
        order_apart: int = 0,
    ) -> Regrid:
        """Maps of one order; the axis ``apart`` (0 z, 1 y, 2 x) has another."""
        z, y, x = (
            AxisMap(n_in, n_out, order_apart if axis == apart else order, o)
            for axis, (n_in, n_out, o) in enumerate(zip(shape_in, shape_out, offset, strict=True))
        )
        return cls((z, y, x))

    @property
    def shape_in(self) -> Zyx:
        """Extent of the grid that is read."""
        z, y, x = (axis.n_in for axis in self.axes)
        return z, y, x

    @property
    def shape_out(self) -> Zyx:
        """Extent of the grid that is made."""
        z, y, x = (axis.n_out for axis in self.axes)
        return z, y, x

    @property
    def box_out(self) -> Box:
        """Where it lies in the array that is made."""
        start = tuple(axis.offset for axis in self.axes)
        return Box(start, tuple(a + n for a, n in zip(start, self.shape_out, strict=True)))  # type: ignore[arg-type]

    def reach(self, box: Box) -> Box:
        """The voxels in that a box out is made of."""
        sides = zip(self.axes, box.start, box.stop, strict=True)
        (a, b), (c, d), (e, f) = (axis.span(lo, hi) for axis, lo, hi in sides)
        return Box((a, c, e), (b, d, f))

    def resample(self, values: NDArray[Any], box: Box) -> NDArray[np.float32]:
        """The voxels [C, Z, Y, X] of a box out, from those of its :meth:`reach`.

        Products are summed tap by tap, in one order: the same voxel has the same bits in every box.
        """
        mz, my, mx = (axis.matrix(lo, hi) for axis, lo, hi in zip(self.axes, box.start, box.stop, strict=True))
        n, (nz, ny, nx) = len(values), box.shape
        out = np.empty((n, nz, ny, nx), np.float32)
        for c, channel in enumerate(values):
            flat = np.ascontiguousarray(channel, np.float32)
            planes = (mz @ flat.reshape(len(flat), -1)).reshape(nz, *flat.shape[1:])
            for z, plane in enumerate(planes):
                out[c, z] = (mx @ np.ascontiguousarray((my @ plane).T)).T
        return out
