"""A layer as the files of an OME-Zarr that lies nowhere: made when they are asked for.

    zarr.json              the levels and where they lie
    LEVEL/zarr.json        one of them
    LEVEL/c/Z/Y/X          a chunk; one that holds nothing but 0 is not there

Whatever a layer was opened from becomes the same few keys, all of which are numbers, so that no name of a file ever
comes from a browser.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from voxweft.errors import ReadError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.place import Geometry
from voxweft.image.units import METERS
from voxweft.viewer.layers import leaving
from voxweft.viewer.shown import Layer

KEY = re.compile(r"(?:(\d{1,2})/)?zarr\.json|(\d{1,2})/c/(\d{1,9})/(\d{1,9})/(\d{1,9})")
LEAST, LONGEST, FLAT = 1 << 16, 128, 512  # voxels of a chunk, of its side, and of its side where it is a plane


class AsZarr:
    """The files of a layer.

    Parameters
    ----------
    layer
        What is shown.
    within
        Where the volume lies whose first voxel is the origin of all.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> volume = open_volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    >>> files = AsZarr(Layer("a", "image", (volume,)), volume.info.geometry)
    >>> len(files.get("0/c/0/0/0")), files.get("0/c/0/0/1"), files.get("../secret")
    (24, None, None)
    """

    def __init__(self, layer: Layer, within: Geometry) -> None:
        self.layer, self._within = layer, within
        self._chunks = [chunk_of(v.info.chunk_zyx, v.info.shape_zyx) for v in layer.levels]

    def get(self, key: str) -> bytes | None:
        """A file; None where there is none of that name."""
        asked = KEY.fullmatch(key)
        if not asked:
            return None
        if asked[2] is None:
            if asked[1] is None:
                return json.dumps(self._group()).encode()
            return json.dumps(self._array(int(asked[1]))).encode() if int(asked[1]) < len(self._chunks) else None
        level, *place = (int(n) for n in asked.groups()[1:])
        return self._chunk(level, place) if level < len(self._chunks) else None

    def _chunk(self, level: int, place: list[int]) -> bytes | None:
        chunk, whole = self._chunks[level], Box.of(self.layer.levels[level].info.shape_zyx)
        z, y, x = (i * c for i, c in zip(place, chunk, strict=True))
        if not all(a < b for a, b in zip((z, y, x), whole.stop, strict=True)):
            return None
        box = Box((z, y, x), (z + chunk[0], y + chunk[1], x + chunk[2])) & whole
        if link := leaving(self.layer.levels[level], box):
            raise LinkedError(f"{link} leads out of what is shown; it is not followed")
        values = self.layer.read(box, level)
        if not values.any():
            return None
        full = np.zeros(chunk, self.layer.dtype.newbyteorder("<"))
        full[tuple(slice(n) for n in values.shape)] = values
        return full.tobytes()

    def _group(self) -> dict[str, Any]:
        datasets = []
        unit = METERS.get(self._within.unit)
        for level in range(len(self._chunks)):
            size, origin = ([v * (unit or 1) for v in three] for three in self.layer.place(level, self._within))
            steps = [{"type": "scale", "scale": size}, {"type": "translation", "translation": origin}]
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        axes = [{"name": n, "type": "space"} | ({"unit": "meter"} if unit else {}) for n in "zyx"]
        ome = {"version": "0.5", "multiscales": [{"name": self.layer.name, "axes": axes, "datasets": datasets}]}
        return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}

    def _array(self, level: int) -> dict[str, Any]:
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.layer.levels[level].info.shape_zyx,
            "data_type": self.layer.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self._chunks[level]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "dimension_names": ["z", "y", "x"],
            "attributes": {},
        }


class LinkedError(ReadError):
    """A file of a store is a link to somewhere else."""


def chunk_of(stored: Zyx, shape: Zyx) -> Zyx:
    """What is sent at once: the stored chunk, made smaller or larger where that is better for a screen.

    >>> chunk_of((64, 64, 64), (500, 500, 500)), chunk_of((1, 4096, 4096), (90, 4096, 4096))
    ((64, 64, 64), (1, 512, 512))
    """
    side = FLAT if min(stored) == 1 else LONGEST
    made = [min(c, side, n) for c, n in zip(stored, shape, strict=True)]
    while math.prod(made) < LEAST and any(c < min(n, LONGEST) for c, n in zip(made, shape, strict=True)):
        axis = min((a for a in range(3) if made[a] < min(shape[a], LONGEST)), key=lambda a: made[a])
        made[axis] = min(2 * made[axis], shape[axis])
    z, y, x = made
    return z, y, x
