"""The OME-Zarr 0.5 sink: one array a resolution level, chunks in shards, each written once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, RequestError, VolumeError, WriteError, first_line, write_error
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.place import Geometry
from voxweft.image.protocols import Records
from voxweft.image.stored import StoredBoxes
from voxweft.remote import is_remote, remote_errors
from voxweft.stores.attributes import direction_of
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.ngff05 import CREATOR, attributes_for, names_in, shown_in
from voxweft.stores.shards import Shards
from voxweft.stores.url import local_path, parent_and_name, records_at, remove, unreadable, zarr_store

if TYPE_CHECKING:
    from zarr.abc.store import Store


class OmeZarrSink:
    """An OME-Zarr 0.5 image, local or on s3://, with its records in ``<url>.voxweft/``.

        out.zarr/zarr.json      group: multi-scale metadata, names and colours, provenance under "voxweft"
        out.zarr/0/...          full resolution [Z, Y, X] or [C, Z, Y, X]
        out.zarr/1/...          half of it, and so on; see :attr:`~voxweft.image.OutputSpec.level_factors`
        out.zarr.voxweft/...       plan, ledger, reports

    OME-Zarr 0.5 has scales and translations but no rotation: a direction that is not the identity is written to the
    attribute "voxweft" as "direction_zyx", which voxweft reads back and other readers leave aside. The translations
    are positions in the world, so that they see the first voxel where it is.

    Parameters
    ----------
    url
        Where it is to lie.
    store, records
        In place of the URL's own.
    """

    def __init__(self, url: str, *, store: Store | None = None, records: Records | None = None) -> None:
        self.url = url.rstrip("/")
        self._is_elsewhere = store is not None
        self._store = store if store is not None else zarr_store(self.url, read_only=False)
        beside = f"{self.url}.voxweft"
        self.records: Records = records if records is not None else records_at(beside)
        self._levels: list[Any] = []
        self.file = ""  # that is to be written from it when it is complete
        self.guard: Callable[[], None] = lambda: None  # raises where this output is another run's by now

    def exists(self) -> bool:
        """Whether anything lies at the URL."""
        if not is_remote(self.url) and self.url.startswith("memory") is False and local_path(self.url).exists():
            return not local_path(self.url).is_dir() or any(local_path(self.url).iterdir())
        return self._group() is not None

    def create(self, spec: OutputSpec) -> None:
        """Make group and arrays, or open those of an equal spec."""
        import zarr

        shapes = spec.level_shapes
        try:
            _create_group(self._store, attributes_for(spec, parent_and_name(self.url)[1].removesuffix(".zarr")))
            group = zarr.open_group(self._store, mode="r+", zarr_format=3)
            self._levels = [_array(group, str(i), spec, shape) for i, shape in enumerate(shapes)]
        except OSError as error:
            raise write_error(self.url, error) from error
        except remote_errors() as error:
            raise WriteError(f"{self.url} cannot be written: {first_line(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(f"{self.url}: zarr.json, or the one of a level,", error) from error

    def open(self) -> OutputSpec:
        """Open what is there."""
        group = self._group()
        if group is None:
            raise VolumeError(f"{self.url}: no OME-Zarr lies there")
        try:
            return self._opened(group)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise _damaged(f"{self.url}/zarr.json", error) from error

    def _opened(self, group: Any) -> OutputSpec:
        ome = group.attrs["ome"]
        scales = ome["multiscales"][0]
        self._levels = [_stored(group, d["path"], self.url) for d in scales["datasets"]]
        base, channels = self._levels[0], self._levels[0].ndim == 4
        kind = scales.get("type", "")
        first = scales["datasets"][0]["coordinateTransformations"]
        spatial = [a for a in scales["axes"] if a["type"] == "space"]
        geometry = Geometry(
            tuple(first[0]["scale"][-3:]),
            spatial[0].get("unit", ""),
            tuple(first[1]["translation"][-3:]),
            direction_of(group.attrs.get("voxweft")),
        )
        return OutputSpec(
            shape_zyx=base.shape[-3:],
            n_channels=base.shape[0] if channels else 1,
            dtype=base.dtype.name,
            chunk_zyx=base.chunks[-3:],
            shard_zyx=(base.shards or base.chunks)[-3:],
            pyramid=kind if kind in ("mean", "nearest") else "none",
            geometry=geometry,
            is_label="image-label" in ome,
            named=names_in(ome),
            shown=shown_in(ome),
        )

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> int:
        """Write [C, Z, Y, X] at a shard-aligned box of a level."""
        if not level < len(self._levels):
            raise RequestError(f"{self.url} has {len(self._levels)} resolution levels; there is no level {level}")
        return self._put(self._levels[level], box, array)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read back [C, Z, Y, X]."""
        array = self._levels[level]
        place = box.slices if array.ndim == 3 else (slice(None), *box.slices)
        try:
            values = np.asarray(array[place])
        except unreadable() as error:
            raise ReadError(f"{self.url}: box {box} of level {level} cannot be read ({first_line(error)})") from error
        return values if array.ndim == 4 else values[np.newaxis]

    def shape(self, level: int = 0) -> Zyx:
        """Extent z y x of a level."""
        z, y, x = self._levels[level].shape[-3:]
        return z, y, x

    def n_levels(self) -> int:
        """Number of levels."""
        return len(self._levels)

    def n_files(self, level: int = 0) -> int | None:
        """How many shards of a level are stored."""
        if self._is_elsewhere:
            return None
        return len(ChunkFiles(f"{self.url}/{self._levels[level].path}").keys)

    def stored(self, level: int = 0) -> StoredBoxes | None:
        """The shards of a level that are stored, of any channel; None where they cannot be listed."""
        if self._is_elsewhere:
            return None
        array = self._levels[level]
        found = ChunkFiles(f"{self.url}/{array.path}").keys
        places = frozenset((z, y, x) for *_, z, y, x in found)
        return StoredBoxes((array.shards or array.chunks)[-3:], places)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes of the group; those of "voxweft" are merged themselves, the direction may be there."""
        import zarr

        try:
            group = zarr.open_group(self._store, mode="r+", zarr_format=3)
        except (FileNotFoundError, ValueError) as error:
            raise _damaged(f"{self.url}/zarr.json", error) from error
        there = group.attrs.get("voxweft")
        new = dict(attributes)
        if isinstance(there, dict) and isinstance(new.get("voxweft"), dict):
            new["voxweft"] = there | new["voxweft"]
        group.attrs.update(new)

    def remove(self) -> None:
        """Delete what voxweft wrote at the URL, and the records; anything else is refused."""
        if not self.exists():
            self.records.clear()
            return
        group = self._group()
        ours = self.records.get("plan.json") is not None or (group is not None and "voxweft" in group.attrs)
        if not ours and (group is None or group.attrs.get("ome", {}).get("_creator") != CREATOR):
            raise RequestError(f"{self.url} was not written by voxweft and is not deleted; remove it yourself")
        self.records.remove("plan.json")  # from here on those who still write are refused
        remove(self.url)
        self.records.clear()
        self._levels = []

    def _group(self) -> Any:
        import zarr

        try:
            return zarr.open_group(self._store, mode="r", zarr_format=3)
        except (FileNotFoundError, ValueError, OSError):
            return None

    def _put(self, target: Any, box: Box, array: NDArray[Any]) -> int:
        """Write shard by shard: what is being compressed is then one shard, not the whole box. How many are stored."""
        n_files, shards, everything = 0, Shards.of(target), Box.of(target.shape[-3:])
        try:
            for cell in box.cells((target.shards or target.chunks)[-3:]):
                shard = cell & box
                values = array[(slice(None), *shard.shift(box.start, -1).slices)]
                for channel, plane in enumerate(values):
                    place = shard.slices if target.ndim == 3 else (channel, *shard.slices)
                    self.guard()
                    try:
                        if shards and shard == cell & everything:
                            shards.write(place, plane)
                        else:
                            target[place] = plane
                    except (ValueError, RuntimeError):  # zarr looks into the old shard first, and that one is damaged
                        _erase(target, place)
                        target[place] = plane
                    n_files += bool(plane.any())  # what is empty is not stored
        except OSError as error:
            raise write_error(self.url, error) from error
        except remote_errors() as error:
            raise WriteError(f"{self.url} cannot be written: {first_line(error)}") from error
        return n_files


def _damaged(what: str, error: Exception) -> VolumeError:
    return VolumeError(f"{what} is missing or damaged ({first_line(error)}).", "Compute it anew with --overwrite.")


def _stored(group: Any, path: str, url: str) -> Any:
    try:
        return group[path]
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(f"{url}/{path}/zarr.json", error) from error


def _create_group(store: Any, attributes: dict[str, Any]) -> None:
    """Make a group where there is none; one worker of several is the first, and what it writes stays."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.group import GroupMetadata
    from zarr.core.sync import sync

    metadata = GroupMetadata(attributes=attributes, zarr_format=3)
    for key, data in metadata.to_buffer_dict(default_buffer_prototype()).items():
        sync(store.set_if_not_exists(key, data))


