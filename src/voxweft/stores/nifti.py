"""NIfTI, through nibabel: whatever its header says is kept, a sheared or oblique affine too.

The file's axes are x y z (Fortran order), so its voxels are [Z, Y, X] as they lie. Its world is RAS+; the geometry that
voxweft keeps is LPS+, as in DICOM and ITK.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.geometry.box import Box, Zyx
from voxweft.image.axes import Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.installed import install_line
from voxweft.stores.url import local_path, unreadable

EXTRA = f"medical images need the extra 'medical': {install_line('medical')}"
SHEAR = 1e-3  # cosine between two axes from which they are not called perpendicular
UNITS = {"mm": "millimeter", "micron": "micrometer", "meter": "meter"}


class NiftiVolume:
    """A volume of a ``.nii`` or ``.nii.gz`` file; a file of one plane or one time point is taken for what it is.

    A ``.nii.gz`` is decompressed once, to memory; of a ``.nii`` only what is asked for is read. Values are scaled by
    ``scl_slope`` and ``scl_inter``, and are float32 then.

    Parameters
    ----------
    url
        Its path.
    select
        Which time point (or volume) of a file with several.

    Raises
    ------
    VolumeError
        If it is none, holds colours, complex numbers or several volumes, or its affine is none.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        self._image = open_nifti(url)
        shape, dtype = self._image.shape, self._image.get_data_dtype()
        if dtype.kind not in "uif":
            what = "colours" if dtype.names else "complex numbers" if dtype.kind == "c" else f"{dtype} values"
            raise VolumeError(f"{url} holds {what}; an image has one number a voxel")
        xyz, self._time = _three(shape, url, select or Select())
        slope, inter = self._image.dataobj.slope, self._image.dataobj.inter
        self._scaled = (slope, inter) != (1.0, 0.0)
        if not (math.isfinite(slope) and math.isfinite(inter)):
            raise VolumeError(f"{url}: its values are to be scaled by {slope} and {inter}, which is no scale")
        self._whole: NDArray[Any] | None = None
        self._lock = threading.Lock()
        self._packed = str(url).lower().endswith(".gz")
        self._url = url
        size: Zyx = (xyz[2], xyz[1], xyz[0])
        geometry, notes = _geometry(self._image, url)
        packed = ("the file is compressed: it is decompressed once, to memory",) if self._packed else ()
        self.info = VolumeInfo(
            url=url,
            format="NIfTI",
            shape_zyx=size,
            dtype="float32" if self._scaled else dtype.newbyteorder("=").name,
            chunk_zyx=(1, *size[1:]),
            geometry=geometry,
            levels=(size,),
            stored_bytes=local_path(url).stat().st_size,
            notes=notes,
            details={"dtype": dtype.name, "reading": "".join(packed)} if packed else {"dtype": dtype.name},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [1, Z, Y, X].

        Raises
        ------
        ReadError
            If the file ends early or cannot be decompressed.
        """
        try:
            return np.ascontiguousarray(self._read(box).astype(self.info.dtype, copy=False))[None]
        except unreadable() as error:
            raise ReadError(f"{self._url} is damaged or ends early: {first_line(error)}") from error

    def _read(self, box: Box) -> NDArray[Any]:
        z, y, x = box.slices
        if not self._packed:
            more = self._time
            plane = (x, y, z, *more) if self._image.ndim >= 3 else (x, y)
            found = np.asarray(self._image.dataobj[plane])
            return (found if found.ndim == 3 else found[..., None]).T
        with self._lock:
            if self._whole is None:
                dataobj = self._image.dataobj
                whole = np.asanyarray(dataobj[(..., *self._time)] if any(self._time) else dataobj)
                whole = whole.astype(self.info.dtype, copy=False)
                self._whole = whole.reshape(self.info.shape_zyx[::-1], order="F").T
        return self._whole[z, y, x]


def open_nifti(url: str) -> Any:
    """The file as nibabel knows it; its voxels are not read.

    Raises
    ------
    VolumeError
        If it cannot be opened.
    """
    try:
        import nibabel
    except ImportError as error:
        raise VolumeError(EXTRA) from error
    path = local_path(url)
    try:
        if path.suffix.lower() == ".hdr":
            raise VolumeError(f"{url}: pairs of .hdr and .img are not read; convert them to .nii.gz")
        return nibabel.load(path)
    except VolumeError:
        raise
    except Exception as error:  # nibabel has errors of its own beside those of zlib and struct
        raise VolumeError(f"{url} is no readable NIfTI file: {first_line(error)}") from error


def write_nifti_like(source: str, path: Path, values: NDArray[Any], *, description: str = "voxweft") -> None:
    """Write values [Z, Y, X] on exactly the grid of another file: its affines, their codes, its units.

    Raises
    ------
    VolumeError
        If the other file cannot be opened.
    """
    import nibabel

    image = open_nifti(source)
    header = image.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = description.encode()[:79]
    header.extensions.clear()
    if int(header["intent_code"]):
        header.set_intent("none")
    made = type(image)(np.asarray(values.T).reshape(image.shape), None, header)
    nibabel.save(made, path)


def _three(shape: tuple[int, ...], url: str, select: Select) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Extent x y z, and the index along further axes."""
    if not shape or min(shape) < 1:
        raise VolumeError(f"{url} is empty: its shape is {shape}")
    n, chosen = math.prod(shape[3:]), select.time
    if n > 1 and chosen is None:
        raise VolumeError(
            f"{url} holds {n} volumes: its shape x y z ... is {shape}.", "Give one volume a file, or choose by --time."
        )
    if (select.channel or 0, select.series or 0) != (0, 0) or not 0 <= (chosen or 0) < n:
        raise VolumeError(f"{url} has one channel, one series and {n} time point(s); {select} is not there")
    x, y, z = (*shape, 1, 1)[:3]
    return (x, y, z), tuple(int(k) for k in np.unravel_index(chosen or 0, shape[3:])) if shape[3:] else ()


def _geometry(image: Any, url: str) -> tuple[Geometry, tuple[str, ...]]:
    """Where its voxels lie, and what to say of it."""
    affine = np.asarray(image.affine, np.float64)
    steps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    if not np.isfinite(affine).all() or not (lengths > 0).all() or abs(np.linalg.det(steps / lengths)) < 1e-6:
        raise VolumeError(f"{url}: its affine gives no grid (it has no size, is flat, or holds NaN)")
    cosines = steps / lengths
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    notes = (f"the affine of {url} is sheared: its axes are not perpendicular; it is kept as it is",) * int(
        shear > SHEAR
    )
    try:
        unit = UNITS.get(image.header.get_xyzt_units()[0], "millimeter")
    except KeyError:  # a code that means nothing
        unit = "millimeter"
    origin = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 3]
    z, y, x = (tuple(float(v) for v in row) for row in cosines[::-1, ::-1])
    return (
        Geometry(
            voxel_size_zyx=tuple(float(v) for v in lengths[::-1]),  # type: ignore[arg-type]
            unit=unit,
            origin_zyx=tuple(float(v) for v in origin[::-1]),  # type: ignore[arg-type]
            direction=(z, y, x),  # type: ignore[arg-type]
        ),
        notes,
    )
