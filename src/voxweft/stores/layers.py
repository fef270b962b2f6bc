"""Numbered pictures of a surface volume, one file a layer: ``layers/00.tif``, ``layers/01.tif``, ..."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.ref import VolumeRef
from voxweft.image.views import eight_bit
from voxweft.installed import install_line
from voxweft.remote import is_remote, object_store, remote_errors
from voxweft.stores.url import children, local_path

TIFF, PICTURES = (".tif", ".tiff"), (".png", ".jpg", ".jpeg")
SUFFIXES = (*TIFF, *PICTURES)
AT_ONCE = 8


class LayersVolume:
    """Layers ``start <= n < stop`` of a folder as a volume uint8 [1, Z, Y, X], z being the layer.

    8-bit values stay as they are, of 16-bit ones the upper byte is taken (value >> 8), so that the whole range fits. Of
    colours TIFF gives the first channel, PNG and JPEG their brightness.

    Parameters
    ----------
    url
        Folder with ``layers/``, or the folder of the numbered files itself: a path, s3:// or http(s)://.
    start, stop
        Layers, the second one exclusive; z = 0 is layer ``start``.

    Raises
    ------
    VolumeError
        If there are no layers, or some are missing, doubled, of another size or of another kind.
    """

    def __init__(self, url: str, start: int, stop: int) -> None:
        self.url, self._files = url.rstrip("/"), _files(url.rstrip("/"), start, stop)
        self.ref = VolumeRef(self.url, opener="layers", arguments={"start": start, "stop": stop})
        first = _Picture(self._files[0])
        stamps = hashlib.sha256("".join(map(_stamp, self._files)).encode())
        if not first.fetched:  # of files on a server the headers cannot be had without the rest
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda file: self._picture(file, first.shape), self._files[1:]))
        self.info = VolumeInfo(
            url=self.url,
            format="layers",
            shape_zyx=(stop - start, *first.shape),
            dtype="uint8",
            chunk_zyx=(1, *first.piece),
            levels=((stop - start, *first.shape),),
            stamp=stamps.hexdigest()[:16],
            details={"stored_as": str(first.dtype)},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [1, Z, Y, X]; of TIFF in strips or tiles only the pieces in demand are decoded."""
        out = np.empty((1, *box.shape), np.uint8)

        def fill(z: int) -> None:
            try:
                picture = self._picture(self._files[z], self.info.shape_zyx[1:])
                out[0, z - box.start[0]] = picture.read(*box.slices[1:])
            except VolumeError as error:
                raise ReadError(str(error)) from error

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="voxweft-layers") as pool:
            list(pool.map(fill, range(box.start[0], box.stop[0])))
        return out

    @staticmethod
    def _picture(file: str, shape: tuple[int, int]) -> _Picture:
        """A layer of the right size."""
        picture = _Picture(file)
        if picture.shape != shape:
            raise VolumeError(f"{file} is {picture.shape}, the first layer {shape}")
        return picture


class _Picture:
    """One file: its shape (y, x), dtype, and the piece (y, x) that is decoded at once."""

    def __init__(self, url: str) -> None:
        self._url, self.fetched = url, is_remote(url)
        self._data = _fetch(url) if self.fetched else b""
        self._is_tiff = url.lower().endswith(TIFF)
        try:
            self.shape, self.dtype, self.piece = self._tiff_header() if self._is_tiff else self._header()
        except VolumeError:
            raise
        except Exception as error:  # decoders of damaged files raise anything
            raise VolumeError(f"{url} is no readable picture: {first_line(error)}") from error
        if self.dtype not in (np.uint8, np.uint16):
            raise VolumeError(f"{url} holds {self.dtype} values; layers are 8-bit or 16-bit")

    @property
    def _source(self) -> Any:
        return io.BytesIO(self._data) if self.fetched else local_path(self._url)

    def read(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """A box of it, uint8 [Y, X]."""
        try:
            values = self._read_tiff(rows, columns) if self._is_tiff else self._decode()[rows, columns]
        except Exception as error:  # likewise
            raise VolumeError(f"{self._url} cannot be read, it is damaged or cut: {first_line(error)}") from error
        return eight_bit(values)

    def _tiff_header(self) -> tuple[tuple[int, int], np.dtype[Any], tuple[int, int]]:
        with _tifffile().TiffFile(self._source) as file:
            page = file.pages[0]
            if page.samplesperpixel > 1 and page.planarconfig != 1:
                raise VolumeError(f"{self._url} stores its {page.samplesperpixel} colours apart; give one channel")
            pieces = (page.dataoffsets, page.databytecounts)
            there = all(len(p) == math.prod(page.chunked) for p in pieces)
            if not there or any(at + n > file.filehandle.size for at, n in zip(*pieces, strict=True)):
                raise VolumeError(f"{self._url} is damaged or cut: some of its strips or tiles are missing")
            self._whole = page.is_memmappable and not self.fetched
            height, width = int(page.imagelength), int(page.imagewidth)
            piece = (1, width) if self._whole else (int(page.chunks[0]), int(page.chunks[1]))
            return (height, width), np.dtype(page.dtype), piece

    def _read_tiff(self, rows: slice, columns: slice) -> NDArray[Any]:
        tifffile = _tifffile()
        if self._whole:
            values = tifffile.memmap(self._source, mode="r", page=0)
        elif (rows.stop - rows.start) * (columns.stop - columns.start) == self.shape[0] * self.shape[1]:
            values = tifffile.imread(self._source, key=0)
        else:
            values = tifffile.imread(self._source, key=0, selection=(rows, columns))
            rows = columns = slice(None)
        return np.asarray(values[rows, columns] if values.ndim == 2 else values[rows, columns, 0])

    def _header(self) -> tuple[tuple[int, int], np.dtype[Any], tuple[int, int]]:
        with _pillow().open(self._source) as picture:
            wide = picture.mode.startswith("I")
            shape = (picture.height, picture.width)
        return shape, np.dtype(np.uint16 if wide else np.uint8), shape

    def _decode(self) -> NDArray[Any]:
        with _pillow().open(self._source) as picture:
            if picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.uint16)
            return np.asarray(picture.convert("L"))


