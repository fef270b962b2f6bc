"""TIFF: multi-page files and folders of numbered files; only the pages in demand are decoded."""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.stores.url import local_path

SUFFIXES = (".tif", ".tiff")
UNITS = {"micron": "micrometer", "um": "micrometer", "\\u00B5m": "micrometer", "µm": "micrometer", "nm": "nanometer"}
UNITS |= {"mm": "millimeter", "inch": "inch", "cm": "centimeter"}


class TiffVolume:
    """Pages of one file, or one file a plane, as a volume [1, Z, Y, X] (or one channel a sample of RGB pages).

    Raises
    ------
    VolumeError
        If the planes differ in shape or dtype, if numbers are missing or doubled, or if a page is no image.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        path = local_path(url)
        self._pages = _Folder(path) if path.is_dir() else _File(path)
        depth, (height, width, samples), dtype = self._pages.layout()
        if dtype.kind not in "uif":
            raise VolumeError(f"{url} holds {dtype} values; an image has integers or floats")
        self.info = VolumeInfo(
            url=url,
            format="TIFF folder" if path.is_dir() else "TIFF",
            shape_zyx=(depth, height, width),
            dtype=dtype.name,
            n_channels=samples,
            chunk_zyx=(1, height, width),
            geometry=self._pages.geometry(),
            levels=((depth, height, width),),
            stored_bytes=self._pages.stored_bytes(),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; each page of the box is decoded once."""
        out = np.empty((self.info.n_channels, *box.shape), self.info.dtype)
        _, rows, columns = box.slices
        for z in range(box.start[0], box.stop[0]):
            try:
                page = self._pages.page(z)
            except (OSError, ValueError, RuntimeError, IndexError) as error:
                raise ReadError(
                    f"{self._url}: page {z} cannot be read ({error}). The file is damaged or cut."
                ) from error
            if page.shape[:2] != self.info.shape_zyx[1:]:
                raise ReadError(f"{self._url}: plane {z} is {page.shape[:2]}, the first one {self.info.shape_zyx[1:]}")
            page = page if page.ndim == 3 else page[..., np.newaxis]
            out[:, z - box.start[0]] = np.moveaxis(page[rows, columns], -1, 0)
        return out


class _File:
    """The pages of one file; the handle is shared under a lock."""

    def __init__(self, path: Path) -> None:
        tifffile = _tifffile()
        try:
            self._file = tifffile.TiffFile(path)
            with _complaints() as complaints:
                self._count = len(self._file.pages)
        except (tifffile.TiffFileError, OSError, ValueError) as error:
            raise VolumeError(f"{path} is no readable TIFF: {error}") from error
        weakref.finalize(self, self._file.close)
        if complaints:
            raise VolumeError(f"{path} is damaged or cut after page {self._count}: {complaints[0]}")
        self._path = path
        self._lock = threading.Lock()
        series = self._file.series[0]
        self._memory = None  # ImageJ writes one page for a whole stack beyond 4 GB; such a series is mapped
        if self._count == 1 and len(series.shape) == 3 and series.keyframe.samplesperpixel == 1:
            self._memory = series.asarray(out="memmap") if series.dataoffset is not None else series.asarray()

    def layout(self) -> tuple[int, tuple[int, int, int], np.dtype[Any]]:
        if self._memory is not None:
            depth, height, width = self._memory.shape
            return depth, (height, width, 1), self._memory.dtype
        first = self._file.pages[0]
        if first.planarconfig != 1 and first.samplesperpixel > 1:
            raise VolumeError(f"{self._path} stores its {first.samplesperpixel} samples in planes; give one channel")
        return self._count, (first.imagelength, first.imagewidth, first.samplesperpixel), np.dtype(first.dtype)

    def page(self, z: int) -> NDArray[Any]:
        if self._memory is not None:
            return np.asarray(self._memory[z])
        with self._lock:
            return np.asarray(self._file.pages[z].asarray())

    def stored_bytes(self) -> int:
        return self._path.stat().st_size

    def geometry(self) -> Geometry:
        """Voxel size from OME-XML, or ImageJ's spacing and resolution."""
        if self._file.ome_metadata:
            found = dict(re.findall(r'PhysicalSize([XYZ](?:Unit)?)="([^"]+)"', self._file.ome_metadata))
            size = tuple(float(found.get(a, 1.0)) for a in "ZYX")
            unit = UNITS.get(found.get("XUnit", "µm" if "X" in found else ""), found.get("XUnit", ""))
            return Geometry(size, unit)  # type: ignore[arg-type]
        meta = self._file.imagej_metadata or {}
        if not meta:
            return Geometry()
        tags = self._file.pages[0].tags
        pixel = [
            tags[n].value[1] / tags[n].value[0] if n in tags and tags[n].value[0] else 1.0
            for n in ("YResolution", "XResolution")
        ]
        unit = str(meta.get("unit", ""))
        return Geometry((float(meta.get("spacing", 1.0)), *pixel), UNITS.get(unit, unit))  # type: ignore[arg-type]


class _Folder:
    """One file a plane, in the order of the last number of their names."""

    def __init__(self, path: Path) -> None:
        numbered = []
        for file in path.iterdir():
            if file.suffix.lower() in SUFFIXES:
                digits = re.findall(r"\d+", file.stem)
                if not digits:
                    raise VolumeError(f"{path}: {file.name} has no number in its name, so its place is unknown")
                numbered.append((int(digits[-1]), file))
        numbered.sort()
        numbers = [n for n, _ in numbered]
        doubled = sorted({n for n in numbers if numbers.count(n) > 1}) if len(set(numbers)) < len(numbers) else []
        gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
        problems = [f"the numbers {_some(gaps)} are missing"] * bool(gaps) + [f"{_some(doubled)} are doubled"] * bool(
            doubled
        )
        if problems:
            raise VolumeError(f"{path}: {' and '.join(problems)}")
        self._files = [f for _, f in numbered]
        self._first = _File(self._files[0])

    def layout(self) -> tuple[int, tuple[int, int, int], np.dtype[Any]]:
        _, shape, dtype = self._first.layout()
        return len(self._files), shape, dtype

    def page(self, z: int) -> NDArray[Any]:
        return np.asarray(_tifffile().imread(self._files[z]))

    def stored_bytes(self) -> int:
        return sum(f.stat().st_size for f in self._files)

    def geometry(self) -> Geometry:
        return self._first.geometry()


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


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise VolumeError("TIFF needs the extra 'em': pip install 'voxweft[em]'") from error
    return tifffile
