"""The same layers in napari: opened from the command line, and its reader plug-in.

napari is the user's own: nothing here imports it before it is asked for. Its plug-in manifest is ``napari.yaml`` beside
this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VoxweftError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.place import Geometry
from voxweft.image.units import METERS
from voxweft.installed import package_line
from voxweft.stores import open_volume
from voxweft.viewer.as_zarr import chunk_of
from voxweft.viewer.layers import layers_of
from voxweft.viewer.shown import IMAGE, LABELS, PROBABILITY, Layer, Points, Shown

MISSING = "napari is not installed here: {}, or leave out --napari to look in a browser"
LayerData = tuple[Any, dict[str, Any], str]


class Lazy:
    """A level of a layer as an array [Z, Y, X] that is read where it is indexed; for ``dask.array.from_array``.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> volume = open_volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    >>> array = Lazy(Layer("a", "image", (volume,)), 0)
    >>> array.shape, array[1, :2, ::2].tolist()
    ((2, 3, 4), [[12, 14], [16, 18]])
    """

    ndim = 3

    def __init__(self, layer: Layer, level: int) -> None:
        self._layer, self._level = layer, level
        self.shape: Zyx = layer.levels[level].info.shape_zyx
        self.dtype = layer.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        given = (*(index if isinstance(index, tuple) else (index,)), *[slice(None)] * 3)[:3]
        taken = [range(n)[one] for one, n in zip(given, self.shape, strict=True)]
        spans = [one if isinstance(one, range) else range(one, one + 1) for one in taken]
        if not all(map(len, spans)):
            return np.empty([len(one) for one in taken if isinstance(one, range)], self.dtype)
        start, stop = zip(*((min(s), max(s) + 1) for s in spans), strict=True)
        read = self._layer.read(Box(start, stop), self._level)
        steps = (
            np.asarray(span) - a if isinstance(one, range) else np.array([0])
            for one, span, a in zip(taken, spans, start, strict=True)
        )
        gone = tuple(axis for axis, one in enumerate(taken) if not isinstance(one, range))
        return np.asarray(read[np.ix_(*steps)].squeeze(gone))


def get_reader(path: Any) -> Callable[[Any], list[LayerData]] | None:
    """What napari asks for: a function that reads a path, or None where it is no volume of ours.

    Parameters
    ----------
    path
        What was dropped on napari.
    """
    if not isinstance(path, str) or not path.rstrip("/").endswith(".zarr"):
        return None
    try:
        open_volume(path)
    except (VoxweftError, OSError):
        return None
    return lambda dropped: layer_data(layers_of(dropped))


def layer_data(shown: Shown) -> list[LayerData]:
    """Everything that is shown, as napari's layers take it: data, their settings, and the kind of layer."""
    found = [_voxels(layer, shown.geometry) for layer in shown.layers]
    return found + [_marks(points, shown.geometry) for points in shown.points]


def open_napari(shown: Shown, at: tuple[float, float, float]) -> None:
    """Open napari and wait until it is closed.

    Raises
    ------
    RequestError
        If it is not installed.
    """
    try:
        import napari
    except ImportError as error:
        raise RequestError(MISSING.format(package_line("napari[all]"))) from error
    viewer = napari.Viewer(title=f"{shown.title} - voxweft")
    for data, settings, kind in layer_data(shown):
        getattr(viewer, f"add_{kind}")(data, **settings)
    viewer.dims.set_point(range(3), [float(v * s) for v, s in zip(at, shown.geometry.voxel_size_zyx, strict=True)])
    napari.run()


def _voxels(layer: Layer, within: Geometry) -> LayerData:
    size, origin = layer.place(0, within)
    arrays = [_array(layer, level) for level in range(len(layer.levels))]
    settings: dict[str, Any] = {
        "name": layer.name,
        "scale": size,
        "translate": origin,
        "units": [within.unit if within.unit in METERS else "pixel"] * 3,
        "visible": layer.visible,
        "multiscale": len(arrays) > 1,
    }
    data = arrays if len(arrays) > 1 else arrays[0]
    if layer.kind == LABELS:
        settings |= {"opacity": 0.5}
        if layer.names:
            settings["features"] = {"index": [0, *layer.names], "name": ["background", *layer.names.values()]}
        if layer.colours:
            settings["colormap"] = {None: "white", 0: "transparent", **layer.colours}
        return data, settings, "labels"
    settings |= {"contrast_limits": [layer.low, layer.high]}
    if layer.kind != IMAGE:
        settings |= {"colormap": layer.colour if layer.kind == PROBABILITY else "inferno"}
        settings |= {"blending": "additive", "opacity": 0.7}
    return data, settings, "image"


def _array(layer: Layer, level: int) -> Any:
    """A level as a dask array, which napari has; without dask as an array that is read where it is indexed."""
    lazy = Lazy(layer, level)
    try:
        import dask.array
    except ImportError:
        return lazy
    stored = layer.levels[level].info.chunk_zyx
    whole = zip(chunk_of(stored, lazy.shape), stored, lazy.shape, strict=True)
    chunk = tuple(max(sent, min(one, n)) for sent, one, n in whole)
    from_array: Any = dask.array.from_array
    return from_array(lazy, chunks=chunk, name=False, meta=np.empty((0, 0, 0), lazy.dtype))


def _marks(points: Points, within: Geometry) -> LayerData:
    units = [within.unit if within.unit in METERS else "pixel"] * 3
    look = {"face_color": points.colour, "size": 8, "out_of_slice_display": True}
    return points.centres, {"name": points.name, "scale": within.voxel_size_zyx, "units": units, **look}, "points"
