"""Writing a volume as NIfTI, band by band, on its grid."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import IO, Any

import numpy as np

from voxweft.image.place import Geometry
from voxweft.image.units import METERS
from voxweft.stores.outgoing import Outgoing
from voxweft.version import __version__

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
LONGEST = 32767  # voxels of a side: int16 of NIfTI-1
SMALL = {"angstrom", "nanometer", "micrometer"}  # of which millimetres would be all zeros
SCANNER = 1  # code of an affine that says where voxels lie in the world


def write_nifti(path: Path, image: Outgoing) -> None:
    """A ``.nii``, or compressed where the name ends in ``.gz``; NIfTI-2 where a side is too long for NIfTI-1.

    Channels are the fourth axis. The affine is that of the volume; lengths are millimetres, or micrometres ("micron")
    for volumes in micrometres or less.
    """
    header = _header(image)
    if not path.name.endswith(".gz"):
        with path.open("wb") as file:
            _write(file, header, image)
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", 3, file, mtime=0) as packed:
        _write(packed, header, image)


def _write(file: IO[bytes] | gzip.GzipFile, header: Any, image: Outgoing) -> None:
    header.write_to(file)
    file.write(bytes(header.get_data_offset() - file.tell()))
    n, n_planes = 0, image.info.shape_zyx[0]
    for channel in range(len(image.channels)):
        for band in image.bands(channel):
            file.write(np.ascontiguousarray(band, np.dtype(image.dtype).newbyteorder("<")).data)
            image.told(n := n + len(band), n_planes * len(image.channels))


def _header(image: Outgoing) -> Any:
    import nibabel

    z, y, x = image.info.shape_zyx
    large = max(z, y, x) > LONGEST
    kind: Any = nibabel.Nifti2Header if large else nibabel.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(np.dtype(image.dtype))
    header.set_data_shape((x, y, z, len(image.channels)) if len(image.channels) > 1 else (x, y, z))
    header.set_data_offset(544 if large else 352)
    header.set_slope_inter(1, 0)
    unit = image.info.geometry.unit
    to, name = ("micrometer", "micron") if unit in SMALL else ("millimeter", "mm")
    factor = METERS[unit] / METERS[to] if unit in METERS else 1.0
    affine = _affine(image.info.geometry, factor)
    header.set_sform(affine, SCANNER)
    header.set_qform(affine, SCANNER, strip_shears=True)
    header.set_xyzt_units(xyz=name if unit in METERS else "unknown")
    header["descrip"] = f"voxweft {__version__}".encode()
    return header


def _affine(place: Geometry, factor: float) -> Any:
    """Index x y z to RAS+, where the volume is in LPS."""
    steps = np.array(place.direction)[::-1, ::-1] * np.array(place.voxel_size_zyx[::-1]) * factor
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ steps
    affine[:3, 3] = np.diag([-1.0, -1.0, 1.0]) @ np.array(place.origin_zyx[::-1]) * factor
    if not math.isfinite(float(np.abs(affine).sum())):
        return np.eye(4)
    return affine + 0.0  # without the sign of zeros
