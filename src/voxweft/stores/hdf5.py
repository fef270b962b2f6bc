"""HDF5: one dataset of a file."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.stores.url import local_path


class Hdf5Volume:
    """A dataset [Z, Y, X] or [C, Z, Y, X]: ``file.h5::/volumes/raw``, ``file.h5/volumes/raw``, or the only one.

    Voxel size from the attribute ``element_size_um`` (micrometres) or ``resolution`` (nanometres), z y x.
    """

    def __init__(self, url: str) -> None:
        try:
            import h5py
        except ImportError as error:
            raise VolumeError("HDF5 needs the extra 'em': pip install 'voxweft[em]'") from error
        name, _, inner = url.replace(".h5/", ".h5::/", 1).partition("::")
        try:
            self._file = h5py.File(local_path(name), "r")
        except OSError as error:
            raise VolumeError(f"{name} is no readable HDF5 file: {str(error).splitlines()[0]}") from error
        self._lock = threading.Lock()
        self._url = url
        self._data = self._choose(h5py, inner)
        shape = self._data.shape
        z, y, x = shape[-3:]
        if self._data.dtype.kind not in "uif":
            raise VolumeError(f"{url} holds {self._data.dtype} values; an image has integers or floats")
        self.info = VolumeInfo(
            url=url,
            format="HDF5",
            shape_zyx=(z, y, x),
            dtype=self._data.dtype.name,
            n_channels=shape[0] if len(shape) == 4 else 1,
            chunk_zyx=(self._data.chunks or (1, y, x))[-3:],
            geometry=_geometry(self._data.attrs),
            levels=((z, y, x),),
            stored_bytes=self._data.id.get_storage_size(),
            details={"dataset": self._data.name},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; HDF5 reads one box at a time."""
        place = box.slices if self._data.ndim == 3 else (slice(None), *box.slices)
        try:
            with self._lock:
                values = np.asarray(self._data[place])
        except (OSError, RuntimeError) as error:
            raise ReadError(f"{self._url}: the box {box} cannot be read ({str(error).splitlines()[0]})") from error
        return values if values.ndim == 4 else values[np.newaxis]

    def _choose(self, h5py: Any, inner: str) -> Any:
        found: list[Any] = []
        self._file.visititems(
            lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) and item.ndim in (3, 4) else None
        )
        names = ", ".join(d.name for d in found[:10]) or "none"
        if inner:
            item = self._file.get(inner)
            if not isinstance(item, h5py.Dataset) or item.ndim not in (3, 4):
                raise VolumeError(f"{self._url}: {inner} is no dataset of 3 or 4 dimensions; there are {names}")
            return item
        if len(found) != 1:
            raise VolumeError(f"{self._url}: which dataset? Give {self._url}::NAME; there are {names}")
        return found[0]


def _geometry(attributes: Any) -> Geometry:
    for name, unit in (("element_size_um", "micrometer"), ("resolution", "nanometer")):
        if name in attributes and np.size(attributes[name]) == 3:
            z, y, x = (float(v) for v in np.ravel(attributes[name]))
            return Geometry((z, y, x), unit)
    return Geometry()
