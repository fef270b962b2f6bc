"""ppm of volume-cartographer, the map of every pixel of a flattened segment: a position and a normal, six doubles."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.ops.surface import Points
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores.surface import Surface, SurfaceInfo, file_stamp
from voxweft.stores.url import local_path

END, HEADER_BYTES = b"<>\n", 4096
VALUES = 6
TYPES: dict[str, np.dtype[Any]] = {"double": np.dtype("<f8"), "float": np.dtype("<f4")}


class PixelMap(Surface):
    """The surface of a ppm: lines ``width: 9``, ``height: 5``, ``dim: 6``, ``ordered: true``, ``type: double``, ``<>``.

    Then x y z nx ny nz of every pixel, row by row; a pixel without a position holds zeros. One pixel is one point, and
    the normals are those of the file. Only the rows in demand are read, also of a file on a server.

    Raises
    ------
    VolumeError
        If the header or the size of the file is another.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        head = self._bytes(0, HEADER_BYTES)
        text, mark, _ = head.partition(END)
        fields = dict(re.findall(r"(\w+)\s*:\s*(\S+)", text.decode("ascii", errors="replace")))
        self._dtype = TYPES.get(fields.get("type", ""), np.dtype("u1"))
        try:
            width, height, dim = (int(fields[n]) for n in ("width", "height", "dim"))
        except (KeyError, ValueError) as error:
            raise VolumeError(
                f"{url} is no ppm of volume-cartographer: its header has no width, height, dim"
            ) from error
        ordered = fields.get("ordered", "").lower() in ("true", "1")
        if not mark or dim != VALUES or not ordered or self._dtype.kind != "f" or min(width, height) < 1:
            raise VolumeError(
                f"{url} has another ppm ({width} x {height}, dim {dim}, ordered {fields.get('ordered')}, type "
                f"{fields.get('type')}); voxweft reads ordered ones with 6 doubles a pixel"
            )
        self._start, n_bytes = len(text) + len(mark), width * height * VALUES * self._dtype.itemsize
        if not is_remote(url) and local_path(url).stat().st_size < self._start + n_bytes:
            raise VolumeError(f"{url} is cut: {width} x {height} pixels are {n_bytes} bytes, and fewer are there")
        self.info = SurfaceInfo(url, "ppm", (height, width), stamp=file_stamp(url))

    def points(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """The positions."""
        return self._rows(row, row_end)[2::-1, :, column:column_end]

    def normals(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """The normals, as they are stored; where one has no length that of the grid."""
        found = self._rows(row, row_end)[:2:-1, :, column:column_end]
        without = (found == 0).all(axis=0)
        if without.any():
            found = np.where(without, super().normals(row, row_end, column, column_end), found)
        return found

    def _rows(self, row: int, row_end: int) -> NDArray[np.float32]:
        """Positions x y z and normals of some rows, float32 [6, rows, columns]."""
        width = self.info.shape[1]
        line = width * VALUES * self._dtype.itemsize
        data = self._bytes(self._start + row * line, (row_end - row) * line)
        if len(data) < (row_end - row) * line:
            raise ReadError(f"{self._url} is cut: rows {row} to {row_end - 1} are not there")
        values = np.frombuffer(data, self._dtype).reshape(row_end - row, width, VALUES)
        found = np.moveaxis(values, -1, 0).astype(np.float32)
        with np.errstate(invalid="ignore"):
            there = np.isfinite(found).all(axis=0) & (found[:3] >= 0).all(axis=0) & found.any(axis=0)
        found[:, ~there] = np.nan
        return found

    def _bytes(self, start: int, count: int) -> bytes:
        folder, _, name = self._url.rpartition("/")
        store: Any = object_store(folder) if is_remote(self._url) else None
        absent: tuple[type[Exception], ...] = (OSError, *remote_errors())
        try:
            if store is not None:
                end = min(start + count, int(store.head(name)["size"]))
                return bytes(store.get_range(name, start=start, end=end))
            with local_path(self._url).open("rb") as file:
                file.seek(start)
                return file.read(count)
        except absent as error:
            raise VolumeError(f"{self._url} cannot be read: {first_line(error)}") from error
