"""obj: a mesh of triangles with texture coordinates, which say where each lies on the flattened segment."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError
from voxweft.ops.surface import Points
from voxweft.stores.surface import Surface, SurfaceInfo, fetched, file_stamp

EDGE = 1e-6  # how far beyond an edge a point still belongs to a triangle, as a share of it
UNIT = (0.0, 1.0 + 1e-6)  # texture coordinates of a picture, of whatever size, lie between these
LARGEST = 1 << 31  # points of a grid
Corners = NDArray[np.float64]


class Mesh(Surface):
    """The surface of an obj as a grid of points: a column a unit of u, a row a unit of v, as tifxyz is written to obj.

    Texture coordinates that all lie between 0 and 1 are those of a picture; they are scaled so that a unit is a voxel,
    by the sizes of the triangles along u and v. Points between the corners of a triangle are interpolated; the file is
    held as a whole, the grid is made band by band.

    Raises
    ------
    VolumeError
        If there are no triangles with texture coordinates.
    """

    def __init__(self, url: str) -> None:
        corners, places = _triangles(url)
        places = places - places.reshape(-1, 2).min(axis=0)
        if places.max() <= UNIT[1]:
            places = places * _voxels_per_unit(corners, places)
        columns, rows = (math.ceil(n - EDGE) + 1 for n in places.reshape(-1, 2).max(axis=0))
        if rows * columns > LARGEST:
            raise VolumeError(
                f"{url} is a grid of {rows} x {columns} points by its texture coordinates; that is too large"
            )
        order = np.argsort(places[:, :, 1].min(axis=1), kind="stable")
        self._corners, self._places = corners[order], places[order]
        self._top, self._bottom = (f(self._places[:, :, 1], axis=1) for f in (np.min, np.max))
        self.info = SurfaceInfo(url, "obj", (rows, columns), stamp=file_stamp(url))

    def points(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """The points of a window of the grid; where triangles lie on each other, always the same one counts."""
        column_end = self.info.shape[1] if column_end is None else column_end
        found = np.full((3, row_end - row, column_end - column), np.nan, np.float32)
        left, right = (f(self._places[:, :, 0], axis=1) for f in (np.min, np.max))
        meets = (self._top < row_end) & (self._bottom >= row - EDGE) & (left < column_end) & (right >= column - EDGE)
        for n in np.flatnonzero(meets)[::-1]:
            _fill(found, (row, column), self._places[n], self._corners[n])
        with np.errstate(invalid="ignore"):
            found[:, ~(found >= 0).all(axis=0)] = np.nan
        return found


def _fill(found: Points, origin: tuple[int, int], place: Corners, corner: Corners) -> None:
    """Put the points of a triangle into a window."""
    low, high = np.ceil(place.min(axis=0) - EDGE).astype(int), np.floor(place.max(axis=0) + EDGE).astype(int)
    c0, r0 = max(low[0], origin[1]), max(low[1], origin[0])
    c1, r1 = min(high[0], origin[1] + found.shape[2] - 1), min(high[1], origin[0] + found.shape[1] - 1)
    (au, av), (bu, bv), (cu, cv) = place
    area = (bu - au) * (cv - av) - (cu - au) * (bv - av)
    if c0 > c1 or r0 > r1 or area == 0:
        return
    u, v = np.arange(c0, c1 + 1)[None] - au, np.arange(r0, r1 + 1)[:, None] - av
    b = (u * (cv - av) - v * (cu - au)) / area
    c = (v * (bu - au) - u * (bv - av)) / area
    inside = (b >= -EDGE) & (c >= -EDGE) & (b + c <= 1 + EDGE)
    values = corner[0][:, None, None] + b * (corner[1] - corner[0])[:, None, None]
    values = values + c * (corner[2] - corner[0])[:, None, None]
    window = found[:, r0 - origin[0] : r1 - origin[0] + 1, c0 - origin[1] : c1 - origin[1] + 1]
    window[:, inside] = values[:, inside]


def _triangles(url: str) -> tuple[Corners, Corners]:
    """Corners z y x [N, 3, 3] and their texture coordinates u v [N, 3, 2]."""
    vertices, textures, faces = list[list[float]](), list[list[float]](), list[list[tuple[int, int]]]()
    try:
        for line in fetched(url).decode("ascii", errors="replace").splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "v":
                vertices.append([float(n) for n in rest.split()[2::-1]])
            elif kind == "vt":
                textures.append([float(n) for n in rest.split()[:2]])
            elif kind == "f":
                faces += _fan([_corner(word, len(vertices), len(textures)) for word in rest.split()])
        if not faces:
            raise VolumeError(f"{url} holds no triangles; a segment is a mesh with v, vt and f lines")
        index = np.array(faces)
        corners = np.array(vertices, float).reshape(len(vertices), 3)[index[..., 0]]
        places = np.array(textures, float).reshape(len(textures), 2)[index[..., 1]]
        there = np.isfinite(corners).all(axis=(1, 2)) & np.isfinite(places).all(axis=(1, 2))
        if not there.any():
            raise ValueError("no triangle has finite numbers only")
        return corners[there], places[there]
    except (ValueError, IndexError) as error:
        raise VolumeError(f"{url} is no mesh with texture coordinates (v, vt, and f v/vt lines): {error}") from error


def _corner(word: str, n_vertices: int, n_textures: int) -> tuple[int, int]:
    """Vertex and texture of "3/7" or "3/7/2", from 0; negative ones count from the last."""
    numbers = re.fullmatch(r"(-?\d+)/(-?\d+)(?:/-?\d*)?", word)
    if not numbers:
        raise ValueError(f"a face has {word!r}")
    at = [
        int(n) - 1 if int(n) > 0 else int(n) + count
        for n, count in zip(numbers.groups(), (n_vertices, n_textures), strict=True)
    ]
    if not (0 <= at[0] < n_vertices and 0 <= at[1] < n_textures):
        raise ValueError(f"a face has {word!r}, which is not there")
    return at[0], at[1]


def _fan(corners: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """A polygon as triangles."""
    return [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]


def _voxels_per_unit(corners: Corners, places: Corners) -> NDArray[np.float64]:
    """How long a unit of u and one of v are, in voxels: the median of the triangles."""
    sides, steps = corners[:, 1:] - corners[:, :1], places[:, 1:] - places[:, :1]
    good = np.abs(np.linalg.det(steps)) > 0
    if not good.any():
        return np.ones(2)
    along = np.linalg.solve(steps[good], sides[good])  # d(z y x) / du and / dv
    return np.asarray(np.median(np.linalg.norm(along, axis=-1), axis=0))
