"""HDF5: one dataset of a file."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.axes import Axes, Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.units import voxel_size
from voxweft.installed import install_line
from voxweft.stores.url import local_path, unreadable

DEEPEST = 8  # virtual sets of virtual sets
LARGEST_TAGS = 1 << 16  # characters


class Hdf5Volume:
    """A dataset of z y x, perhaps c: ``file.h5::/volumes/raw``, ``file.h5/volumes/raw``, or the only one.

    Its axes are those of the attribute ``axistags`` (ilastik) or of the labels of its dimensions, z y x or c z y x
    without them; voxel size from the attribute ``element_size_um`` (micrometres) or ``resolution`` (nanometres), z y x.
    Data that lie in other files are read where these lie in the same folder or below it, and refused elsewhere.

    Parameters
    ----------
    url
        The file and the dataset.
    select
        Which time point or channel of a dataset with several.

    Raises
    ------
    VolumeError
        If it is no readable file or dataset, its axes are not those of a volume, or its data lie elsewhere.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        try:
            import h5py
        except ImportError as error:
            raise VolumeError(f"HDF5 needs the extra 'em': {install_line('em')}") from error
        name, _, inner = url.replace(".h5/", ".h5::/", 1).partition("::")
        try:
            self._file = h5py.File(local_path(name), "r")
        except OSError as error:
            raise VolumeError(f"{name} is no readable HDF5 file: {first_line(error)}") from error
        self._lock = threading.Lock()
        self._url = url
        try:
            self._data = _from_its_folder(h5py, self._file, self._choose(h5py, inner))
            _require_near(h5py, self._data, local_path(name))
        except unreadable() as error:
            raise VolumeError(f"{url} cannot be read as HDF5: {first_line(error)}") from error
        shape, dtype = self._data.shape, self._data.dtype
        if dtype.kind not in "uifb":
            raise VolumeError(f"{url} holds {dtype} values; an image has integers or floats")
        self._axes = Axes.of(_names(self._data), shape, url, select)
        geometry, note = _geometry(self._data.attrs)
        size = self._axes.pick(shape)
        self.info = VolumeInfo(
            url=url,
            format="HDF5",
            shape_zyx=size,
            dtype="uint8" if dtype.kind == "b" else dtype.name,
            n_channels=self._axes.n_channels(shape),
            chunk_zyx=self._axes.pick(self._data.chunks) if self._data.chunks else (1, *size[1:]),
            geometry=geometry,
            levels=(size,),
            stored_bytes=self._data.id.get_storage_size(),
            notes=(note,) if note else (),
            details={"dataset": self._data.name},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; HDF5 reads one box at a time."""
        try:
            with self._lock:
                values = np.asarray(self._data[self._axes.index(box)])
        except unreadable() as error:
            raise ReadError(f"{self._url}: the box {box} cannot be read ({first_line(error)})") from error
        return self._axes.arranged(values)

    def _choose(self, h5py: Any, inner: str) -> str:
        """The name of the dataset that is meant; none is left open."""
        found: list[Any] = []
        self._file.visititems(
            lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) and item.ndim in (3, 4, 5) else None
        )
        names = ", ".join(d.name for d in found[:10]) or "none"
        if inner:
            parts = inner.strip("/").split("/")
            for n in range(1, len(parts) + 1):
                link = self._file.get("/".join(parts[:n]), getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise VolumeError(f"{self._url}: {inner} is a link into {link.filename}; give that file")
            item = self._file.get(inner)
            if not isinstance(item, h5py.Dataset) or item.ndim not in (3, 4, 5):
                raise VolumeError(f"{self._url}: {inner} is no dataset of 3 or 4 dimensions; there are {names}")
            return str(item.name)
        if len(found) != 1:
            raise VolumeError(f"{self._url}: which dataset? Give {self._url}::NAME; there are {names}")
        return str(found[0].name)


def _from_its_folder(h5py: Any, file: Any, name: str) -> Any:
    """A dataset, where names of other files are meant from the folder of its own, and not from where we are."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    access.set_virtual_prefix(b"${ORIGIN}")
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _require_near(h5py: Any, data: Any, file: Path, depth: int = 0) -> None:
    """Refuse data in other folders, and in files that are not there, of which HDF5 makes zeros."""
    folder = file.resolve().parent
    others = [(name, "") for name, _, _ in data.external or ()]
    virtual = data.virtual_sources() if data.is_virtual else ()
    others += [(source.file_name, source.dset_name) for source in virtual if source.file_name != "."]
    for name, dataset in dict.fromkeys(others):
        place = (folder / name).resolve()
        if not place.is_relative_to(folder):
            raise VolumeError(f"{file} has its data in {name}, outside its folder; it was refused")
        if not place.is_file():
            raise VolumeError(f"{file} has its data in {name}, which is not there")
        if not dataset:
            continue
        if depth >= DEEPEST:
            raise VolumeError(f"{file}: virtual data sets of virtual data sets, more than {DEEPEST} deep")
        with h5py.File(place, "r") as source:
            if not isinstance(source.get(dataset, getlink=True), (h5py.HardLink, h5py.SoftLink)):
                raise VolumeError(f"{file} has its data in {name}, where no dataset {dataset} lies")
            _require_near(h5py, source[dataset], place, depth + 1)


def _names(data: Any) -> list[str | None]:
    """The names of the axes, as far as they are told."""
    labels = [dimension.label or None for dimension in data.dims]
    tags = data.attrs.get("axistags")
    text = tags.decode("utf-8", "replace") if isinstance(tags, bytes) else tags
    if not isinstance(text, str) or len(text) > LARGEST_TAGS:
        return labels
    try:
        keys = [axis["key"] for axis in json.loads(text)["axes"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return labels
    return keys if len(keys) == data.ndim and all(isinstance(k, str) for k in keys) else labels


def _geometry(attributes: Any) -> tuple[Geometry, str]:
    for name, usual in (("element_size_um", "micrometer"), ("resolution", "nanometer")):
        if name in attributes and np.size(attributes[name]) == 3:
            size, unit, note = voxel_size(np.ravel(attributes[name]).tolist(), (usual,) * 3)
            return Geometry(size, unit), note
    return Geometry(), ""
