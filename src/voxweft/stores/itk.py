"""MetaImage, NRRD and DICOM series, through SimpleITK."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.axes import Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.installed import install_line
from voxweft.stores.arrays import Turn
from voxweft.stores.url import local_path

EXTRA = f"medical images need the extra 'medical': {install_line('medical')}"
SERIES = "::"  # between a folder and the series of it that is meant
UNEVEN = 1e-2  # of the usual distance: how much that of two slices may differ
Grid = Mapping[str, Any]
"""Size, spacing, origin and direction as SimpleITK has them, x first."""


class ItkVolume:
    """A volume of a ``.mha``, ``.mhd`` or ``.nrrd`` file, or of a DICOM series.

    A compressed file, NRRD or a series is read once, to memory; of an uncompressed MetaImage only what is asked for.

    Parameters
    ----------
    url
        A path; of DICOM a folder, and ``folder::UID`` where it holds several series.

    select
        Must mean the only time point, channel and series.

    Raises
    ------
    VolumeError
        If it is none, holds colours, complex numbers or several volumes, or its grid is none.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        if any(n for n in asdict(select or Select()).values()):
            raise VolumeError(f"{url} has one channel, one time point and one series; {select} is not there")
        self._url, self._lock = url, threading.Lock()
        self._whole: NDArray[Any] | None = None
        self._reader = reader_of(url)
        self._single = not hasattr(self._reader, "GetFileNames") or isinstance(self._reader.GetFileNames(), str)
        head = self._reader if self._single else _first_slice(self._reader)
        dtype = _dtype(head, url)
        grid = grid_of(url)
        size = tuple(reversed(grid["size"]))
        self._dimension = len(head.GetSize())
        self._by_box = _is_plain_metaimage(local_path(url)) if self._single else False
        packed = "" if self._by_box else "the file is read once, to memory"
        self.info = VolumeInfo(
            url=url,
            format="DICOM" if not self._single else "NRRD" if url.lower().endswith(".nrrd") else "MetaImage",
            shape_zyx=size,
            dtype=dtype,
            chunk_zyx=(1, *size[1:]),
            geometry=_geometry(grid, url),
            levels=(size,),
            stored_bytes=_n_bytes(url),
            notes=tuple(grid["notes"]),
            details={"reading": packed} if packed else {},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [1, Z, Y, X].

        Raises
        ------
        ReadError
            If the file is damaged.
        """
        sitk = itk()
        try:
            with self._lock:
                if self._by_box:
                    return self._extract(sitk, box)[None]
                if self._whole is None:
                    with quiet():
                        found = sitk.GetArrayFromImage(self._reader.Execute())
                    self._whole = found.reshape(self.info.shape_zyx).astype(self.info.dtype, copy=False)
        except RuntimeError as error:
            raise ReadError(f"{self._url} is damaged or ends early: {told(error)}") from error
        return np.ascontiguousarray(self._whole[box.slices])[None]

    def _extract(self, sitk: Any, box: Box) -> NDArray[Any]:
        more = self._dimension - 3
        self._reader.SetExtractIndex([*reversed(box.start), *[0] * more][: self._dimension])
        self._reader.SetExtractSize([*reversed(box.shape), *[1] * more][: self._dimension])
        with quiet():
            found = sitk.GetArrayFromImage(self._reader.Execute())
        return np.asarray(found.reshape(box.shape).astype(self.info.dtype, copy=False))


def reader_of(url: str) -> Any:
    """A reader of SimpleITK whose header is read.

    Raises
    ------
    VolumeError
        If nothing can be read there.
    """
    sitk = itk()
    folder, _, series = url.partition(SERIES)
    path = local_path(folder)
    try:
        with quiet():
            if path.is_dir():
                return _series(sitk, path, series)
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"{url} is no readable image: {told(error)}") from error
    return reader


def series_of(folder: Path) -> tuple[str, ...]:
    """The series of the DICOM files of a folder; empty where there are none."""
    with quiet():
        return tuple(itk().ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def series_files(url: str) -> list[str]:
    """The files of a DICOM series in the order of its planes.

    Raises
    ------
    VolumeError
        If it is none.
    """
    reader = reader_of(url)
    if not hasattr(reader, "GetFileNames"):
        raise VolumeError(f"{url} is no DICOM series; a DICOM-SEG refers to one")
    return list(reader.GetFileNames())


def grid_of(url: str) -> Grid:
    """Size, spacing, origin and direction, of three axes, and ``notes``.

    Raises
    ------
    VolumeError
        If they are none of a volume.
    """
    reader = reader_of(url)
    names = reader.GetFileNames() if hasattr(reader, "GetFileNames") else ""
    if isinstance(names, str) or not names:
        return {**_plain_grid(reader, url), "notes": ()}
    grid, steps = _plain_grid(_first_slice(reader), url), _slice_steps(names)
    usual = float(np.median(np.linalg.norm(steps, axis=1))) if len(steps) else grid["spacing"][2]
    if not usual > 0:
        raise VolumeError(f"{url}: two of its slices lie at one place")
    uneven = len(steps) and np.abs(np.linalg.norm(steps, axis=1) - usual).max() > UNEVEN * usual
    if uneven:
        raise VolumeError(
            f"{url}: its {len(names)} slices are not evenly spaced ({np.linalg.norm(steps, axis=1).min():.4g} to "
            f"{np.linalg.norm(steps, axis=1).max():.4g} mm); slices are missing or doubled"
        )
    direction = np.array(grid["direction"]).reshape(3, 3)
    along = steps.mean(axis=0) if len(steps) else direction[:, 2] * usual
    direction[:, 2] = along / np.linalg.norm(along)
    size = (*grid["size"][:2], len(names))
    spacing = (*grid["spacing"][:2], float(np.linalg.norm(along)))
    return {**grid, "size": size, "spacing": spacing, "direction": tuple(direction.ravel()), "notes": ()}


def itk() -> Any:
    """The package SimpleITK.

    Raises
    ------
    VolumeError
        If it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise VolumeError(EXTRA) from error
    return SimpleITK


class quiet:  # noqa: N801 - used as `with quiet():`
    """What ITK prints as warnings is kept off the terminal meanwhile; what matters is raised or checked."""

    def __enter__(self) -> None:
        sitk = itk()
        self._before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)

    def __exit__(self, *exc: object) -> None:
        itk().ProcessObject.SetGlobalWarningDisplay(self._before)


