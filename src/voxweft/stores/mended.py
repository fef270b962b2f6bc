"""The metadata of zarr arrays as other programs write them, mended or refused before zarr sees them.

codec keys that only their writer knows (nthreads)     left out
a fill value that the dtype cannot hold                0, with a note
a separator that was not written, chunks 0/0/0         "/", with a note
chunks that are there under other names                refused: all of them would be read as the fill value
shapes that no volume has, pipes, devices              refused
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import WrapperStore

from voxweft.errors import VolumeError, first_line
from voxweft.foreign import small_file
from voxweft.remote import object_store, remote_errors
from voxweft.stores.claims import require_sane

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
LARGEST_BYTES = 1 << 26
LOOKED_AT = 1000  # names of a folder
CODEC_KEYS = {
    "blosc": {"id", "cname", "clevel", "shuffle", "blocksize", "typesize"},
    "zstd": {"id", "level", "checksum"},
    "gzip": {"id", "level"},
    "zlib": {"id", "level"},
    "lz4": {"id", "acceleration"},
}
STYLES = {  # how a name in the folder of an array begins that holds chunks
    "0.0.0": re.compile(r"\d+(\.\d+)+$"),
    "0/0/0": re.compile(r"\d+$"),
    "c/0/0/0": re.compile(r"c$"),
    "c.0.0.0": re.compile(r"c(\.\d+)+$"),
}
FLOATS = ("NaN", "Infinity", "-Infinity")


class MendedStore(WrapperStore["Store"]):
    """A zarr store whose metadata can be trusted to be those of a volume.

    Parameters
    ----------
    store
        Where to read.
    url
        Its name, for messages.
    folder
        Where it lies on this machine, or None.

    Attributes
    ----------
    notes
        What was mended.
    forbidden
        What a server said that did not let us read something; "" for nothing.
    """

    def __init__(self, store: Store, url: str, folder: Path | None) -> None:
        super().__init__(store)
        self._url, self._folder = url, folder
        self.notes: list[str] = []
        self._packed: dict[str, tuple[str, int]] = {}  # codec and bytes of a chunk, by array
        self.forbidden = ""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key, of metadata mended.

        Raises
        ------
        VolumeError
            If they are not those of a volume.
        """
        name = key.rpartition("/")[2]
        if name not in METADATA:
            value = await self._allowed(key, prototype, byte_range)
            if value is not None and byte_range is None:
                self._require_sane(key, value)
            return value
        if self._folder is None:
            value = await self._allowed(key, prototype, None)
            data = None if value is None else value.to_bytes()
            if data is not None and not _is_json(data):
                return None  # many servers answer every address with their front page
        else:
            data = await asyncio.to_thread(_read, self._folder / key)
        if data is not None and name in (".zarray", "zarr.json"):
            data = self._mended(key, data)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def _allowed(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """The bytes of a key; None where a server forbids it, as those do that will not say what is not there."""
        try:
            return await super().get(key, prototype, byte_range)
        except MemoryError as error:
            raise ValueError("it asks for more bytes than memory holds") from error
        except remote_errors() as error:
            if type(error).__name__ != "PermissionDeniedError":
                raise
            self.forbidden = first_line(error)
            return None

    def _mended(self, key: str, data: bytes) -> bytes:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return data  # zarr says what is wrong
        if not isinstance(content, dict) or content.get("node_type") == "group":
            return data
        place = f"{self._url}/{key}"
        new = key.endswith("zarr.json")
        grid = _object(_object(content.get("chunk_grid")).get("configuration")) if new else content
        shape, chunks = content.get("shape"), grid.get("chunk_shape" if new else "chunks")
        dtype = _dtype(content.get("data_type" if new else "dtype"))
        _require_extent(place, shape, chunks, dtype)
        for codec in _codecs(content):
            settings = codec.get("configuration") if new else codec
            known = CODEC_KEYS.get(str(codec.get("name" if new else "id")))
            if known and isinstance(settings, dict):
                for extra in settings.keys() - known:
                    del settings[extra]
        if dtype is not None and (codecs := [*_codecs(content)]):
            name = codecs[-1 if new else 0].get("name" if new else "id")
            self._packed[key.rpartition("/")[0]] = str(name), math.prod(chunks or ()) * dtype.itemsize
        if dtype is not None and not _holds(dtype, content.get("fill_value")):
            value = str(content.get("fill_value"))[:40]
            self.notes.append(f"{place}: fill_value {value} is no {dtype}; it was taken for 0")
            content["fill_value"] = 0
        if len(content["shape"]) > 1:
            self._check_names(content, key.rpartition("/")[0], new)
        return json.dumps(content).encode()

    def _require_sane(self, key: str, value: Buffer) -> None:
        """Refuse a chunk that claims to unpack to far more than a chunk of its array is."""
        places = (key[:n] for n in range(len(key), -1, -1) if n == 0 or key[n : n + 1] == "/")
        codec, wanted = next((self._packed[p] for p in places if p in self._packed), ("", 0))
        if codec:
            require_sane(codec, value.as_numpy_array(), wanted)

    def _check_names(self, content: dict[str, Any], array: str, new: bool) -> None:
        """Find out how the chunks are called; refuse an array of which none would be found."""
        folder = f"{self._url}/{array}".rstrip("/")
        names = _local_names(self._folder / array) if self._folder is not None else _remote_names(folder)
        found = {style for style, pattern in STYLES.items() if any(map(pattern.match, names))}
        if not new and "dimension_separator" not in content and found == {"0/0/0"}:
            content["dimension_separator"] = "/"
            self.notes.append(f"{folder}: its chunks are called 0/0/0, which its metadata does not say")
        encoding = _object(content.get("chunk_key_encoding"))
        settings = _object(encoding.get("configuration"))
        old = not new or encoding.get("name") == "v2"
        separator = settings.get("separator", "." if old else "/") if new else content.get("dimension_separator", ".")
        wanted = f"{'' if old else f'c{separator}'}0{separator}0{separator}0"
        if found and wanted not in found:
            raise VolumeError(
                f"{folder} holds chunks called {' and '.join(sorted(found))}, its metadata says {wanted}: none of them "
                "would be found, and all be read as empty"
            )


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> bytes | None:
    try:
        return small_file(path, VolumeError, LARGEST_BYTES)
    except FileNotFoundError:
        return None
    except VolumeError:
        if path.is_dir() or path.parent.is_file():
            return None
        raise


def _codecs(content: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    listed = content.get("codecs") or [content.get("compressor"), *(content.get("filters") or ())]
    return (codec for codec in listed if isinstance(codec, dict)) if isinstance(listed, list) else ()


def _local_names(folder: Path) -> list[str]:
    """Some names in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, LOOKED_AT)]
    except OSError:
        return []


def _remote_names(url: str) -> list[str]:
    """The same of an s3:// URL; other servers cannot be asked, and not all may be."""
    if not url.startswith("s3://"):
        return []
    try:
        return [item["path"].partition("/")[0] for item in next(iter(object_store(url).list(chunk_size=LOOKED_AT)), [])]
    except remote_errors():
        return []


def _dtype(name: Any) -> np.dtype[Any] | None:
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        return None
    return dtype if dtype is not None and dtype.kind in "uifb" else None


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    """Whether a value as JSON has it is one of a dtype."""
    if value is None or isinstance(value, bool):
        return value is None or dtype.kind == "b"
    if dtype.kind == "f":
        return isinstance(value, (int, float)) or value in FLOATS or (isinstance(value, str) and value.startswith("0x"))
    if dtype.kind == "b":
        return value in (0, 1)
    limits = np.iinfo(dtype)
    return isinstance(value, int) and limits.min <= value <= limits.max


LARGEST_SIDE, MOST_CHUNKS, LARGEST_CHUNK = 1 << 31, 1 << 28, 1 << 34  # voxels, chunks, bytes


def _require_extent(place: str, shape: Any, chunks: Any, dtype: np.dtype[Any] | None) -> None:
    """Refuse shapes that no volume has, before anything is listed or allocated by them."""
    for name, sizes, least in (("shape", shape, 0), ("chunks", chunks, 1)):
        numbers = isinstance(sizes, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
        if not numbers or not all(least <= n <= LARGEST_SIDE for n in sizes):
            raise VolumeError(f"{place}: {name} {str(sizes)[:80]} is that of no volume")
    if len(shape) != len(chunks):
        raise VolumeError(f"{place}: shape {shape} and chunks {chunks} have different lengths")
    n_chunks = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    n_bytes = math.prod(chunks) * (dtype.itemsize if dtype is not None else 1)
    if n_chunks > MOST_CHUNKS or n_bytes > LARGEST_CHUNK:
        raise VolumeError(f"{place}: shape {shape} in chunks {chunks} cannot be: {n_chunks} chunks of {n_bytes} bytes")
