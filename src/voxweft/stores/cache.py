"""A zarr store whose chunks are read through a cache on disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.storage import WrapperStore

from voxweft.disk_cache import DiskCache

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class CachedStore(WrapperStore["Store"]):
    """A zarr store whose chunks are read through a cache; metadata is read anew each time.

    Parameters
    ----------
    store
        Where to read what is not cached.
    url
        Its name in the cache.
    cache
        Shared with other stores, threads and processes.
    """

    def __init__(self, store: Store, url: str, cache: DiskCache) -> None:
        super().__init__(store)
        self._url, self._cache = url, cache

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key, from the cache where they are."""
        if key.rpartition("/")[2] in METADATA:
            return await super().get(key, prototype, byte_range)
        name = f"{self._url}/{key} {byte_range}"
        data = await asyncio.to_thread(self._cache.get, name)
        if data is not None:
            return prototype.buffer.from_bytes(data)
        value = await super().get(key, prototype, byte_range)
        if value is not None:
            await asyncio.to_thread(self._cache.put, name, value.to_bytes())
        return value
