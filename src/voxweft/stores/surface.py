"""Surfaces of segments: a grid of points in the voxels of a scroll's finest level, read band by band."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError, first_line
from voxweft.geometry.box import Zyx
from voxweft.ops.surface import Points, grid_normals, touched_cells, with_halo
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores.url import local_path

BAND_POINTS = 1 << 20  # that are held at once


@dataclass(frozen=True, slots=True)
class SurfaceInfo:
    """What is known of a surface without reading its points.

    Attributes
    ----------
    url, format
        Where it lies, and how: "tifxyz", "obj" or "ppm".
    shape
        Rows and columns of the grid.
    scale
        Points per voxel along rows and along columns: 0.05 is a point every 20 voxels.
    source
        What it says of the volume that it was made on, or "".
    stamp
        Changes when its files change, where cheap to know.
    """

    url: str
    format: str
    shape: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    source: str = ""
    stamp: str = ""


class Surface(ABC):
    """A surface. Reading is safe from several threads at once."""

    info: SurfaceInfo

    @abstractmethod
    def points(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """Points ``row <= r < row_end`` of the grid, of all columns or of some.

        Returns
        -------
        ndarray
            float32 [3, rows, columns], z y x in voxels of the finest level; NaN where there is no point.

        Raises
        ------
        ReadError
            If they cannot be read.
        """

    def normals(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """Unit normals of the same points, float32 [3, rows, columns], z y x; NaN where there is none."""
        rows, columns = self.info.shape
        column_end = columns if column_end is None else column_end
        top, left = max(0, row - 1), max(0, column - 1)
        found = grid_normals(self.points(top, min(rows, row_end + 1), left, min(columns, column_end + 1)))
        return found[:, row - top : row_end - top, column - left : column_end - left]

    def bands(self) -> Iterator[Points]:
        """All points, a band of rows after the other."""
        rows, columns = self.info.shape
        height = max(1, BAND_POINTS // max(1, columns))
        for row in range(0, rows, height):
            yield self.points(row, min(rows, row + height))


@dataclass(frozen=True, slots=True)
class Survey:
    """Where a surface lies in a volume.

    Attributes
    ----------
    cells
        Which chunks hold a point, bool [Z, Y, X].
    n_points, n_inside
        Points that there are; those inside the volume.
    low_zyx, high_zyx
        Voxels of the level between which they lie.
    """

    cells: NDArray[np.bool_]
    n_points: int
    n_inside: int
    low_zyx: tuple[float, ...]
    high_zyx: tuple[float, ...]


def survey(surface: Surface, level: int, chunk_zyx: Zyx, shape_zyx: Zyx) -> Survey:
    """Read a surface once and say which chunks of a level of a volume it meets.

    Parameters
    ----------
    surface
        Any.
    level
        Resolution level: points are scaled by 1 / 2^level and floored.
    chunk_zyx, shape_zyx
        Chunk and extent of that level, in voxels.
    """
    z, y, x = (math.ceil(n / c) for n, c in zip(shape_zyx, chunk_zyx, strict=True))
    cells, n_points, n_inside = np.zeros((z, y, x), np.bool_), 0, 0
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for band in surface.bands():
        points = band.reshape(3, -1)
        points = points[:, np.isfinite(points).all(axis=0)] / np.float32(2**level)
        if not points.size:
            continue
        inside = ((points >= 0) & (np.floor(points) < np.array(shape_zyx)[:, None])).all(axis=0)
        n_points, n_inside = n_points + points.shape[1], n_inside + int(inside.sum())
        low, high = np.minimum(low, points.min(axis=1)), np.maximum(high, points.max(axis=1))
        cells |= touched_cells(points[:, inside], chunk_zyx, cells.shape)
    return Survey(cells, n_points, n_inside, tuple(low.tolist()), tuple(high.tolist()))


def surface_cells(surface: Surface, level: int, chunk_zyx: Zyx, shape_zyx: Zyx, halo: int = 1) -> NDArray[np.bool_]:
    """The chunks of a level of a volume that a surface meets, and those at most ``halo`` away: bool [Z, Y, X].

    See :func:`survey`.
    """
    return with_halo(survey(surface, level, chunk_zyx, shape_zyx).cells, halo)


def file_stamp(url: str) -> str:
    """Size and time of a local file, "" of one on a server."""
    if is_remote(url):
        return ""
    found = local_path(url).stat()
    return f"{found.st_size} {found.st_mtime_ns};"


def fetched(url: str) -> bytes:
    """All of a file, wherever it lies.

    Raises
    ------
    VolumeError
        If it is not there, or cannot be fetched.
    """
    if not is_remote(url):
        try:
            return local_path(url).read_bytes()
        except OSError as error:
            raise VolumeError(f"{url} cannot be read: {error.strerror}") from error
    folder, _, name = url.rpartition("/")
    store = object_store(folder)
    absent: tuple[type[Exception], ...] = (FileNotFoundError, *remote_errors())
    try:
        return bytes(store.get(name).bytes())
    except absent as error:
        raise VolumeError(f"{url} cannot be fetched: {first_line(error)}") from error
