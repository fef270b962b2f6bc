"""Files that outlast a power cut: synced, and the folders that name them too, before anybody is told of them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zarr.abc.store import Store


NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
CLAIM_S = 10.0  # that one who was first may take from its claim to its file
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


def replace(path: Path, data: bytes) -> bool:
    """Write a file as a whole: nobody sees half of it, not after a power cut either."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def create_once(path: Path, data: bytes) -> bool:
    """Make a file with this content, or leave the one that is there; only one of many can be first, none sees half.

    Where hard links are not to be had (exFAT, SMB, many FUSE and cluster file systems), the first to make
    ``NAME.0.tmp`` is the first. If it does not finish, since it died, the next claim counts.
    """
    if path.exists():
        return False
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _claimed(path, temporary)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _claimed(path: Path, temporary: Path) -> bool:
    """Rename to ``path`` if nobody else does."""
    for number in itertools.count():
        claim, later = (path.with_name(f"{path.name}.{n}.tmp") for n in (number, number + 1))
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            if _appears(path, CLAIM_S):
                return False
            continue
        try:
            if path.exists() or later.exists():
                return not _appears(path, CLAIM_S)
            temporary.replace(path)
        finally:
            claim.unlink(missing_ok=True)
        return True
    return False


def _appears(path: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path.exists()


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
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(create_once, path, value.to_bytes())
            await asyncio.to_thread(self._settle, key)

        def _settle(self, key: str) -> None:
            path = self.root / key
            sync(path)
            sync_folders(path, self.root.parent)

    return (LocalStore if read_only else DurableStore)(root, read_only=read_only)
