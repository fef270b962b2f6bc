"""Volumes and sinks in memory, for tests and the Python API."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.image.place import Geometry


class MemoryVolume:
    """An array as a volume.

    Parameters
    ----------
    array
        [Z, Y, X] or [C, Z, Y, X], any real dtype.
    geometry
        Voxel size, unit, origin.
    chunk_zyx
        What is pretended to be decoded at once.
    """

    def __init__(self, array: NDArray[Any], geometry: Geometry | None = None, chunk_zyx: Zyx = (32, 32, 32)) -> None:
        if array.ndim not in (3, 4):
            raise VolumeError(f"an array of {array.ndim} dimensions is no volume; give [Z, Y, X] or [C, Z, Y, X]")
        if array.dtype.kind not in "uifb":
            raise VolumeError(f"an array of dtype {array.dtype} is no image; give integers or floats")
        self._array = array if array.ndim == 4 else array[np.newaxis]
        z, y, x = self._array.shape[1:]
        self.info = VolumeInfo(
            url="memory://",
            format="memory",
            shape_zyx=(z, y, x),
            dtype=array.dtype.name,
            n_channels=len(self._array),
            chunk_zyx=chunk_zyx,
            geometry=geometry or Geometry(),
            levels=((z, y, x),),
            stored_bytes=array.nbytes,
        )

    def read(self, box: Box) -> NDArray[Any]:
        """A copy of the voxels of ``box`` [C, Z, Y, X]."""
        return self._array[(slice(None), *box.slices)].copy()


class MemoryRecords:
    """Records in a dictionary."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The record, or None."""
        return self._data.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace."""
        self._data[key] = data

    def create(self, key: str, data: bytes) -> bool:
        """Write if there is none."""
        with self._lock:
            return self._data.setdefault(key, data) is data

    def keys(self, prefix: str = "") -> list[str]:
        """Keys with the prefix, sorted."""
        return sorted(k for k in self._data if k.startswith(prefix))

    def remove(self, key: str) -> None:
        """Remove a record."""
        self._data.pop(key, None)

    def clear(self) -> None:
        """Remove all."""
        self._data.clear()


class MemorySink:
    """A sink that keeps its arrays, one a resolution level."""

    url = "memory://"

    def __init__(self) -> None:
        self.records = MemoryRecords()
        self.attributes: dict[str, Any] = {}
        self._levels: list[NDArray[Any]] = []
        self._spec: OutputSpec | None = None
        self._lock = threading.Lock()

    @property
    def array(self) -> NDArray[Any] | None:
        """The full resolution [C, Z, Y, X] itself; None before ``create``."""
        return self._levels[0] if self._levels else None

    def exists(self) -> bool:
        """Whether it was created."""
        return self._spec is not None

    def create(self, spec: OutputSpec) -> None:
        """Make the arrays of zeros, once."""
        with self._lock:
            if self._spec is not None:
                return
            self._levels = [np.zeros((spec.n_channels, *shape), spec.dtype) for shape in spec.level_shapes]
            self._spec = spec

    def open(self) -> OutputSpec:
        """The spec it was created with."""
        if self._spec is None:
            raise VolumeError("nothing was written to this memory sink")
        return self._spec

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> None:
        """Place [C, Z, Y, X] at a box of a level."""
        self._filled(level)[(slice(None), *box.slices)] = array

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """A copy of a box [C, Z, Y, X] of a level."""
        return self._filled(level)[(slice(None), *box.slices)].copy()

    def shape(self, level: int = 0) -> Zyx:
        """Extent z y x of a level."""
        z, y, x = self._filled(level).shape[1:]
        return z, y, x

    def n_levels(self) -> int:
        """How many resolution levels there are."""
        self.open()
        return len(self._levels)

    def n_files(self, _level: int = 0) -> None:
        """There are none."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes."""
        self.attributes |= attributes

    def remove(self) -> None:
        """Forget everything."""
        self._levels, self._spec = [], None
        self.attributes.clear()
        self.records.clear()

    def _filled(self, level: int) -> NDArray[Any]:
        self.open()
        if not level < len(self._levels):
            raise RequestError(f"memory:// has {len(self._levels)} resolution levels; there is no level {level}")
        return self._levels[level]
