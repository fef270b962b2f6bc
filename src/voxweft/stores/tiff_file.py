"""Writing a volume as an OME-TIFF, plane by plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxweft.image.units import METERS
from voxweft.stores.outgoing import Outgoing
from voxweft.version import __version__

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")  # those of OME-XML
SYMBOLS = {
    "angstrom": "\u00c5", "nanometer": "nm", "micrometer": "\u00b5m", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "inch": "in",
}  # fmt: skip
CLASSIC_BYTES = (1 << 32) - (1 << 26)  # beyond this a TIFF must be a BigTIFF, which fewer programs open


def write_tiff(path: Path, image: Outgoing) -> None:
    """An OME-TIFF in strips, compressed by zlib, as ImageJ reads it too; its axes are Z (C) Y X."""
    import numpy as np
    import tifffile

    z, y, x = image.info.shape_zyx
    many = len(image.channels) > 1
    shape = (z, len(image.channels), y, x) if many else (z, y, x)
    about: dict[str, Any] = {"axes": "ZCYX" if many else "ZYX", "Name": image.name}
    if many:
        about["Channel"] = {"Name": [name for _, name in image.names]}
    place, more = image.info.geometry, dict[str, Any]()
    if symbol := SYMBOLS.get(place.unit):
        for axis, size in zip("ZYX", place.voxel_size_zyx, strict=True):
            about |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": symbol}
        per_cm = [0.01 / (size * METERS[place.unit]) for size in place.voxel_size_zyx[:0:-1]]
        more = {"resolution": per_cm, "resolutionunit": "CENTIMETER"} if max(per_cm) < 1 << 31 else {}
    n_bytes = len(image.channels) * z * y * x * np.dtype(image.dtype).itemsize
    tifffile.imwrite(
        path,
        image.planes(),
        shape=shape,
        dtype=image.dtype,
        bigtiff=n_bytes > CLASSIC_BYTES,
        ome=True,
        metadata=about,
        photometric="minisblack",
        compression="zlib",
        software=f"voxweft {__version__}",
        **more,
    )
