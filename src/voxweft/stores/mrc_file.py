"""Writing a volume as MRC2014, band by band."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from voxweft.image.units import METERS
from voxweft.stores.outgoing import Outgoing
from voxweft.version import __version__

MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}
DTYPES = ("int8", "uint16", "int16", "float32")  # the first that holds all values is taken; bytes are signed


def write_mrc(path: Path, image: Outgoing) -> None:
    """One volume, with voxel size, origin and statistics; uint8 becomes uint16, as programs of the field do."""
    import mrcfile

    place = image.info.geometry
    n, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    with mrcfile.new_mmap(path, image.info.shape_zyx, MODES[image.dtype], overwrite=True) as file:
        start = 0
        for band in image.bands():
            file.data[start : start + len(band)] = band
            start += len(band)
            wide = band.astype(np.float64)
            n, total, squares = n + wide.size, total + float(wide.sum()), squares + float((wide * wide).sum())
            low, high = min(low, float(wide.min())), max(high, float(wide.max()))
            image.told(start, image.info.shape_zyx[0])
        mean = total / n
        header = file.header
        header.dmin, header.dmax, header.dmean = low, high, mean
        header.rms = math.sqrt(max(0.0, squares / n - mean * mean))
        if place.unit in METERS:
            factor = METERS[place.unit] / METERS["angstrom"]
            file.voxel_size = tuple(size * factor for size in place.voxel_size_zyx[::-1])
            x, y, z = (position * factor for position in place.origin_zyx[::-1])
            header.origin.x, header.origin.y, header.origin.z = x, y, z
        file.add_label(f"voxweft {__version__}")
