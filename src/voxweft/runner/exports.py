"""Label volumes in further formats: a TIFF, and what neuroglancer reads without a server that knows zarr."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, gather_op
from voxweft.engine.opened import Readable
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.units import METERS
from voxweft.installed import install_line
from voxweft.stores import tiff_file
from voxweft.stores.outgoing import Outgoing
from voxweft.stores.url import local_path

EXPORTS = {"tiff": "labels.tif", "precomputed": "precomputed"}
"""Options and the files that they ask for."""
PLANES, CHUNK = 64, 64


@gather_op
def write_export(gathered: Gathered, *, source: str, voxel_size_zyx: Sequence[float], unit: str) -> Made:
    """Write the first array of a stage in another format: that of the file which has a place."""
    written = gathered.outputs[source][0]
    place = Geometry((voxel_size_zyx[0], voxel_size_zyx[1], voxel_size_zyx[2]), unit)
    for name, url in gathered.files.items():
        (write_tiff if name == EXPORTS["tiff"] else write_precomputed)(written, local_path(url), place)
    return Made()


def write_tiff(source: Readable, path: Path, place: Geometry) -> None:
    """Labels as an OME-TIFF, plane by plane."""
    try:
        import_module("tifffile")
    except ImportError as error:
        raise RequestError(f"--tiff needs tifffile: {install_line('em')}") from error
    temporary = path.with_suffix(".tmp.tif")
    tiff_file.write_tiff(temporary, Outgoing((_Labels(source, place),), "uint32", path.stem))
    temporary.replace(path)


class _Labels:
    """What a stage wrote, as a volume; what is missing is background."""

    def __init__(self, source: Readable, place: Geometry) -> None:
        shape = source.shape_zyx
        chunk = (min(PLANES, shape[0]), CHUNK, CHUNK)
        self.info = VolumeInfo("", "labels", shape, "uint32", chunk_zyx=chunk, geometry=place, is_label=True)
        self._source = source

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [1, Z, Y, X] of a box."""
        values = self._source.read(box)
        return np.zeros((1, *box.shape), np.uint32) if values is None else values[:1].astype(np.uint32)


def write_precomputed(source: Readable, folder: Path, place: Geometry) -> None:
    """Labels as a neuroglancer volume "precomputed": ``info`` and raw chunks of 64 voxels a side, x fastest.

    It takes the place of what lay there when it is whole.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    z, y, x = source.shape_zyx
    nm = METERS[place.unit] / METERS["nanometer"] if place.unit in METERS else 1.0
    key = "full"
    scale = {
        "key": key,
        "size": [x, y, z],
        "resolution": [s * nm for s in reversed(place.voxel_size_zyx)],
        "voxel_offset": [0, 0, 0],
        "chunk_sizes": [[CHUNK] * 3],
        "encoding": "raw",
    }
    info = {"@type": "neuroglancer_multiscale_volume", "type": "segmentation", "data_type": "uint32"}
    (temporary / key).mkdir(parents=True)
    for box in Box.of((z, y, x)).cells((CHUNK,) * 3):
        cell = box & Box.of((z, y, x))
        values = source.read(cell)
        if values is None or not values.any():
            continue  # what is missing is background
        sides = zip(reversed(cell.start), reversed(cell.stop), strict=True)
        name = "_".join(f"{a}-{b}" for a, b in sides)
        (temporary / key / name).write_bytes(np.ascontiguousarray(values[0], "<u4").tobytes())
    (temporary / "info").write_text(json.dumps(info | {"num_channels": 1, "scales": [scale]}), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