def image_like(source: str, values: NDArray[Any]) -> Any:
    """Values [Z, Y, X] as an image of SimpleITK on the grid of a file.

    Raises
    ------
    VolumeError
        If the file cannot be opened, or its grid is none that ITK knows.
    """
    sitk, reader = itk(), reader_of(source)
    series = hasattr(reader, "GetFileNames") and not isinstance(reader.GetFileNames(), str)
    grid = grid_of(source)
    flat = not series and len(reader.GetSize()) == 2
    image = sitk.GetImageFromArray(values[0] if flat else values)
    n = 2 if flat else 3
    image.SetSpacing([float(v) for v in grid["spacing"][:n]])
    image.SetOrigin([float(v) for v in grid["origin"][:n]])
    try:
        image.SetDirection(reader.GetDirection() if flat else [float(v) for v in grid["direction"]])
    except RuntimeError as error:
        raise VolumeError(f"{source}: its grid cannot be kept by ITK: {told(error)}") from error
    return image


def write_itk(path: Path, image: Any, *, orientation: str = "", words: Mapping[str, str] | None = None) -> None:
    """Write an image of SimpleITK, compressed, perhaps reoriented (``LPI``), with further words in its header."""
    sitk = itk()
    with quiet():
        if orientation and image.GetDimension() == 3:
            image = sitk.DICOMOrient(image, orientation)
        for key, value in (words or {}).items():
            image.SetMetaData(key, value)
        sitk.WriteImage(image, str(path), useCompression=True)


def turn_of(source: str, orientation: str) -> tuple[Turn, dict[str, Any]]:
    """How a volume is turned to an orientation ("" for none), and its grid then: x y z in mm, LPS, by name."""
    sitk, grid = itk(), grid_of(source)
    z, y, x = shape_of(grid)
    image = sitk.Image([x, y, z], sitk.sitkUInt8)
    image.SetSpacing([float(v) for v in grid["spacing"]])
    image.SetOrigin([float(v) for v in grid["origin"]])
    image.SetDirection([float(v) for v in grid["direction"]])
    turn = Turn()
    if orientation:
        turner = sitk.DICOMOrientImageFilter()
        turner.SetDesiredCoordinateOrientation(orientation)
        image = turner.Execute(image)
        permuted, flipped = turner.GetPermuteOrder(), turner.GetFlipAxes()
        order = tuple(2 - permuted[2 - k] for k in range(3))
        turn = Turn(order, tuple(k for k in range(3) if flipped[2 - k]))
    return turn, {
        "spacing_xyz_mm": list(image.GetSpacing()),
        "origin_lps_mm": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
    }


