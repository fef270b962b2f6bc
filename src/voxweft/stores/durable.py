"""Files that outlast a power cut: synced, and the folders that name them too, before anybody is told of them."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zarr.abc.store import Store


NOT_OFFERED = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folders(path: Path, root: Path) -> None:
    """Force the name of a file to the disk, and those of the folders above it up to ``root``, which may be new too.

    Some file systems sync no folders, and a folder above may be closed to reading: there is nothing more to be done.
    """
    for folder in path.parents:
        try:
            sync(folder)
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise
        if folder == root:
            return


def local_store(root: Path, read_only: bool) -> Store:
    """A zarr store on this machine's disk whose writes are durable when they return."""
    from zarr.core.buffer import Buffer
    from zarr.storage import LocalStore

    class DurableStore(LocalStore):
        """A :class:`zarr.storage.LocalStore` that syncs what it wrote."""

        async def set(self, key: str, value: Buffer) -> None:
            await super().set(key, value)
            await asyncio.to_thread(self._settle, key)

        async def set_if_not_exists(self, key: str, value: Buffer) -> None:
            await super().set_if_not_exists(key, value)
            await asyncio.to_thread(self._settle, key)

        def _settle(self, key: str) -> None:
            path = self.root / key
            sync(path)
            sync_folders(path, self.root.parent)

    return (LocalStore if read_only else DurableStore)(root, read_only=read_only)
