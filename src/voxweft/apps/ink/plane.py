"""A picture of ink, or the OME-Zarr of one, as it is read: band by band, with its record."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.picture import BAND, bands
from voxweft.apps.ink.record import Sides, read_record
from voxweft.engine.opened import OpenedVolume, Readable
from voxweft.errors import VolumeError, first_line
from voxweft.image.views import Permute
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores import open_volume
from voxweft.stores.url import local_path

LEVELS = {"uint8": 256, "uint16": 65536}
PICTURES = (".png", ".tif", ".tiff", ".zarr")


@dataclass(frozen=True, slots=True)
class Plane:
    """A picture that is open.

    Attributes
    ----------
    url
        Where it lies.
    rows
        Its values [rows, 1, columns].
    n_levels
        256 or 65536.
    record
        What it says of its making; empty where it says nothing.
    sha256
        Of the file; "" of an OME-Zarr.
    """

    url: str
    rows: Readable
    n_levels: int
    record: dict[str, Any]
    sha256: str = ""

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns."""
        height, _, width = self.rows.shape_zyx
        return height, width

    @property
    def pixel_yx_um(self) -> Sides | None:
        """Height and width of a pixel in micrometres, where its record says it."""
        sides = self.record.get("pixel_um")
        return (float(sides[0]), float(sides[1])) if isinstance(sides, list) and len(sides) == 2 else None

    def bands(self, height: int = BAND) -> Iterator[NDArray[Any]]:
        """Its values [rows, columns], so many rows at once."""
        return bands(self.rows, height)


@contextmanager
def opened_plane(url: str) -> Iterator[Plane]:
    """Open a picture of grey values, 8 or 16 bit: PNG, TIFF or zarr; a path or s3://.

    Raises
    ------
    VolumeError
        If it is none.
    """
    is_zarr = url.rstrip("/").endswith(".zarr")
    if not url.rstrip("/").endswith(PICTURES):
        raise VolumeError(f"{url} is no picture: give one that ends in {', '.join(PICTURES)}")
    with tempfile.TemporaryDirectory(prefix="voxweft-") as folder:
        path = url if is_zarr or not is_remote(url) else _fetched(url, Path(folder))
        volume = open_volume(path)
        info = volume.info
        if info.shape_zyx[0] != 1 or info.n_channels != 1 or info.dtype not in LEVELS:
            raise VolumeError(
                f"{url} is {info.n_channels} x {info.shape_zyx} of {info.dtype}, no picture of 8 or 16 bit grey values"
            )
        rows = OpenedVolume(Permute((1, 0, 2)).of(volume))
        yield Plane(url, rows, LEVELS[info.dtype], read_record(path), "" if is_zarr else _sha256(path))


def _fetched(url: str, folder: Path) -> str:
    parent, _, name = url.rpartition("/")
    unreadable: tuple[type[Exception], ...] = (FileNotFoundError, *remote_errors())
    try:
        (folder / name).write_bytes(bytes(object_store(parent).get(name).bytes()))
    except unreadable as error:
        raise VolumeError(f"{url} cannot be read: {first_line(error)}") from error
    return str(folder / name)


def _sha256(path: str) -> str:
    with local_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def histogram(values: NDArray[np.unsignedinteger], n_levels: int) -> NDArray[np.int64]:
    """How many pixels have each value, int64 [levels].

    >>> histogram(np.array([1, 3, 3], np.uint8), 4).tolist()
    [0, 1, 0, 2]
    """
    return np.bincount(values.ravel(), minlength=n_levels).astype(np.int64)
