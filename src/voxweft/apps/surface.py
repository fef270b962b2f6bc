"""A surface volume as the engine sweeps it: its layers are channels, its rows are what is swept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import Geometry, VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.remote import is_remote
from voxweft.stores import ZARR_FILES, open_volume
from voxweft.stores.layers import LayersVolume, eight_bit
from voxweft.stores.url import children, local_path
from voxweft.stores.zarr import attributes_of

SURFACE = "surface volume"
PIECE_ROWS = 2048  # what is decoded at once may be as high


class SurfaceVolume:
    """Layers ``start <= n < stop`` of a surface volume, uint8 [layer, row, 1, column].

        stored     z = layer    y = row    x = column      (or the layers last: [row, column, layer])
        here       channel      z          x               y is one voxel long

    16-bit values are scaled to 8 bits by value >> 8.

    Parameters
    ----------
    url
        An OME-Zarr or zarr array [layer, row, column] or [row, column, layer], or a folder of numbered layers. Of an
        array without named axes the shortest axis is the depth.
    level
        Resolution level of an OME-Zarr.
    start, stop
        Layers by their own numbers: where the volume records which layers it holds, they count from there.
    reverse
        Whether the last layer becomes the first channel.

    Raises
    ------
    VolumeError
        If the layers are not there, or are no 8-bit or 16-bit integers.
    """

    def __init__(self, url: str, level: int = 0, *, start: int, stop: int, reverse: bool = False) -> None:
        self._step = -1 if reverse else 1
        self._base, self._depth, first, stamp = _open(url, level, start, stop)
        info = self._base.info
        n_there = info.shape_zyx[self._depth]
        if info.dtype not in ("uint8", "uint16") or info.n_channels != 1:
            raise VolumeError(f"{url} holds {info.n_channels} x {info.dtype}; layers are 8-bit or 16-bit integers")
        if not first <= start < stop <= first + n_there:
            raise VolumeError(
                f"No layers found: {url} holds layers {first} to {first + n_there - 1}, "
                f"{start} to {stop - 1} are asked for."
            )
        self._span = (start - first, stop - first)
        shape, chunk, size = (self._turn(t) for t in (info.shape_zyx, info.chunk_zyx, info.geometry.voxel_size_zyx))
        self.info = VolumeInfo(
            url=url,
            format=SURFACE,
            shape_zyx=shape,
            dtype="uint8",
            n_channels=stop - start,
            chunk_zyx=chunk,
            geometry=Geometry(size, info.geometry.unit),
            levels=(shape,),
            level=level,
            stored_bytes=info.stored_bytes,
            stamp=stamp,
            details={"start": start, "stop": stop, "reverse": reverse},
        )

    @property
    def piecewise(self) -> bool:
        """Whether a few rows can be had without decoding whole layers or fetching whole files."""
        if not isinstance(self._base, LayersVolume):
            return True
        return not is_remote(self._base.url) and int(self.info.chunk_zyx[0]) <= PIECE_ROWS

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box, uint8 [layer, rows, 1, columns]."""
        (a, _, left), (b, _, right) = box.start, box.stop
        lo, hi = self._span
        if self._depth == 0:
            values = self._base.read(Box((lo, a, left), (hi, b, right)))[0]
        else:
            values = np.moveaxis(self._base.read(Box((a, left, lo), (b, right, hi)))[0], -1, 0)
        return np.ascontiguousarray(eight_bit(values)[:: self._step, :, np.newaxis])

    def _turn(self, zyx: tuple[Any, Any, Any]) -> Any:
        """Row, 1 (or depth of a voxel), column of what is stored."""
        if self._depth == 0:
            return zyx[1], 1, zyx[2]
        return zyx[0], 1, zyx[1]


def _open(url: str, level: int, start: int, stop: int) -> tuple[Volume, int, int, str]:
    """The volume, its depth axis, the number of its first layer, and what changes when its data do."""
    if not is_zarr(url):
        if level:
            raise VolumeError(f"{url} has one resolution; --level {level} needs an OME-Zarr")
        layers = LayersVolume(url, start, stop)
        return layers, 0, start, layers.info.stamp
    volume, said = open_volume(url, level=level), attributes_of(url)
    window = said.get("voxweft", {}).get("layers")
    if window and not said["voxweft"].get("complete"):
        raise RequestError(f"{url} is not prepared to the end; run the same voxweft ink prepare again")
    named = bool(said.get("ome") or said.get("multiscales") or window)
    axis = 0 if named else _depth_axis(url, volume.info.shape_zyx)
    return volume, axis, int(window[0]) if window else 0, str(said["voxweft"].get("files", "")) if window else ""


def _depth_axis(url: str, shape: Zyx) -> int:
    if min(shape) == shape[1] < min(shape[0], shape[2]):
        raise VolumeError(f"{url} is {shape}: the layers, the shortest axis, must be the first or the last")
    return 0 if shape[0] <= shape[2] else 2


def is_zarr(url: str) -> bool:
    """Whether a surface volume is an array, and not a folder of layers; nothing but names is looked at."""
    if is_remote(url):
        return ".zarr" in url or (url.startswith("s3://") and not {*ZARR_FILES}.isdisjoint(children(url)))
    path = local_path(url)
    if not path.exists():
        hint = "; voxweft ink prepare makes a surface volume" if url.endswith(".zarr") else ""
        raise VolumeError(f"{url}: nothing lies there{hint}")
    return any((path / name).exists() for name in ZARR_FILES)
