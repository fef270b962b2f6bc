"""Chunks of an array on this machine's disk, read from their files and decoded beside their place, nothing between."""

from __future__ import annotations

import itertools
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.stores.claims import require_sane

Index = tuple[int, ...]
THREADS = 8  # files that are read at once


@dataclass(frozen=True, slots=True)
class ChunkFolder:
    """The chunks of a zarr array, of the plain kind that nearly all are; everything else is zarr's.

    Attributes
    ----------
    array
        A :class:`zarr.Array`.
    folder
        Where its metadata lie.
    codec
        "zstd", "blosc", or "" where nothing is compressed.
    """

    array: Any
    folder: Path
    codec: str

    @classmethod
    def of(cls, array: Any, folder: Path) -> ChunkFolder | None:
        """Those of an array; None where it has shards, filters, another codec or another order of bytes or axes."""
        meta = array.metadata
        if sys.byteorder != "little" or not array.dtype.isnative or meta.fill_value is None:
            return None
        if meta.zarr_format == 2:
            if meta.filters or meta.order != "C":
                return None
            codec = getattr(meta.compressor, "codec_id", "") if meta.compressor is not None else ""
            return cls(array, folder, codec) if meta.compressor is None or codec in ("zstd", "blosc") else None
        named = [codec.to_dict() for codec in meta.codecs]
        names = [codec["name"] for codec in named]
        endian = named[0].get("configuration", {}).get("endian", "little")
        if names not in (["bytes"], ["bytes", "zstd"], ["bytes", "blosc"]) or endian != "little":
            return None
        return cls(array, folder, "".join(names[1:]))

    def read(self, wanted: tuple[int | slice, ...]) -> NDArray[Any]:
        """What zarr gives for whole numbers and slices of step 1, one an axis; each touched chunk is decoded once."""
        taken = [slice(i, i + 1) if isinstance(i, int) else i for i in wanted]
        bounds = [s.indices(n)[:2] for s, n in zip(taken, self.array.shape, strict=True)]
        out = np.empty([max(0, b - a) for a, b in bounds], self.array.dtype)
        touched = [range(a // c, -(-b // c)) for (a, b), c in zip(bounds, self.array.chunks, strict=True)]
        places = list(itertools.product(*touched)) if out.size else []
        if len(places) < 2:
            for place in places:
                self._fill(out, bounds, place)
        else:
            with ThreadPoolExecutor(min(THREADS, len(places))) as threads:
                list(threads.map(lambda place: self._fill(out, bounds, place), places))
        return out.reshape([n for n, i in zip(out.shape, wanted, strict=True) if not isinstance(i, int)])

    def _fill(self, out: NDArray[Any], bounds: list[tuple[int, int]], place: Index) -> None:
        """Put in what one chunk has."""
        target, source = [], []
        for (a, b), n, i in zip(bounds, self.array.chunks, place, strict=True):
            lo, hi = max(a, i * n), min(b, (i + 1) * n)
            target.append(slice(lo - a, hi - a))
            source.append(slice(lo - i * n, hi - i * n))
        chunk = self._chunk(place)
        out[tuple(target)] = self.array.metadata.fill_value if chunk is None else chunk[tuple(source)]

    def _chunk(self, place: Index) -> NDArray[Any] | None:
        """A chunk; None where it is not stored."""
        import numcodecs

        try:
            data = (self.folder / self.array.metadata.encode_chunk_key(place)).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        size = math.prod(self.array.chunks) * self.array.dtype.itemsize
        if self.codec:
            require_sane(self.codec, data, size)
            if self.codec == "blosc" and int.from_bytes(data[12:16], "little") > len(data):
                raise ValueError("it is shorter than its header says")  # Blosc would read on beyond its end
            data = (numcodecs.blosc if self.codec == "blosc" else numcodecs.zstd).decompress(data)
        return np.frombuffer(data, self.array.dtype).reshape(self.array.chunks)