def _files(url: str, start: int, stop: int) -> list[str]:
    """URL of every layer of the range, in order."""
    found: dict[int, list[str]] = {}
    for number, file in _probed(url, start, stop) if url.startswith("http") else _listed(url):
        found.setdefault(number, []).append(file)
    window = f"layers {start} to {stop - 1}"
    wanted = {n: found[n] for n in range(start, stop) if n in found}
    if not wanted:
        there = (
            f"the layers there are {min(found)} to {max(found)}" if found else "no numbered tif, png or jpg is there"
        )
        raise VolumeError(f"No layers found: {url} has none of {window}; {there}.", "Check the path and the range.")
    problems = [f"{n:02d} is there twice ({', '.join(map(_name, f))})" for n, f in wanted.items() if len(f) > 1]
    if absent := [f"{n:02d}" for n in range(start, stop) if n not in wanted]:
        problems.append(f"there is no {', '.join(absent[:5])}{' and more' if len(absent) > 5 else ''}")
    if problems:
        raise VolumeError(f"{url}: {window} are asked for; {'; '.join(problems[:3])}")
    return [files[0] for files in wanted.values()]


def layers_there(url: str) -> range:
    """The numbers of the layers of a folder, from the first to the last; nothing but names is looked at.

    Raises
    ------
    VolumeError
        If there is none, or the folder cannot be listed: http has no listing.
    """
    if url.startswith("http"):
        raise VolumeError(f"{url} cannot be listed, which http does not offer; give START_LAYER and END_LAYER")
    numbers = [number for number, _ in _listed(url)]
    if not numbers:
        raise VolumeError(f"No layers found: {url} has no numbered tif, png or jpg.", "Check the path.")
    return range(min(numbers), max(numbers) + 1)


def _listed(url: str) -> Iterator[tuple[int, str]]:
    """Number and URL of the files of a folder, or of its ``layers/``, whose names are numbers."""
    try:
        names = children(url)
        if "layers" in names:
            url = f"{url}/layers"
            names = children(url)
    except remote_errors() as error:
        raise VolumeError(f"{url} cannot be listed: {first_line(error)}") from error
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in SUFFIXES and path.stem.isdecimal():
            yield int(path.stem), f"{url}/{name}"


def _probed(url: str, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """The same over http, which has no listing: names are tried as layers/00.tif, 00.tif, layers/000.tif, ..."""
    store = object_store(url)
    absent: tuple[type[Exception], ...] = (FileNotFoundError, *remote_errors())

    def there(name: str) -> bool:
        try:
            store.head(name)
        except absent:
            return False
        return True

    shapes = [
        f"{folder}{{:0{width}d}}{suffix}" for suffix, folder, width in product(SUFFIXES, ("layers/", ""), range(2, 6))
    ]
    for shape in shapes:
        if there(shape.format(start)):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                names = [shape.format(n) for n in range(start, stop)]
                found = pool.map(there, names)
                yield from (
                    (n, f"{url}/{name}") for n, (name, ok) in enumerate(zip(names, found, strict=True), start) if ok
                )
            return


def _stamp(url: str) -> str:
    """What changes when a file does: size and time, or what a server says of its version."""
    if not is_remote(url):
        found = local_path(url).stat()
        return f"{found.st_size} {found.st_mtime_ns};"
    folder, _, name = url.rpartition("/")
    found = object_store(folder).head(name)
    return f"{found['size']} {found.get('e_tag') or found.get('last_modified')};"


def _fetch(url: str) -> bytes:
    folder, _, name = url.rpartition("/")
    store = object_store(folder)
    absent: tuple[type[Exception], ...] = (FileNotFoundError, *remote_errors())
    try:
        return bytes(store.get(name).bytes())
    except absent as error:
        raise VolumeError(f"{url} cannot be fetched: {first_line(error)}") from error


def _name(url: str) -> str:
    return Path(url).name


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise VolumeError(f"TIFF needs the extra 'ink': {install_line('ink')}") from error
    return tifffile


def _pillow() -> Any:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # surfaces are large; the limit is against pictures from strangers
    return Image
