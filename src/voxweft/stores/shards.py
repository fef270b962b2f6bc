"""Whole shards packed at once: the bytes that zarr's pipeline would store, without its copies of every chunk."""

from __future__ import annotations

import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Index = tuple[int, ...]
NOWHERE = np.iinfo(np.uint64).max  # offset and length of a chunk that is empty


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a zarr v3 array whose chunks are Zstandard, or not compressed, and 0 where they are empty.

    Attributes
    ----------
    array
        A :class:`zarr.Array`.
    level, checksum
        Of Zstandard; a level of None for none.
    sharded
        Whether a file holds several chunks and their index; else it is one chunk.
    """

    array: Any
    level: int | None
    checksum: bool
    sharded: bool

    @classmethod
    def of(cls, array: Any) -> Shards | None:
        """Those of an array; None where its codecs are others."""
        from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

        codecs = array.metadata.codecs
        sharded = len(codecs) == 1 and isinstance(codecs[0], ShardingCodec)
        if sharded:
            names = [type(codec) for codec in codecs[0].index_codecs]
            if names != [BytesCodec, Crc32cCodec] or codecs[0].index_location.value != "end":
                return None
            codecs = codecs[0].codecs
        plain = isinstance(codecs[0], BytesCodec) and sys.byteorder == "little" and array.dtype.isnative
        if not plain or any(getattr(c.endian, "value", "little") != "little" for c in codecs[:1]):
            return None
        if len(codecs) > 2 or array.metadata.fill_value.tobytes().strip(b"\0"):
            return None
        if len(codecs) == 1:
            return cls(array, None, False, sharded)
        zstd = codecs[1]
        return cls(array, zstd.level, zstd.checksum, sharded) if isinstance(zstd, ZstdCodec) else None

    def write(self, place: tuple[Any, ...], values: NDArray[Any]) -> None:
        """Store a shard [z, y, x] that begins at a place of the array, or delete it where all is empty."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        size = self.array.shards or self.array.chunks
        index = tuple((w.start if isinstance(w, slice) else w) // n for w, n in zip(place, size, strict=True))
        path = self.array.store_path / self.array.metadata.encode_chunk_key(index)
        data = self._packed(np.asarray(values, self.array.dtype).reshape((1,) * (len(size) - 3) + values.shape))
        sync(path.set(default_buffer_prototype().buffer.from_bytes(data)) if data else path.delete())

    def _packed(self, values: NDArray[Any]) -> bytes:
        """The file of a shard; nothing where all is empty."""
        chunk = self.array.chunks
        if not self.sharded:
            return self._encoded(values, (0,) * len(chunk))
        counts = tuple(n // c for n, c in zip(self.array.shards, chunk, strict=True))
        order = sorted(itertools.product(*map(range, counts)), key=lambda index: _morton(index, counts))
        index, parts, offset = np.full((*counts, 2), NOWHERE, np.dtype("<u8")), list[bytes](), 0
        for where, part in zip(order, self._all(values, order), strict=True):
            if part:
                index[where] = (offset, len(part))
                parts.append(part)
                offset += len(part)
        if not parts:
            return b""
        return b"".join([*parts, index.tobytes(), _crc32c(index.tobytes())])

    def _all(self, values: NDArray[Any], order: list[Index]) -> Iterator[bytes]:
        """Chunks, encoded on all cores that there are."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cores == 1:
            yield from (self._encoded(values, index) for index in order)
            return
        with ThreadPoolExecutor(min(cores, len(order))) as threads:
            yield from threads.map(lambda index: self._encoded(values, index), order)

    def _encoded(self, values: NDArray[Any], index: Index) -> bytes:
        """One chunk; what lies beyond the array is 0."""
        from numcodecs.zstd import compress

        chunk = self.array.chunks
        part = values[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk, strict=True))]
        whole = np.ascontiguousarray(part)
        if part.shape != chunk:
            whole = np.zeros(chunk, values.dtype)
            whole[tuple(slice(0, n) for n in part.shape)] = part
        if not whole.reshape(-1).view(np.uint8).any():
            return b""
        return whole.tobytes() if self.level is None else compress(whole, self.level, self.checksum)


def _morton(index: Index, counts: Index) -> int:
    """The place of a chunk on the curve along which zarr lays the chunks of a shard.

    >>> [_morton((z, 0, x), (2, 1, 3)) for z in range(2) for x in range(3)]
    [0, 2, 4, 1, 3, 5]
    """
    bits = [(n - 1).bit_length() for n in counts]
    pairs = ((bit, i) for bit in range(max(bits)) for i, n in enumerate(bits) if bit < n)
    return sum((index[i] >> bit & 1) << k for k, (bit, i) in enumerate(pairs))


def _crc32c(data: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(4, "little")
