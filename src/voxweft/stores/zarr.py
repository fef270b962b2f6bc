"""Zarr v2 and v3 volumes: plain arrays and OME-Zarr 0.4 / 0.5 groups, local, s3:// and http(s)://."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.axes import Axes, Select
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.units import voxel_size
from voxweft.remote import is_remote
from voxweft.stores.attributes import direction_of, stamp_of
from voxweft.stores.chunk_folder import ChunkFolder
from voxweft.stores.mended import MendedStore
from voxweft.stores.multiscales import Image, image_of
from voxweft.stores.stored_chunks import StoredChunks, spread_over
from voxweft.stores.url import local_path, read_error, unreadable, zarr_store

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


class ZarrVolume:
    """One array of a zarr hierarchy as a volume.

    Parameters
    ----------
    source
        URL or path of an array or an OME-Zarr group, or a ready zarr store.
    level
        Resolution level of a group, 0 the finest.
    cache
        Folder and most bytes of a cache on disk for what is read.
    select
        Which time point, channel or image of several.

    Raises
    ------
    VolumeError
        If there is none, or it is of a kind that voxweft refuses; the message says why.
    """

    def __init__(
        self,
        source: str | Store,
        *,
        level: int = 0,
        cache: tuple[str, int] | None = None,
        select: Select | None = None,
    ) -> None:
        self._url, select = source if isinstance(source, str) else str(source), select or Select()
        store = zarr_store(source, read_only=True) if isinstance(source, str) else source
        if cache:
            from voxweft.disk_cache import DiskCache
            from voxweft.stores.cache import CachedStore

            store = CachedStore(store, self._url, DiskCache(*cache))
        local = isinstance(source, str) and not is_remote(source)
        self._store = MendedStore(store, self._url, local_path(self._url) if local else None)
        node = _open_node(self._store, self._url)
        image, path, arrays = None, "", [node]
        if not _is_array(node):
            image, path, arrays = _choose(self._store, node, (self._url, level, select.series))
        elif level or select.series:
            raise VolumeError(f"{self._url} is a single array; --level {level} needs a multi-scale group")
        self._array: zarr.Array[Any] = arrays[level]
        self._path = path if local else None
        self._stored = StoredChunks.of(self._array, local_path(self._url) / path) if local else None
        self._plain = ChunkFolder.of(self._array, local_path(self._url) / path) if local and not cache else None
        self._axes = Axes.of(_names(self._array, image), self._array.shape, self._url, select)
        self.info = self._describe(image, path, arrays, level)

    def _describe(self, image: Image | None, path: str, arrays: list[Any], level: int) -> VolumeInfo:
        array, axes = self._array, self._axes
        if array.dtype.kind not in "uifb":
            raise VolumeError(f"{self._url} holds {array.dtype} values; an image has integers or floats")
        shards = getattr(array, "shards", None)
        geometry, note = _geometry(image, level, axes, self._url)
        return VolumeInfo(
            url=self._url,
            format=f"OME-Zarr {image.version}" if image else f"zarr v{array.metadata.zarr_format}",
            shape_zyx=axes.pick(array.shape),
            dtype=array.dtype.name,
            n_channels=axes.n_channels(array.shape),
            chunk_zyx=axes.pick(array.chunks),
            geometry=geometry,
            levels=tuple(axes.pick(a.shape) for a in arrays),
            level=level,
            is_label=bool(image and image.is_label),
            stored_bytes=self._stored.n_bytes if self._stored else None,
            stamp=stamp_of(image.attributes.get("voxweft") if image else None),
            notes=(*dict.fromkeys(self._store.notes), *([note] if note else [])),
            details={"shard_zyx": axes.pick(shards)} if shards else {},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; each touched chunk is decoded once."""
        try:
            return self._read(box)
        except unreadable() as error:
            raise read_error(f"{self._url}: {self._culprit(box)}", error) from error

    def stores(self, box: Box) -> bool:
        """Whether any chunk, or shard, of a box is stored; of an array on a server always true."""
        return self._stored is None or self._stored.any(self._axes.index(box))

    def files(self, box: Box) -> Iterator[Path]:
        """Where the chunks, or shards, of a box lie if they are stored; of an array on a server none."""
        if self._path is None:
            return
        folder, array = local_path(self._url) / self._path, self._array
        sizes = getattr(array, "shards", None) or array.chunks
        taken = (slice(i, i + 1) if isinstance(i, int) else i for i in self._axes.index(box))
        bounds = (i.indices(n) for i, n in zip(taken, array.shape, strict=True))
        places = (range(lo // size, -(-hi // size)) for (lo, hi, _), size in zip(bounds, sizes, strict=True))
        yield from (folder / array.metadata.encode_chunk_key(i) for i in itertools.product(*places))

    def stored_boxes(self, n: int, side: int) -> tuple[list[Box], Box | None, float] | None:
        """Boxes spread over the chunks that are stored, at most ``n`` with sides up to ``side`` voxels.

        Returns
        -------
        tuple or None
            Them, one where nothing is stored, and the share of chunks that are; None for an array on a server.
        """
        if self._stored is None:
            return None
        there, size = self._stored.there, self._stored.size
        fixed = zip(self._axes.fixed, size, strict=True)
        there = there[tuple(slice(None) if index is None else index // s for index, s in fixed)]
        grid = np.asarray(self._axes.arranged(there).any(axis=0))
        return spread_over(grid, self._axes.pick(size), self.info.shape_zyx, (n, side))

    def _read(self, box: Box) -> NDArray[Any]:
        wanted = self._axes.index(box)
        return self._axes.arranged(self._plain.read(wanted) if self._plain else np.asarray(self._array[wanted]))

    def _culprit(self, box: Box) -> str:
        """The first chunk of a box that cannot be read, by its index and voxels."""
        size = self.info.chunk_zyx
        ranges = [range(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, size, strict=True)]
        for index in itertools.product(*ranges):
            start = tuple(i * s for i, s in zip(index, size, strict=True))
            stop = tuple(a + s for a, s in zip(start, size, strict=True))
            chunk = Box(start, stop) & Box.of(self.info.shape_zyx)  # type: ignore[arg-type]
            try:
                self._read(chunk)
            except unreadable():
                return f"chunk {'/'.join(map(str, index))} (voxels {chunk})"
        return f"box {box}"


def _is_array(node: Any) -> bool:
    import zarr

    return isinstance(node, zarr.Array)


def _open_node(store: MendedStore, url: str) -> Any:
    import zarr
    from zarr.errors import GroupNotFoundError, NodeTypeValidationError

    missing = (FileNotFoundError, NodeTypeValidationError, GroupNotFoundError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata of both formats: the newer one counts
            return zarr.open(store, mode="r")
    except missing as error:
        if store.forbidden:
            raise VolumeError(f"{url} cannot be opened, the server forbids it: {store.forbidden}") from error
        raise VolumeError(f"{url} is no zarr array or group: no zarr.json, .zarray or .zgroup lies there") from error
    except unreadable() as error:
        raise VolumeError(f"{url} cannot be opened as zarr: {first_line(error)}") from error


def _choose(store: MendedStore, group: Any, asked: tuple[str, int, int | None]) -> tuple[Image | None, str, list[Any]]:
    """Of a group the image that is meant: its metadata, the path of the level, and the arrays of all levels.

    Each array is opened by its own metadata: those that are consolidated in the group may be of an earlier day.
    """
    (url, level, series), attributes = asked, dict(group.attrs)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        images = sorted((name for name, _ in group.groups() if name.isdecimal()), key=int)
        if series is None and len(images) != 1:
            text = f"{url} holds {len(images)} images of bioformats2raw"
            raise VolumeError(f"{text}; choose one with --series, or give {url}/0")
        name = images[0] if series is None else str(series)
        if name not in images:
            raise VolumeError(f"--series {series}: {url} holds the images {', '.join(images[:10])}")
        image, path, arrays = _choose(store, group[name], (f"{url}/{name}", level, None))
        return image, f"{name}/{path}", arrays
    if series:
        raise VolumeError(f"--series {series}: {url} is one image")
    image = image_of(attributes, url)
    if image is None:
        arrays = sorted(name for name, _ in group.arrays())
        if len(arrays) == 1 and not level:
            return None, arrays[0], [group[arrays[0]]]
        inside = f"it holds the arrays {', '.join(arrays[:10])}; give {url}/NAME" if arrays else "it holds no array"
        raise VolumeError(f"{url} is a zarr group without multi-scale metadata: {inside}")
    paths = [d.path for d in image.scales.datasets]
    if not 0 <= level < len(paths):
        raise VolumeError(f"{url} has {len(paths)} resolution levels; --level {level} must be 0 to {len(paths) - 1}")
    levels = [_level(store, group, path, url) for path in paths]
    remembered = getattr(group.metadata.consolidated_metadata, "metadata", {})
    for path, found in zip(paths, levels, strict=True):
        if getattr(remembered.get(path), "shape", found.shape) != found.shape:
            store.notes.append(f"{url}/{path} is {found.shape}; the metadata that the group remembers are of earlier")
    return image, paths[level], levels


def _level(store: Any, group: Any, path: str, url: str) -> Any:
    import zarr

    parts = path.strip("/").split("/")
    if "" in parts or ".." in parts:
        raise VolumeError(f"{url}: its metadata names the level {path!r}, which is no path below it")
    try:
        return zarr.open_array(store, path="/".join(p for p in (group.path, *parts) if p), mode="r")
    except (FileNotFoundError, KeyError) as error:
        raise VolumeError(f"{url}: its metadata names the level {path!r}, which is not there") from error
    except unreadable() as error:
        raise VolumeError(f"{url}: the level {path!r} cannot be opened as an array: {first_line(error)}") from error


def _names(array: Any, image: Image | None) -> list[str | None]:
    """The names of the axes: of OME-Zarr, of zarr v3, of xarray; none where nobody names them."""
    if image and image.scales.axes:
        return [axis.name for axis in image.scales.axes]
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return [n if isinstance(n, str) else None for n in named] if isinstance(named, (list, tuple)) else []


def _geometry(image: Image | None, level: int, axes: Axes, url: str) -> tuple[Geometry, str]:
    if image is None:
        return Geometry(), ""
    try:
        size, origin = image.placed(level, len(axes.letters))
    except VolumeError as error:
        raise VolumeError(f"{url}: {error}") from error
    units = [axis.unit for axis in image.scales.axes] or [None] * len(axes.letters)
    zyx, unit, note = voxel_size(axes.pick(size), axes.pick(units))
    start = axes.pick(origin)
    if note or not all(map(math.isfinite, start)):
        return Geometry(zyx, unit), note
    if axes.pick(size) != zyx:  # in the unit of x
        start = tuple(o / s * new for o, s, new in zip(start, axes.pick(size), zyx, strict=True))  # type: ignore[assignment]
    return Geometry(zyx, unit, start, direction_of(image.attributes.get("voxweft"))), note
