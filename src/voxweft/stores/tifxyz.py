"""tifxyz: a folder with x.tif, y.tif and z.tif, one float32 value a point of the grid."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.installed import install_line
from voxweft.ops.surface import Points
from voxweft.remote import is_remote
from voxweft.stores.surface import Surface, SurfaceInfo, fetched, file_stamp
from voxweft.stores.url import children, local_path

AXES = ("z", "y", "x")
META, SOURCE = "meta.json", "volume_source.txt"
LOWEST = 1e-6  # of a scale that means anything


class Tifxyz(Surface):
    """The surface of a tifxyz folder: a path, s3:// or http(s)://.

    A point is there where its three values are finite and none is negative. ``meta.json`` gives the scale, points per
    voxel along x (columns) and y (rows); ``volume_source.txt`` the volume. Windows are decoded by themselves; files on
    a server are fetched whole, once.

    Raises
    ------
    VolumeError
        If a file is missing or damaged, or the three differ in shape.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        there = set() if url.startswith("http") else set(children(self._url))
        missing = [f"{a}.tif" for a in "xyz" if there and f"{a}.tif" not in there]
        if missing:
            raise VolumeError(
                f"{url} is no complete tifxyz: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            )
        self._data = {a: fetched(self._file(a)) for a in AXES} if is_remote(self._url) else {}
        shapes = {a: self._shape(a) for a in AXES}
        if len(set(shapes.values())) > 1:
            said = ", ".join(f"{a}.tif {shapes[a][0]} x {shapes[a][1]}" for a in "xyz")
            raise VolumeError(f"{url}: its files differ in shape, {said}; all three have a value a point")
        self.info = SurfaceInfo(
            url=self._url,
            format="tifxyz",
            shape=shapes["z"],
            scale=self._scale(there),
            source=self._said(SOURCE, there).decode(errors="replace").strip(),
            stamp="".join(file_stamp(self._file(a)) for a in AXES),
        )

    def points(self, row: int, row_end: int, column: int = 0, column_end: int | None = None) -> Points:
        """A window of the grid."""
        column_end = self.info.shape[1] if column_end is None else column_end
        found = np.empty((3, row_end - row, column_end - column), np.float32)
        for n, axis in enumerate(AXES):
            try:
                found[n] = self._window(axis, slice(row, row_end), slice(column, column_end))
            except Exception as error:  # decoders of damaged files raise anything
                raise ReadError(
                    f"{self._file(axis)} cannot be read, it is damaged or cut: {first_line(error)}"
                ) from error
        with np.errstate(invalid="ignore"):
            there = np.isfinite(found).all(axis=0) & (found >= 0).all(axis=0)
        found[:, ~there] = np.nan
        return found

    def _file(self, axis: str) -> str:
        return f"{self._url}/{axis}.tif"

    def _source(self, axis: str) -> Any:
        return io.BytesIO(self._data[axis]) if self._data else local_path(self._file(axis))

    def _shape(self, axis: str) -> tuple[int, int]:
        tifffile = _tifffile()
        try:
            with tifffile.TiffFile(self._source(axis)) as file:
                shape, dtype = file.pages[0].shape, np.dtype(file.pages[0].dtype)
        except Exception as error:  # likewise
            raise VolumeError(f"{self._file(axis)} is no readable TIFF: {first_line(error)}") from error
        if len(shape) != 2 or dtype.kind != "f" or not min(shape):
            raise VolumeError(f"{self._file(axis)} holds {dtype} {shape}; a tifxyz has float32 [rows, columns]")
        return int(shape[0]), int(shape[1])

    def _window(self, axis: str, rows: slice, columns: slice) -> NDArray[Any]:
        tifffile = _tifffile()
        with tifffile.TiffFile(self._source(axis)) as file:
            plain = file.pages[0].is_memmappable and not self._data
        if plain:
            return np.asarray(tifffile.memmap(self._source(axis), mode="r", page=0)[rows, columns])
        return np.asarray(tifffile.imread(self._source(axis), key=0, selection=(rows, columns)))

    def _said(self, name: str, there: set[str]) -> bytes:
        """A small file beside the points; nothing where there is none."""
        if there and name not in there:
            return b""
        try:
            return fetched(f"{self._url}/{name}")
        except VolumeError:
            return b""

    def _scale(self, there: set[str]) -> tuple[float, float]:
        text = self._said(META, there)
        if not text:
            return 1.0, 1.0
        try:
            along_x, along_y = (float(n) for n in json.loads(text).get("scale", (1, 1)))
        except (ValueError, TypeError, AttributeError) as error:
            raise VolumeError(f"{self._url}/{META} is damaged: {first_line(error)}") from error
        if not (LOWEST < along_x < 1 / LOWEST and LOWEST < along_y < 1 / LOWEST):
            raise VolumeError(f"{self._url}/{META}: a scale of {along_x}, {along_y} points a voxel cannot be")
        return along_y, along_x


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise VolumeError(f"tifxyz needs the extra 'ink': {install_line('ink')}") from error
    return tifffile
