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
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, Op, gather_op
from voxweft.engine.opened import Readable
from voxweft.engine.stage import Gather, Output
from voxweft.errors import RequestError, WriteError, first_line
from voxweft.geometry.box import Box
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores.url import local_path, write_error

PICTURE, KNOWN_PICTURE = "picture", "known-picture"  # names of the stages, and of their outputs
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


def with_suffix(picture: str, height: int, width: int) -> str:
    """The place with its suffix: PNG where none was asked for, TIFF beyond 2^28 pixels."""
    if picture.endswith((".png", ".zarr", *TILED)):
        return picture
    return f"{picture}{'.png' if height * width <= PNG_PIXELS else '.tif'}"


def picture_stages(sweep: str) -> list[Gather]:
    """The stages that make pictures of what a sweep over rows wrote: of the ink, and of where anything is known."""
    return [
        Gather(PICTURE, Op.of(write_picture), needs=(sweep,), outputs=(Output(PICTURE),)),
        Gather(KNOWN_PICTURE, Op.of(write_picture, output=1), needs=(sweep,), outputs=(Output(KNOWN_PICTURE),)),
    ]


@gather_op
def write_picture(gathered: Gathered, output: int = 0) -> Made:
    """Write a result as a picture; what lay there is replaced when the new one is whole.

    ``output``: which array of the stage, and so which picture.

    Raises
    ------
    WriteError
        If it cannot be written or uploaded; the result stays, and reduce can be run again.
    """
    (results,), (place,) = gathered.outputs.values(), gathered.files.values()
    result = results[output]
    with _landing(place) as path:
        if place.endswith(TILED):
            _write_tiff(path, result)
        else:
            _write_png(path, result)
    return Made()


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


def _bands(result: Readable, height: int) -> Iterator[NDArray[Any]]:
    """Rows [rows, width] of the result, in order."""
    rows, _, width = result.shape_zyx
    for row in range(0, rows, height):
        values = result.read(Box((row, 0, 0), (min(rows, row + height), 1, width)))
        if values is not None:
            yield values[0, :, 0]


def _dtype(result: Readable) -> np.dtype[Any]:
    return next(_bands(result, 1)).dtype


def _write_png(path: Path, result: Readable) -> None:
    import png

    rows, _, width = result.shape_zyx
    deep = _dtype(result) == np.uint16
    writer = png.Writer(width, rows, greyscale=True, bitdepth=16 if deep else 8, compression=zlib.Z_BEST_SPEED)
    lines = (row.astype(">u2").tobytes() if deep else row.tobytes() for band in _bands(result, BAND) for row in band)
    with path.open("wb") as file:
        writer.write_packed(file, lines)


def _write_tiff(path: Path, result: Readable) -> None:
    import tifffile

    rows, _, width = result.shape_zyx
    tiles = (
        np.pad(tile, [(0, BAND - n) for n in tile.shape])
        for band in _bands(result, BAND)
        for tile in (band[:, x : x + BAND] for x in range(0, width, BAND))
    )
    tifffile.imwrite(
        path,
        tiles,
        shape=(rows, width),
        dtype=_dtype(result),
        tile=(BAND, BAND),
        compression="zlib",
        photometric="minisblack",
        bigtiff=rows * width > 1 << 30,
    )
