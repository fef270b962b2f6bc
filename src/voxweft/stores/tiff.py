"""TIFF: multi-page files and folders of numbered files; only the pages in demand are decoded.

a file        its axes are those that OME-XML, ImageJ or tifffile's own description name; else pages are planes
a folder      one page a file, in the order of the number that differs between their names;
files that OME-XML says belong together are one file of many parts
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.axes import Axes, Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.units import voxel_size
from voxweft.installed import install_line
from voxweft.stores.url import local_path, unreadable

SUFFIXES = (".tif", ".tiff")
PLANES = ("I", "Q", "P")  # what tifffile calls an axis of pages that nobody named
LARGEST_XML = 1 << 26  # characters
FILES_AT_ONCE = 8


class _Page(NamedTuple):
    """What every page of a volume must have in common."""

    height: int
    width: int
    samples: int
    dtype: str

    @classmethod
    def of(cls, page: Any) -> _Page:
        return cls(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype))

    def __str__(self) -> str:
        colour = f" of {self.samples} samples" if self.samples > 1 else ""
        return f"{self.height} x {self.width} {self.dtype}{colour}"


class TiffVolume:
    """Pages of one file, or one file a plane, as a volume [C, Z, Y, X] (a sample of colour pages is a channel).

    Parameters
    ----------
    url
        A file, or a folder of numbered files.
    select
        Which time point, channel or series of a file with several.

    Raises
    ------
    VolumeError
        If the pages differ in size, dtype or colour, if numbers are missing or doubled, if the axes are not those of
        one volume, or if a page is no image.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        self._url = url
        path = local_path(url)
        self._pages = _open(path, select or Select())
        pages, axes = self._pages, self._pages.axes
        dtype = np.dtype(pages.kind.dtype)
        if dtype.kind not in "uif":
            raise VolumeError(f"{url} holds {dtype} values; an image has integers or floats")
        shape = axes.pick(pages.shape)
        size, unit, note = pages.voxel_size()
        self._n_channels = axes.n_channels(pages.shape)
        self.info = VolumeInfo(
            url=url,
            format="TIFF folder" if path.is_dir() else "TIFF",
            shape_zyx=shape,
            dtype=dtype.name,
            n_channels=self._n_channels * pages.kind.samples,
            chunk_zyx=(1, *shape[1:]),
            geometry=Geometry(size, unit),
            levels=(shape,),
            stored_bytes=pages.stored_bytes(),
            notes=(*pages.notes, *([note] if note else [])),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; each page of the box is decoded once."""
        samples = self._pages.kind.samples
        out = np.empty((self._n_channels, samples, *box.shape), self.info.dtype)
        _, rows, columns = box.slices
        for c, z in np.ndindex(self._n_channels, box.shape[0]):
            plane = box.start[0] + z
            try:
                page = self._pages.page(c, plane)
            except unreadable() as error:
                raise ReadError(
                    f"{self._url}: page {plane} cannot be read ({first_line(error)}). The file is damaged or cut."
                ) from error
            page = page if page.ndim == 3 else page[..., np.newaxis]
            if page.shape != (*self.info.shape_zyx[1:], samples) or page.dtype != out.dtype:
                raise ReadError(f"{self._url}: page {plane} is {page.shape} {page.dtype}, the first {self._pages.kind}")
            out[c, :, z] = np.moveaxis(page[rows, columns], -1, 0)
        return out.reshape(-1, *box.shape)


def _open(path: Path, select: Select) -> _File | _Folder:
    if not path.is_dir():
        return _File(path, select)
    files = _numbered(path)
    with _tifffile().TiffFile(files[0]) as first, _complaints():
        together = first.is_ome and len(first.series) and len({p.parent for p in first.series[0].pages if p}) > 1
    return _File(files[0], select) if together else _Folder(path, files)


class _File:
    """The pages of one file, or of several that say that they are one; the handle is shared under a lock."""

    def __init__(self, path: Path, select: Select) -> None:
        tifffile = _tifffile()
        self._path, self._lock, self.notes = path, threading.Lock(), list[str]()
        try:
            self._file = tifffile.TiffFile(path)
            weakref.finalize(self, self._file.close)
            with _complaints() as complaints:
                count = len(self._file.pages)
                series = self._file.series
        except unreadable() as error:
            raise VolumeError(f"{path} is no readable TIFF: {first_line(error)}") from error
        if missing := next((c for c in complaints if "failed to read" in c), ""):
            raise VolumeError(f"{path} has a part in another file, which is not there: {missing[:200]}")
        if complaints:
            raise VolumeError(f"{path} is damaged or cut after page {count}: {complaints[0][:200]}")
        self._number, self._series = self._chosen(series, select.series)
        key = self._series.keyframe
        if key.planarconfig != 1 and key.samplesperpixel > 1:
            raise VolumeError(f"{path} stores its {key.samplesperpixel} samples in planes; give one channel")
        self.kind = _Page.of(key)
        leading = len(self._series.shape) - (3 if self.kind.samples > 1 else 2)
        names, counts = [*self._series.axes[:leading]], tuple(self._series.shape[:leading])
        if "Z" not in names:
            names = ["Z" if name in PLANES else name for name in names]
        if "Z" not in names and "C" in names and select.channel is None:
            n = counts[names.index("C")]
            self.notes.append(f"its description calls its {n} planes channels; they are taken for planes")
            names[names.index("C")] = "Z"
        if "Z" not in names:
            names, counts = ["Z", *names], (1, *counts)
        names += "YX"
        self.shape = (*counts, self.kind.height, self.kind.width)
        self.axes = Axes.of(names, self.shape, str(path), Select(select.channel, select.time))
        if self.kind.samples > 1 and self.axes.n_channels(self.shape) > 1:
            raise VolumeError(
                f"{path} has the axes {self._series.axes}: channels of colours; choose one with --channel"
            )
        self._memory = None  # ImageJ writes one page for a whole stack beyond 4 GB; such a series is mapped
        if count == 1 < math.prod(counts):
            out = None if self._series.dataoffset is None else "memmap"
            values = self._series.asarray(out=out)
            self._memory = values.reshape(-1, *values.shape[leading:])
        else:
            self._check_pages()

    def page(self, c: int, z: int) -> NDArray[Any]:
        """The page of a channel and plane."""
        box = Box((z, 0, 0), (z + 1, 1, 1))
        places = [c if isinstance(n, slice) and n.start is None else n for n in self.axes.index(box)[:-2]]
        number = int(np.ravel_multi_index([n.start if isinstance(n, slice) else n for n in places], self.shape[:-2]))
        if self._memory is not None:
            return np.asarray(self._memory[number])
        with self._lock:
            return np.asarray(self._series.pages[number].asarray())

    def stored_bytes(self) -> int:
        return self._path.stat().st_size

    def voxel_size(self) -> tuple[tuple[float, float, float], str, str]:
        """From OME-XML, or ImageJ's spacing and resolution."""
        if self._file.ome_metadata:
            found = _pixels(self._file.ome_metadata, self._number)
            if not any(f"PhysicalSize{a}" in found for a in "XYZ"):
                return (1.0, 1.0, 1.0), "", ""
            sizes: list[Any] = [found.get(f"PhysicalSize{a}") for a in "ZYX"]
            units = [found.get(f"PhysicalSize{a}Unit", "µm") for a in "ZYX"]
            known = next(unit for size, unit in zip(sizes, units, strict=True) if size is not None)
            return voxel_size(
                [1.0 if size is None else size for size in sizes],
                [known if size is None else unit for size, unit in zip(sizes, units, strict=True)],
            )
        meta = self._file.imagej_metadata or {}
        if not meta:
            return (1.0, 1.0, 1.0), "", ""
        tags = self._file.pages[0].tags
        pixel = [
            tags[n].value[1] / tags[n].value[0] if n in tags and tags[n].value[0] else 1.0
            for n in ("YResolution", "XResolution")
        ]
        return voxel_size([meta.get("spacing", 1.0), *pixel], [meta.get("unit", "")] * 3)

    def _chosen(self, series: Sequence[Any], wanted: int | None) -> tuple[int, Any]:
        if not series:
            raise VolumeError(f"{self._path} holds no image")
        if wanted is not None and not 0 <= wanted < len(series):
            raise VolumeError(f"--series {wanted}: {self._path} has the series 0 to {len(series) - 1}")
        if wanted is None and len(series) > 1:
            self._check_pages()  # pages that differ without a description are no series that somebody meant
            shown = ", ".join("x".join(map(str, s.shape)) for s in series[:4])
            raise VolumeError(f"{self._path} holds {len(series)} series (images) of {shown}; choose one with --series")
        return wanted or 0, series[wanted or 0]

    def _check_pages(self) -> None:
        """Refuse a file of which a page differs from the first."""
        described = self._file.is_ome or self._file.is_imagej or self._file.is_shaped
        if described:
            return
        first = _Page.of(self._file.pages[0])
        for number, page in enumerate(self._file.pages):
            if (found := _Page.of(page)) != first:
                raise VolumeError(f"{self._path}: page {number} is {found}, the first page is {first}")


class _Folder:
    """One file a plane."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self._files, self.notes = files, list[str]()
        self._first = _File(files[0], Select())
        self.kind = _only_page(files[0])
        self.shape = (len(files), self.kind.height, self.kind.width)
        self.axes = Axes.of(("z", "y", "x"), self.shape, str(path))
        with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
            for file, found in zip(files, threads.map(_only_page, files), strict=True):
                if found != self.kind:
                    raise VolumeError(f"{path}: {file.name} is {found}, {files[0].name} is {self.kind}")

    def page(self, _c: int, z: int) -> NDArray[Any]:
        with _tifffile().TiffFile(self._files[z]) as file:
            return np.asarray(file.pages[0].asarray())

    def stored_bytes(self) -> int:
        return sum(f.stat().st_size for f in self._files)

    def voxel_size(self) -> tuple[tuple[float, float, float], str, str]:
        return self._first.voxel_size()


def _only_page(path: Path) -> _Page:
    tifffile = _tifffile()
    try:
        with _complaints(), tifffile.TiffFile(path) as file:
            if len(file.pages) > 1:
                raise VolumeError(f"{path} has {len(file.pages)} pages; a file of a folder is one plane")
            return _Page.of(file.pages[0])
    except unreadable() as error:
        raise VolumeError(f"{path} is no readable TIFF: {first_line(error)}") from error


def _numbered(path: Path) -> list[Path]:
    """The files of a folder, without hidden ones, in the order of the number that differs between their names.

    Raises
    ------
    VolumeError
        If a name has no number, or numbers are missing or doubled.
    """
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    digits = {f: [int(n) for n in re.findall(r"\d+", f.stem)] for f in files}
    if bare := next((f for f in files if not digits[f]), None):
        raise VolumeError(f"{path}: {bare.name} has no number in its name, so its place is unknown")
    columns = [*zip(*digits.values(), strict=False)] if len({len(d) for d in digits.values()}) == 1 else []
    differing = [n for n, column in enumerate(columns) if len(set(column)) == len(files) > 1]
    place = differing[-1] if differing else -1
    files.sort(key=lambda f: digits[f][place])
    numbers = [digits[f][place] for f in files]
    if not numbers:
        raise VolumeError(f"{path} holds no TIFF files")
    doubled = sorted({n for n in numbers if numbers.count(n) > 1}) if len(set(numbers)) < len(numbers) else []
    n_gaps = numbers[-1] - numbers[0] + 1 - len(set(numbers))
    problems = [f"the numbers {_some(_gaps(numbers), n_gaps)} are missing"] * bool(n_gaps)
    problems += [f"{_some(doubled, len(doubled))} are doubled"] * bool(doubled)
    if problems:
        raise VolumeError(f"{path}: {' and '.join(problems)}")
    return files


def _gaps(numbers: Sequence[int]) -> Iterator[int]:
    for a, b in itertools.pairwise(numbers):
        yield from range(a + 1, min(b, a + 6))


def _some(numbers: Any, count: int) -> str:
    shown = [str(n)[:20] for _, n in zip(range(5), numbers, strict=False)]
    return ", ".join(shown) + (f" and {count - 5} more" if count > 5 else "")


def _pixels(xml: str, image: int) -> dict[str, str]:
    """The attributes of the pixels of an image in OME-XML; nothing where it cannot be read."""
    if len(xml) > LARGEST_XML or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return {}
    try:
        found = [e for e in ElementTree.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "Pixels"]
    except ElementTree.ParseError:
        return {}
    return dict(found[image].attrib) if image < len(found) else {}


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs while it follows the chain of pages; it takes a broken chain for the end of the file."""
    found: list[str] = []
    logger = logging.getLogger("tifffile")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise VolumeError(f"TIFF needs the extra 'em': {install_line('em')}") from error
    return tifffile
