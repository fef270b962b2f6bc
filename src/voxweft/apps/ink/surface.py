"""A surface volume as the engine sweeps it: its layers are channels, its rows are what is swept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.image.views import AsChannels, Crop, EightBit, Permute, View
from voxweft.model.spacing import NANOMETERS
from voxweft.remote import is_remote
from voxweft.stores import ZARR_FILES, open_volume
from voxweft.stores.attributes import attributes_of
from voxweft.stores.layers import LayersVolume, layers_there
from voxweft.stores.url import children, local_path

PIECE_ROWS = 2048  # what is decoded at once may be as high


@dataclass(frozen=True, slots=True)
class LayerStack:
    """What is known of a stack of layers before any of them is read.

    Attributes
    ----------
    layers
        Their numbers.
    spacing_um
        Distance of layers, rows and columns in micrometres, or None where nobody says it.
    dtype
        numpy dtype of what is stored; "" of pictures, whose names are all that was looked at.
    form
        The attribute ``format`` of an array, or "".
    source_level, source_planes
        Of a prepared array: the level it was rendered from, and how many of its planes went into the layers.
    """

    layers: range
    spacing_um: tuple[float, float, float] | None = None
    dtype: str = ""
    form: str = ""
    source_level: str = ""
    source_planes: int | None = None


def stack_of(url: str, level: int = 0) -> LayerStack:
    """What layers there are; names and metadata are looked at, and no layer.

    Raises
    ------
    VolumeError
        If there are none, or they cannot be listed.
    """
    if not is_zarr(url):
        return LayerStack(layers_there(url.rstrip("/")))
    volume, depth, first, attributes = _opened_array(url, level)
    info, unit = volume.info, NANOMETERS.get(volume.info.geometry.unit)
    first_axis, second, third = (size * (unit or 0) / 1e3 for size in info.geometry.voxel_size_zyx)
    spacing = (first_axis, second, third) if depth == 0 else (third, first_axis, second)
    layers = range(first, first + info.shape_zyx[depth])
    form, origin = (str(attributes.get(name, "")) for name in ("format", "source_level"))
    match attributes.get("source_z_slice"):
        case [int(start), int(stop)]:
            n_planes: int | None = stop - start
        case _:
            n_planes = None
    return LayerStack(layers, spacing if unit else None, info.dtype, form, origin, n_planes)


def open_surface(url: str, level: int = 0, *, start: int, stop: int, reverse: bool = False) -> Volume:
    """Layers ``start <= n < stop`` of a surface volume, uint8 [layer, row, 1, column].

        stored     z = layer    y = row    x = column      (or the layers last: [row, column, layer])
        here       channel      z          x               y is one voxel long

    16-bit values are scaled to 8 bits by value >> 8. What is opened carries its reference, so that
    ``voxweft.stores.open_ref`` opens it again.

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
    volume, depth, first = _open(url, level, start, stop)
    info = volume.info
    n_there = info.shape_zyx[depth]
    if info.dtype not in ("uint8", "uint16") or info.n_channels != 1:
        raise VolumeError(f"{url} holds {info.n_channels} x {info.dtype}; layers are 8-bit or 16-bit integers")
    if not first <= start < stop <= first + n_there:
        raise VolumeError(
            f"No layers found: {url} holds layers {first} to {first + n_there - 1}, "
            f"{start} to {stop - 1} are asked for."
        )
    views: list[View] = []
    if stop - start < n_there:
        views.append(Crop(_layers(info.shape_zyx, depth, start - first, stop - first)))
    views += [AsChannels(depth, reverse), Permute((1, 0, 2) if depth == 0 else (0, 2, 1))]
    if info.dtype == "uint16":
        views.append(EightBit())
    for view in views:
        volume = view.of(volume)
    return volume


def piecewise(volume: Volume) -> bool:
    """Whether a few rows of a surface can be had without decoding whole layers or fetching whole files."""
    ref = volume_ref(volume)
    return ref.opener != "layers" or (not is_remote(ref.url) and volume.info.chunk_zyx[0] <= PIECE_ROWS)


def _layers(shape: Zyx, depth: int, start: int, stop: int) -> Box:
    """The box of some layers, whole ones."""
    z, y, x = ((start, stop) if axis == depth else (0, n) for axis, n in enumerate(shape))
    return Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def _open(url: str, level: int, start: int, stop: int) -> tuple[Volume, int, int]:
    """The volume as it is stored, its depth axis, and the number of its first layer."""
    if not is_zarr(url):
        if level:
            raise VolumeError(f"{url} has one resolution; --level {level} needs an OME-Zarr")
        return LayersVolume(url, start, stop), 0, start
    volume, depth, first, _ = _opened_array(url, level)
    return volume, depth, first


def _opened_array(url: str, level: int) -> tuple[Volume, int, int, dict[str, Any]]:
    """An array, its depth axis, the number of its first layer, and its attributes."""
    volume, attributes = open_volume(url, level=level), attributes_of(url)
    window = attributes.get("voxweft", {}).get("layers")
    if window and not attributes["voxweft"].get("complete"):
        raise RequestError(f"{url} is not prepared to the end; run the same voxweft ink prepare again")
    named = bool(attributes.get("ome") or attributes.get("multiscales") or window)
    axis = 0 if named else _depth_axis(url, volume.info.shape_zyx)
    return volume, axis, int(window[0]) if window else 0, attributes


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
