"""From a finished OME-Zarr to a picture: PNG, or TIFF in tiles; band by band, wherever it is to lie."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.names import writable
from voxweft.apps.ink.options import ROWS_FIRST
from voxweft.engine.events import Emit, Event
from voxweft.errors import RequestError, WriteError
from voxweft.geometry.box import Box
from voxweft.image.protocols import Sink
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores import open_sink
from voxweft.stores.url import first_line, local_path, write_error

RESULT_NOTE = "result_s3_url.txt"
BAND = 1024
PNG_PIXELS = 1 << 28  # beyond this a picture without tiles is no comfort
TILED = (".tif", ".tiff")


def check_place(picture: str) -> None:
    """Refuse, before the work, a place where the picture cannot be written.

    Raises
    ------
    RequestError
        Naming the place.
    """
    if not is_remote(picture) and not writable(local_path(picture)):
        raise RequestError(f"{picture} cannot be written there; give another OUTPUT (--output-path, OUTPUT_PATH)")


def with_suffix(picture: str, zarr: str) -> str:
    """The place with its suffix: PNG where none was asked for, TIFF beyond 2^28 pixels."""
    if picture.endswith((".png", ".zarr", *TILED)):
        return picture
    sink = open_sink(zarr, order=ROWS_FIRST)
    height, _, width = sink.open().shape_zyx
    return f"{picture}{'.png' if height * width <= PNG_PIXELS else '.tif'}"


def write_picture(zarr: str, place: str, emit: Emit) -> None:
    """Write a result as a picture; what lay there is replaced when the new one is whole.

    Raises
    ------
    WriteError
        If it cannot be written or uploaded; the result stays, and reduce can be run again.
    """
    sink = open_sink(zarr, order=ROWS_FIRST)
    sink.open()
    with _landing(place) as path:
        if place.endswith(TILED):
            _write_tiff(path, sink)
        else:
            _write_png(path, sink)
    emit(Event("picture", place))


@contextmanager
def _landing(place: str) -> Iterator[Path]:
    """A temporary file that becomes the picture: beside it, or uploaded in the end."""
    remote = is_remote(place)
    folder = None if remote else local_path(place).absolute().parent
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".voxweft-", dir=folder) as temporary:
        path = Path(temporary) / "picture"
        try:
            yield path
            if remote:
                parent, _, name = place.rpartition("/")
                object_store(parent).put(name, path)
            else:
                path.replace(local_path(place))
        except OSError as error:
            raise write_error(place, error) from error
        except remote_errors() as error:
            raise WriteError(f"{place} cannot be written: {first_line(error)}") from error


def _bands(sink: Sink, height: int) -> Iterator[NDArray[Any]]:
    """Rows [rows, width] of the result, in order."""
    rows, _, width = sink.shape()
    for row in range(0, rows, height):
        yield sink.read(Box((row, 0, 0), (min(rows, row + height), 1, width)))[0, :, 0]


def _write_png(path: Path, sink: Sink) -> None:
    import png

    rows, _, width = sink.shape()
    deep = sink.open().dtype == "uint16"
    writer = png.Writer(width, rows, greyscale=True, bitdepth=16 if deep else 8, compression=zlib.Z_BEST_SPEED)
    lines = (row.astype(">u2").tobytes() if deep else row.tobytes() for band in _bands(sink, BAND) for row in band)
    with path.open("wb") as file:
        writer.write_packed(file, lines)


def _write_tiff(path: Path, sink: Sink) -> None:
    import tifffile

    rows, _, width = sink.shape()
    tiles = (
        np.pad(tile, [(0, BAND - n) for n in tile.shape])
        for band in _bands(sink, BAND)
        for tile in (band[:, x : x + BAND] for x in range(0, width, BAND))
    )
    tifffile.imwrite(
        path,
        tiles,
        shape=(rows, width),
        dtype=sink.open().dtype,
        tile=(BAND, BAND),
        compression="zlib",
        photometric="minisblack",
        bigtiff=rows * width > 1 << 30,
    )
