"""From a finished OME-Zarr to a picture: PNG, or TIFF in tiles; band by band, wherever it is to lie."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.names import writable
from voxweft.apps.ink.record import KEYWORD, TIFF_TITLE, Sides, pixel_um_of, record_of
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, Op, gather_op
from voxweft.engine.opened import Readable
from voxweft.engine.plan import Plan
from voxweft.engine.stage import Gather, Output, Stage
from voxweft.errors import RequestError, WriteError, first_line, write_error
from voxweft.geometry.box import Box
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.runner.place import PICTURE_FILE, PNG_PIXELS
from voxweft.runner.records import time_of
from voxweft.stores.url import local_path
from voxweft.version import __version__

PICTURE, KNOWN_PICTURE = PICTURE_FILE, "known-picture"  # names of the stages, and of their outputs
RESULT_NOTE = "result_s3_url.txt"
BAND = 1024
TILED = (".tif", ".tiff")
PNG_HEADER_BYTES = 33  # signature and IHDR
INCH_UM = 25400.0


def check_place(picture: str) -> None:
    """Refuse, before the work, a place where the picture cannot be written, or a time for it that is none.

    Raises
    ------
    RequestError
        Naming the place, or SOURCE_DATE_EPOCH.
    """
    time_of(0)
    if not is_remote(picture) and not writable(local_path(picture)):
        raise RequestError(f"{picture} cannot be written there; give another OUTPUT (--output-path, OUTPUT_PATH)")


def with_suffix(picture: str, height: int, width: int) -> str:
    """The place with its suffix: PNG where none was asked for, TIFF beyond 2^28 pixels."""
    if picture.endswith((".png", ".zarr", *TILED)):
        return picture
    return f"{picture}{'.png' if height * width <= PNG_PIXELS else '.tif'}"


def picture_stages(sweep: str, said: Mapping[str, Any]) -> list[Gather]:
    """The stages that make pictures of what a sweep over rows wrote: of the ink, and of where anything is known.

    Parameters
    ----------
    sweep
        Its name.
    said
        For the record of the pictures: "segment", its name; "pixel_um", the side of a pixel in micrometres, where the
        volume does not say it.
    """
    known = Op.of(write_picture, output=-1, **said)
    return [
        picture_stage(sweep, **said),
        Gather(KNOWN_PICTURE, known, needs=(sweep,), outputs=(Output(KNOWN_PICTURE),)),
    ]


def drawn_with(stage: Stage, said: Mapping[str, Any]) -> Stage:
    """The stage of a picture with another record."""
    if not isinstance(stage, Gather):
        raise RequestError(f"stage {stage.name} makes no picture")
    which = {name: value for name, value in stage.op.arguments.items() if name == "output"}
    return replace(stage, op=Op(stage.op.name, {**which, **said}))


def picture_stage(stage: str, **said: Any) -> Gather:
    """The stage that makes a picture of the first array that a stage over rows wrote."""
    return Gather(PICTURE, Op.of(write_picture, **said), needs=(stage,), outputs=(Output(PICTURE),))


@gather_op
def write_picture(gathered: Gathered, *, output: int = 0, segment: str = "", pixel_um: float = 0.0) -> Made:
    """Write a result as a picture with its record; what lay there is replaced when the new one is whole.

    ``output``: which array of the stage, and so which picture.

    Raises
    ------
    WriteError
        If it cannot be written or uploaded; the result stays, and reduce can be run again.
    """
    (results,), (place,) = gathered.outputs.values(), gathered.files.values()
    plan = Plan.from_json(gathered.ledger.plan() or b"{}")
    sides = (pixel_um, pixel_um) if pixel_um else pixel_um_of(plan)
    about = record_of(plan, sides) | ({"segment": segment} if segment else {})
    save_picture(place, results[output], about, sides)
    return Made()


def save_picture(place: str, result: Readable, about: Mapping[str, Any], pixel_yx_um: Sides | None) -> None:
    """Write rows [rows, 1, columns] as a picture, as the suffix of its place says, with a record in its metadata.

    Parameters
    ----------
    place
        A path or s3://; beside TIFF everything is PNG.
    result
        uint8 or uint16.
    about
        The record: plain JSON values.
    pixel_yx_um
        Height and width of a pixel in micrometres, for the resolution; None: unknown.
    """
    with _landing(place) as path:
        (_write_tiff if place.endswith(TILED) else _write_png)(path, result, about, pixel_yx_um)


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


def bands(result: Readable, height: int) -> Iterator[NDArray[Any]]:
    """Rows [rows, width] of the result, in order."""
    rows, _, width = result.shape_zyx
    for row in range(0, rows, height):
        values = result.read(Box((row, 0, 0), (min(rows, row + height), 1, width)))
        if values is not None:
            yield values[0, :, 0]


def _dtype(result: Readable) -> np.dtype[Any]:
    return next(bands(result, 1)).dtype


class _WithRecord:
    """A PNG as it is written, with a chunk of text behind its header."""

    def __init__(self, file: BinaryIO, text: str) -> None:
        self._file, self._text, self._n_bytes = file, text, 0

    def write(self, data: bytes) -> None:
        """What comes next; the header is written by itself."""
        import png

        self._file.write(data)
        self._n_bytes += len(data)
        if self._text and self._n_bytes == PNG_HEADER_BYTES:
            png.write_chunk(self._file, b"tEXt", f"{KEYWORD}\0{self._text}".encode("latin-1"))


def _write_png(path: Path, result: Readable, about: Mapping[str, Any], pixel_yx_um: Sides | None) -> None:
    import png

    rows, _, width = result.shape_zyx
    deep = _dtype(result) == np.uint16
    per_metre = {f"{axis}_pixels_per_unit": round(1e6 / um) for axis, um in zip("yx", pixel_yx_um or (), strict=False)}
    writer = png.Writer(
        width,
        rows,
        greyscale=True,
        bitdepth=16 if deep else 8,
        compression=zlib.Z_BEST_SPEED,
        **({**per_metre, "unit_is_meter": True} if per_metre else {}),
    )
    lines = (row.astype(">u2").tobytes() if deep else row.tobytes() for band in bands(result, BAND) for row in band)
    with path.open("wb") as file:
        writer.write_packed(_WithRecord(file, json.dumps(about)), lines)


def _write_tiff(path: Path, result: Readable, about: Mapping[str, Any], pixel_yx_um: Sides | None) -> None:
    import tifffile

    rows, _, width = result.shape_zyx
    tiles = (
        np.pad(tile, [(0, BAND - n) for n in tile.shape])
        for band in bands(result, BAND)
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
        description=f"{TIFF_TITLE}\n{json.dumps(about)}",
        metadata=None,  # the library's own
        software=f"voxweft {__version__}",
        resolution=(INCH_UM / pixel_yx_um[1], INCH_UM / pixel_yx_um[0]) if pixel_yx_um else None,
        resolutionunit="INCH" if pixel_yx_um else None,
        bigtiff=rows * width > 1 << 30,
    )