def _array(group: Any, name: str, spec: OutputSpec, shape: Zyx) -> Any:
    """The array of a level; another worker may make it at the same time."""
    from zarr.errors import ContainsArrayError

    try:
        return group[name] if name in group else _new_array(group, name, spec, shape)
    except ContainsArrayError:
        return group[name]


def _new_array(group: Any, name: str, spec: OutputSpec, shape: Zyx) -> Any:
    chunk = tuple(min(c, _ceil(n, 16)) for c, n in zip(spec.chunk_zyx, shape, strict=True))
    shard = tuple(
        min(s // c, math.ceil(n / k)) * k
        for s, c, k, n in zip(spec.shard_zyx, spec.chunk_zyx, chunk, shape, strict=True)
    )
    many = spec.n_channels > 1
    return group.create_array(
        name,
        shape=(spec.n_channels, *shape) if many else shape,
        chunks=(1, *chunk) if many else chunk,
        shards=None if shard == chunk else ((1, *shard) if many else shard),
        dtype=spec.dtype,
        compressors=_codec(spec),
        fill_value=0,
        dimension_names=["c", "z", "y", "x"] if many else ["z", "y", "x"],
        config={"write_empty_chunks": False},
    )


def _erase(array: Any, place: tuple[Any, ...]) -> None:
    """Delete the shard that begins at a place."""
    from zarr.core.sync import sync

    size = array.shards or array.chunks
    index = tuple((w.start if isinstance(w, slice) else w) // s for w, s in zip(place, size, strict=True))
    sync((array.store_path / array.metadata.encode_chunk_key(index)).delete())


def _codec(spec: OutputSpec) -> Any:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    match spec.compressor:
        case "none":
            return None
        case "zlib":
            return [GzipCodec(level=spec.compression_level)]
        case "lz4":
            return [BloscCodec(cname="lz4", clevel=min(9, spec.compression_level))]
        case _:
            return [ZstdCodec(level=spec.compression_level)]


def _ceil(n: int, unit: int) -> int:
    return -(-n // unit) * unit