def told(error: Exception) -> str:
    """What ITK means, of the many lines that it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.partition("ERROR: ")[2] for line in lines if "ERROR: " in line] or lines[-1:] or ["no reason given"]
    return said[-1][:160]


def _series(sitk: Any, path: Path, series: str) -> Any:
    found = series_of(path)
    if not found:
        raise VolumeError(f"{path} is a folder without a DICOM series")
    if series and series not in found:
        raise VolumeError(f"{path} has no series {series}; it has {', '.join(found)}")
    if not series and len(found) > 1:
        raise VolumeError(f"{path} has {len(found)} DICOM series: give one of them, {path}{SERIES}{found[0]}, ...")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series or found[0]))
    return reader


def _first_slice(reader: Any) -> Any:
    return reader_of(reader.GetFileNames()[0])


def _slice_steps(names: Sequence[str]) -> NDArray[np.float64]:
    """From each slice to the next, x y z in mm [n - 1, 3]."""
    places = [reader_of(name).GetOrigin() for name in names]
    return np.diff(np.array(places, np.float64), axis=0)


def _plain_grid(reader: Any, url: str) -> dict[str, Any]:
    size, n = reader.GetSize(), len(reader.GetSize())
    if n > 3 and any(side > 1 for side in size[3:]):
        raise VolumeError(f"{url} holds several volumes: its shape x y z ... is {size}.", "Give one volume a file.")
    if n < 2 or min(size) < 1:
        raise VolumeError(f"{url} is no image: its shape is {size}")
    full = np.eye(max(3, n))
    full[:n, :n] = np.array(reader.GetDirection()).reshape(n, n)
    return {
        "size": (*size, 1)[:3],
        "spacing": (*reader.GetSpacing(), 1.0)[:3],
        "origin": (*reader.GetOrigin(), 0.0)[:3],
        "direction": tuple(float(v) for v in full[:3, :3].ravel()),
    }


def _geometry(grid: Grid, url: str) -> Geometry:
    spacing, direction = grid["spacing"], np.array(grid["direction"]).reshape(3, 3)
    bad = not np.isfinite([*spacing, *grid["origin"], *direction.ravel()]).all() or not all(s > 0 for s in spacing)
    if bad or abs(np.linalg.det(direction)) < 1e-6:
        raise VolumeError(f"{url}: its spacing {tuple(spacing)} and direction give no grid")
    z, y, x = (tuple(float(v) for v in row) for row in direction[::-1, ::-1])
    sz, sy, sx = (float(v) for v in reversed(spacing))
    oz, oy, ox = (float(v) for v in reversed(grid["origin"]))
    return Geometry((sz, sy, sx), "millimeter", (oz, oy, ox), (z, y, x))  # type: ignore[arg-type]


def _dtype(head: Any, url: str) -> str:
    kind = itk().GetPixelIDValueAsString(head.GetPixelIDValue())
    if "complex" in kind or "vector" in kind or head.GetNumberOfComponents() != 1:
        what = "complex numbers" if "complex" in kind else f"{head.GetNumberOfComponents()} values a voxel (colours?)"
        raise VolumeError(f"{url} holds {what}; an image has one number a voxel")
    bits, _, words = kind.partition("-bit ")
    name = {"float": "float", "signed integer": "int", "unsigned integer": "uint"}.get(words)
    if name is None:
        raise VolumeError(f"{url} holds {kind} values; an image has integers or floats")
    return f"{name}{bits}"


def _is_plain_metaimage(path: Path) -> bool:
    """Whether it is a MetaImage that is not compressed, of which ITK reads parts."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return False
    with path.open("rb") as file:
        return b"CompressedData = True" not in file.read(4096)


def _n_bytes(url: str) -> int:
    path = local_path(url.partition(SERIES)[0])
    return sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size


def shape_of(grid: Grid) -> Zyx:
    """Extent z y x."""
    x, y, z = grid["size"]
    return z, y, x
