"""Zarr v2 and v3 volumes: plain arrays and OME-Zarr 0.4 / 0.5 groups, local, s3:// and http(s)://."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.remote import is_remote
from voxweft.stores.attributes import direction_of, stamp_of
from voxweft.stores.url import first_line, local_path, unreadable, zarr_store

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the stored axes map to [C, Z, Y, X]: their position, or None."""

    c: int | None
    z: int
    y: int
    x: int
    t: int | None = None

    @classmethod
    def of(cls, ndim: int, names: tuple[str, ...], url: str) -> _Layout:
        if not names:
            if ndim not in (3, 4):
                raise VolumeError(f"{url} has {ndim} dimensions; a volume has 3 (z, y, x) or 4 (c, z, y, x)")
            names = ("c", "z", "y", "x")[4 - ndim :]
        place = {name.lower(): i for i, name in enumerate(names)}
        unknown = [n for n in place if n not in ("t", "c", "z", "y", "x")]
        if len(names) != ndim or unknown or not {"z", "y", "x"} <= place.keys():
            raise VolumeError(
                f"{url} has the axes {', '.join(names)}; voxweft needs z, y, x, and at most c and t beside"
            )
        return cls(place.get("c"), place["z"], place["y"], place["x"], place.get("t"))

    def pick(self, shape: tuple[int, ...]) -> Zyx:
        return shape[self.z], shape[self.y], shape[self.x]


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

    Raises
    ------
    VolumeError
        If there is none, or it is of a kind that voxweft refuses; the message says why.
    """

    def __init__(self, source: str | Store, *, level: int = 0, cache: tuple[str, int] | None = None) -> None:
        self._url = source if isinstance(source, str) else str(source)
        store = zarr_store(source, read_only=True) if isinstance(source, str) else source
        if cache:
            from voxweft.stores.cache import CachedStore, DiskCache

            store = CachedStore(store, self._url, DiskCache(*cache))
        node = _open_node(store, self._url)
        meta: dict[str, Any] = {}
        levels: list[str] = []
        if not _is_array(node):
            node, meta, levels = _choose(node, self._url, level)
        elif level:
            raise VolumeError(f"{self._url} is a single array; --level {level} needs a multi-scale group")
        self._array: zarr.Array[Any] = node
        names = tuple(a["name"] if isinstance(a, dict) else str(a) for a in meta.get("axes", ()))
        self._layout = _Layout.of(self._array.ndim, names, self._url)
        self.info = self._describe(meta, levels, level)

    def _describe(self, meta: dict[str, Any], levels: list[str], level: int) -> VolumeInfo:
        array, layout = self._array, self._layout
        if array.dtype.kind not in "uifb":
            raise VolumeError(f"{self._url} holds {array.dtype} values; an image has integers or floats")
        if layout.t is not None and array.shape[layout.t] != 1:
            raise VolumeError(f"{self._url} has {array.shape[layout.t]} time points; give one with one")
        shapes = meta.get("shapes") or [array.shape]
        version = f"OME-Zarr {meta['version']}" if meta.get("version") else f"zarr v{array.metadata.zarr_format}"
        shards = getattr(array, "shards", None)
        return VolumeInfo(
            url=self._url,
            format=version,
            shape_zyx=layout.pick(array.shape),
            dtype=array.dtype.name,
            n_channels=1 if layout.c is None else array.shape[layout.c],
            chunk_zyx=layout.pick(array.chunks),
            geometry=_geometry(meta, levels[level] if levels else "", layout),
            levels=tuple(layout.pick(s) for s in shapes),
            level=level,
            is_label=bool(meta.get("is_label")),
            stored_bytes=None if is_remote(self._url) else _stored_bytes(array, self._url, levels, level),
            stamp=stamp_of(meta.get("voxweft")),
            details={"shard_zyx": layout.pick(shards)} if shards else {},
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels [C, Z, Y, X]; each touched chunk is decoded once."""
        try:
            return self._read(box)
        except unreadable() as error:
            raise ReadError(
                f"{self._url}: {self._culprit(box)} cannot be read ({first_line(error)}). "
                "The file is damaged or was not fetched whole."
            ) from error

    def _read(self, box: Box) -> NDArray[Any]:
        layout = self._layout
        index: list[Any] = [slice(None)] * self._array.ndim
        for axis, where in zip((layout.z, layout.y, layout.x), box.slices, strict=True):
            index[axis] = where
        if layout.t is not None:
            index[layout.t] = slice(0, 1)
        values = np.asarray(self._array[tuple(index)])
        order = [a for a in (layout.t, layout.c, layout.z, layout.y, layout.x) if a is not None]
        values = values.transpose(order)
        if layout.t is not None:
            values = values[0]
        values = values if layout.c is not None else values[np.newaxis]
        return values.astype(np.uint8) if values.dtype.kind == "b" else values

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


