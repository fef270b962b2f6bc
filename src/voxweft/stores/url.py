"""From an URL to a zarr store and to records, and the errors of both in words."""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxweft.errors import ReadError, WriteError, first_line, write_error
from voxweft.foreign import local
from voxweft.remote import FIRST_WAIT_S, TRIES, is_remote, object_store, remote_errors
from voxweft.stores.durable import create_once, replace, sync_folders

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from voxweft.image.protocols import Records


def local_path(url: str) -> Path:
    """The path of a local URL, ``file://`` or plain."""
    return local(url)


def absolute(url: str) -> str:
    """A local path from the root; an URL as it is."""
    has_scheme = "://" in url and not url.startswith("file://")
    return url if has_scheme else str(local_path(url).resolve())


def zarr_store(url: str, *, read_only: bool) -> Store:
    """A zarr store for the folder at an URL."""
    if not is_remote(url):
        from voxweft.stores.durable import local_store

        return local_store(local_path(url), read_only)
    from zarr.core.buffer import Buffer
    from zarr.storage import ObjectStore

    class PatientStore(ObjectStore[Any]):
        """A :class:`zarr.storage.ObjectStore` that tries a conditional PUT again."""

        async def set_if_not_exists(self, key: str, value: Buffer) -> None:
            for attempt in range(TRIES):
                try:
                    await super().set_if_not_exists(key, value)
                    break
                except remote_errors():
                    if attempt == TRIES - 1:
                        raise
                    await asyncio.sleep(FIRST_WAIT_S * 2**attempt)

    return (ObjectStore if read_only else PatientStore)(object_store(url), read_only=read_only)


def unreadable() -> tuple[type[Exception], ...]:
    """What codecs, stores and parsers (of XML: a SyntaxError) raise on damaged or missing data."""
    wrong = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
    return (OSError, EOFError, SyntaxError, zlib.error, struct.error, *wrong, *remote_errors())


class LocalRecords:
    """Records as files of a folder."""

    beat_s = 2.0  # between signs of life; quick to write

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """The record, or None."""
        try:
            return (self._folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, data: bytes) -> None:
        """Write to a temporary name and rename."""
        self._place(key, lambda target: replace(target, data))

    def create(self, key: str, data: bytes) -> bool:
        """Only one can be first, and nobody sees half a record."""
        return self._place(key, lambda target: create_once(target, data))

    def keys(self, prefix: str = "") -> list[str]:
        """Keys with the prefix, sorted."""
        folder = self._folder / prefix.rpartition("/")[0]
        found = (
            p.relative_to(self._folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp"
        )
        return sorted(k for k in found if k.startswith(prefix))

    def remove(self, key: str) -> None:
        """Remove a record."""
        (self._folder / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder, first from sight: records of which some are gone would say what is not so."""
        import shutil

        hidden = self._folder.with_name(f".{uuid.uuid4().hex}.tmp")
        with suppress(OSError):
            self._folder.rename(hidden)
        for folder in (hidden, self._folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, key: str, write: Callable[[Path], bool]) -> bool:
        target = self._folder / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            first = write(target)
            sync_folders(target, self._folder.parent)
        except OSError as error:
            raise write_error(str(target), error) from error
        return first


class ObjectRecords:
    """Records as objects below a prefix of an object store."""

    def __init__(self, url: str) -> None:
        self._store = object_store(url)
        self._url = url

    def get(self, key: str) -> bytes | None:
        """The record, or None."""
        try:
            return bytes(self._store.get(key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """A single PUT."""
        from obstore.exceptions import BaseError

        try:
            self._store.put(key, data)
        except BaseError as error:
            raise WriteError(f"{self._url}/{key} cannot be written: {first_line(error)}") from error

    def create(self, key: str, data: bytes) -> bool:
        """A conditional PUT; after a broken connection the object itself tells who was first."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        for attempt in range(TRIES):
            try:
                self._store.put(key, data, mode="create")
            except AlreadyExistsError:
                return attempt > 0 and self.get(key) == data
            except BaseError as error:
                if attempt == TRIES - 1:
                    raise WriteError(f"{self._url}/{key} cannot be written: {first_line(error)}") from error
                time.sleep(FIRST_WAIT_S * 2**attempt)
            else:
                return True
        return False

    def keys(self, prefix: str = "") -> list[str]:
        """Keys with the prefix, sorted."""
        folder, _, _ = prefix.rpartition("/")
        found = [item["path"] for page in self._store.list(folder or None) for item in page]
        return sorted(k for k in found if k.startswith(prefix))

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._store.delete(key)

    def clear(self) -> None:
        """Remove all."""
        if found := self.keys():
            self._store.delete(found)


def parent_and_name(url: str) -> tuple[str, str]:
    """The folder of a file, and its name.

    >>> parent_and_name("a/b.png"), parent_and_name("b.png"), parent_and_name("/b.png")
    (('a', 'b.png'), ('.', 'b.png'), ('/', 'b.png'))
    """
    folder, slash, name = url.rpartition("/")
    return folder or slash or ".", name


def records_at(url: str) -> Records:
    """The records in a folder, local or s3://."""
    return ObjectRecords(url) if is_remote(url) else LocalRecords(local_path(url))


def children(url: str) -> list[str]:
    """Names of what lies directly in a folder."""
    if is_remote(url):
        found = object_store(url).list_with_delimiter()
        return [
            p.rstrip("/").rpartition("/")[2]
            for p in (*found["common_prefixes"], *(o["path"] for o in found["objects"]))
        ]
    folder = local_path(url)
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def exists(url: str) -> bool:
    """Whether anything lies at an URL."""
    return bool(children(url)) or (not is_remote(url) and local_path(url).exists())


def remove(url: str) -> None:
    """Delete a folder with all that is in it."""
    if is_remote(url):
        store = object_store(url)
        for page in store.list():
            store.delete([item["path"] for item in page])
    else:
        import shutil

        path = local_path(url)
        try:
            if path.is_symlink():  # what it points to is emptied, and the link stays
                target = path.resolve()
                shutil.rmtree(target)
                target.mkdir()
            elif path.exists():
                shutil.rmtree(path)
        except OSError as error:
            raise write_error(url, error) from error


def remove_if_empty(url: str) -> None:
    """Delete a local folder with nothing in it; on s3:// there are none."""
    if not is_remote(url) and local_path(url).is_dir() and not children(url):
        local_path(url).rmdir()


def read_error(what: str, error: Exception) -> ReadError:
    """Data that cannot be read, in words: a missing right is no damage."""
    if isinstance(error, PermissionError):
        return ReadError(f"{what} may not be read: {error.strerror or 'permission denied'}. Ask for the permission.")
    return ReadError(f"{what} cannot be read ({first_line(error)}). The file is damaged or was not fetched whole.")
