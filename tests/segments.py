"""Segments for tests: one surface in the three formats, made from its points [3, rows, columns], z y x."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.surface import Points
from voxweft.stores.surface import Surface, SurfaceInfo


class Given(Surface):
    """A surface of points that are there already."""

    def __init__(self, points: NDArray[Any], scale: float = 1.0) -> None:
        self._points = points.astype(np.float32)
        self.info = SurfaceInfo("given", "points", points.shape[1:], (scale, scale))

    def points(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        return self._points[:, row:row_end, column:column_end]


def plane(rows: int = 40, columns: int = 50) -> NDArray[Any]:
    """A tilted plane, steps of about a voxel."""
    r, c = np.mgrid[:rows, :columns].astype(float)
    return np.stack([10 + 0.9 * r + 0.1 * c, 30 + 0.4 * c - 0.2 * r, 12 + 0.9 * c + 0.1 * r]).astype(np.float32)


def write_obj(path: Path, points: NDArray[Any], step: int = 1, *, normalized: bool = False) -> Path:
    """Two triangles between four points that are there, texture coordinates in columns and rows or from 0 to 1."""
    _, rows, columns = points.shape
    number, lines = dict[tuple[int, int], int](), list[str]()
    width, height = (columns - 1, rows - 1) if normalized else (1, 1)
    for r in range(0, rows, step):
        for c in range(0, columns, step):
            if not np.isnan(points[:, r, c]).any():
                number[r, c] = len(number) + 1
                z, y, x = points[:, r, c]
                lines += [f"v {x:.6f} {y:.6f} {z:.6f}", f"vt {c / width:.8f} {r / height:.8f}"]
    for r, c in number:
        corners = [number.get(at) for at in ((r, c), (r, c + step), (r + step, c), (r + step, c + step))]
        if all(corners):
            a, b, d, e = corners
            lines += [f"f {d}/{d} {a}/{a} {b}/{b}", f"f {d}/{d} {b}/{b} {e}/{e}"]
    path.write_text("\n".join(["# a segment", *lines]))
    return path


def write_ppm(path: Path, points: NDArray[Any], normals: NDArray[Any]) -> Path:
    """The map of every pixel, zeros where there is no point."""
    values = np.concatenate([points[::-1], normals[::-1]]).transpose(1, 2, 0).astype("<f8")
    values[np.isnan(values).any(axis=-1)] = 0
    head = f"width: {points.shape[2]}\nheight: {points.shape[1]}\ndim: 6\nordered: true\ntype: double\nversion: 1\n<>\n"
    path.write_bytes(head.encode() + values.tobytes())
    return path