def _open_node(store: Any, url: str) -> Any:
    import zarr
    from zarr.errors import GroupNotFoundError, NodeTypeValidationError

    missing = (FileNotFoundError, NodeTypeValidationError, GroupNotFoundError)
    try:
        return zarr.open(store, mode="r")
    except missing as error:
        raise VolumeError(f"{url} is no zarr array or group: no zarr.json, .zarray or .zgroup lies there") from error
    except unreadable() as error:
        raise VolumeError(f"{url} cannot be opened as zarr: {first_line(error)}") from error


def _choose(group: Any, url: str, level: int) -> tuple[Any, dict[str, Any], list[str]]:
    """The array of a group at a level, with the metadata that matters, and the paths of all levels."""
    import zarr

    attributes = dict(group.attrs)
    ome = attributes.get("ome") or attributes
    scales = ome.get("multiscales") or []
    if not scales:
        arrays = sorted(name for name, _ in group.arrays())
        if len(arrays) == 1:
            return group[arrays[0]], {}, []
        inside = f"it holds the arrays {', '.join(arrays[:10])}; give {url}/NAME" if arrays else "it holds no array"
        raise VolumeError(f"{url} is a zarr group without multi-scale metadata: {inside}")
    version = str(ome.get("version") or scales[0].get("version") or "0.4")
    if version.startswith("0.6") or "coordinateSystems" in scales[0]:
        raise VolumeError(
            f"{url} is OME-Zarr {version}, whose coordinate systems voxweft does not read; give the path of its array"
        )
    paths = [d["path"] for d in scales[0].get("datasets", [])]
    if not 0 <= level < len(paths):
        raise VolumeError(f"{url} has {len(paths)} resolution levels; --level {level} must be 0 to {len(paths) - 1}")
    try:
        nodes = [group[path] for path in paths]
    except KeyError as error:
        raise VolumeError(f"{url}: its metadata names the level {error}, which is not there") from error
    if not all(isinstance(n, zarr.Array) for n in nodes):
        raise VolumeError(f"{url}: a level of its metadata is not an array")
    meta = {
        "version": version,
        "axes": scales[0].get("axes", ()),
        "shapes": [n.shape for n in nodes],
        "multiscale": scales[0],
        "is_label": "image-label" in ome,
        "voxweft": attributes.get("voxweft"),
    }
    return nodes[level], meta, paths


def _geometry(meta: dict[str, Any], path: str, layout: _Layout) -> Geometry:
    scales = meta.get("multiscale")
    if not scales:
        return Geometry()
    n = len(meta["axes"]) or 3
    size, origin = np.ones(n), np.zeros(n)
    dataset = next(d for d in scales["datasets"] if d["path"] == path)
    for step in [*dataset.get("coordinateTransformations", []), *scales.get("coordinateTransformations", [])]:
        if step.get("type") == "scale" and "scale" in step:
            size, origin = size * step["scale"], origin * step["scale"]
        elif step.get("type") == "translation" and "translation" in step:
            origin = origin + step["translation"]
    axis = meta["axes"][layout.z] if meta["axes"] else {}
    unit = axis.get("unit", "") if isinstance(axis, dict) else ""
    z, y, x = (float(v) for v in layout.pick(tuple(size)))
    a, b, c = (float(v) for v in layout.pick(tuple(origin)))
    return Geometry((z, y, x), unit or "", (a, b, c), direction_of(meta.get("voxweft")))


def _stored_bytes(array: Any, url: str, levels: list[str], level: int) -> int | None:
    folder = local_path(url) / (levels[level] if levels else array.path)
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else None


def attributes_of(url: str) -> dict[str, Any]:
    """The attributes of an array or group, for what an earlier stage said of itself."""
    import zarr

    try:
        return dict(zarr.open(zarr_store(url, read_only=True), mode="r").attrs)
    except unreadable() as error:
        raise VolumeError(f"{url} cannot be opened as a zarr: {first_line(error)}") from error
