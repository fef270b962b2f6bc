"""MRC2014 files of cryo-EM (.mrc, .rec, .map, .st): mapped, not read; x y z inside, z y x outside."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, RequestError, VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.axes import Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.units import voxel_size
from voxweft.installed import install_line
from voxweft.stores.url import local_path, unreadable

MODES = {0: "8-bit", 1: "int16", 2: "float32", 6: "uint16", 12: "float16"}
IMOD_STAMP, SIGNED = 1146047817, 1  # IMOD's mark, and the flag by which it says that bytes are signed


class MrcVolume:
    """A volume of an MRC file [1, Z, Y, X]; modes 0, 1, 2, 6 and 12, of either byte order.

    Bytes (mode 0) are signed, as MRC2014 says, unless IMOD marks them as unsigned.

    Parameters
    ----------
    url
        Its path.
    select
        Nothing can be chosen.

    Raises
    ------
    VolumeError
        If it is none, cut, a stack of volumes, or of complex or packed values.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        try:
            import mrcfile
        except ImportError as error:
            raise RequestError(f"{url} needs the extra 'cryoet': {install_line('cryoet')}") from error
        if select and select != Select():
            raise VolumeError(f"{url} is one volume; there is no time, channel or series to choose")
        path = local_path(url)
        with warnings.catch_warnings(record=True) as said:  # what is odd but can be read; notes tell of it
            warnings.simplefilter("always")
            try:
                self._file = mrcfile.mmap(path, mode="r", permissive=True)
            except unreadable() as error:
                raise VolumeError(f"{url} is no MRC file, or damaged: {first_line(error)}") from error
        header, data = self._file.header, self._file.data
        mode = int(header.mode)
        if mode not in MODES:
            known = ", ".join(f"{n} ({name})" for n, name in MODES.items())
            raise VolumeError(f"{url} is an MRC file of mode {mode}; voxweft reads {known}")
        if data is None or data.ndim not in (2, 3) or not data.size:
            raise VolumeError(f"{url} is cut, empty, or a stack of volumes: its header says {_shape(header)} voxels")
        data = data if data.ndim == 3 else data[None]
        if mode == 0 and _unsigned(header):
            data = data.view(np.uint8)
        self._data = data.transpose(_order(header, url)) if data.shape[0] > 1 else data
        sizes = [float(self._file.voxel_size[axis]) for axis in "zyx"]
        size, unit, note = voxel_size(sizes, ("angstrom",) * 3)
        odd = [str(w.message).splitlines()[0] for w in said]
        shape = self._data.shape
        z, y, x = shape
        self.info = VolumeInfo(
            url=url,
            format="MRC",
            shape_zyx=(z, y, x),
            dtype=self._data.dtype.name,
            chunk_zyx=(1, y, x),
            geometry=Geometry(size, unit),
            levels=((z, y, x),),
            stored_bytes=path.stat().st_size,
            stamp=str(path.stat().st_mtime_ns),
            notes=(*([note] if note else []), *(f"odd, but read: {text}" for text in odd)),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [1, Z, Y, X], in this machine's byte order."""
        if box not in Box.of(self.info.shape_zyx):
            raise ReadError(f"{self.info.url}: {box} is not in it")
        values = self._data[box.slices]
        return np.asarray(values, values.dtype.newbyteorder("="))[None]


def _order(header: Any, url: str) -> tuple[int, int, int]:
    """Which axis of the file is z, y and x; files that say nothing mean columns x, rows y, sections z."""
    axes = [int(header.maps), int(header.mapr), int(header.mapc)]
    if axes == [0, 0, 0]:
        axes = [3, 2, 1]
    if sorted(axes) != [1, 2, 3]:
        raise VolumeError(f"{url}: its header says that its axes are {axes}, of 1 (x), 2 (y) and 3 (z)")
    return axes.index(3), axes.index(2), axes.index(1)


def _unsigned(header: Any) -> bool:
    """Whether IMOD says that bytes are unsigned: its mark and flags are words 11 and 12 of the second extra space."""
    words = np.frombuffer(header.extra2.tobytes()[:48], header.nx.dtype)
    return int(words[10]) == IMOD_STAMP and not int(words[11]) & SIGNED


def _shape(header: Any) -> tuple[int, int, int]:
    return int(header.nz), int(header.ny), int(header.nx)
