"""Byte strings on disk with a bound that holds over all processes that share them."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from voxweft.errors import write_error
from voxweft.foreign import local

ROOM = 0.9  # when the bound is reached, what was used longest ago goes until this share is left


class DiskCache:
    """Byte strings in files of a folder.

    A lock file guards a count of the bytes. An entry is counted before it is written, so the files together never hold
    more than the bound, whatever is killed when.

    Parameters
    ----------
    folder
        Where; made if it is not there.
    bound_bytes
        The most that all files together may hold.
    """

    def __init__(self, folder: str | Path, bound_bytes: int) -> None:
        self._folder, self._bound = local(str(folder)), bound_bytes
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(str(folder), error) from error
        self._lock = FileLock(self._folder / "lock")
        self._count = self._folder / "count"

    def get(self, name: str) -> bytes | None:
        """What was put under a name, or None; marks it as used."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes; larger ones than the bound are not kept."""
        if len(data) > self._bound:
            return
        path = self._path(name)
        try:
            with self._lock:
                if path.exists():
                    return
                held = self._held()
                if held + len(data) > self._bound:
                    held = self._make_room(len(data))
                self._count.write_text(str(held + len(data)))
                path.parent.mkdir(exist_ok=True)
                temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
                temporary.write_bytes(data)
                temporary.replace(path)
        except OSError as error:
            raise write_error(str(self._folder), error) from error

    def remove(self, name: str) -> None:
        """Forget what was put under a name."""
        self._path(name).unlink(missing_ok=True)

    def held_bytes(self) -> int:
        """What the files hold now."""
        return sum(path.stat().st_size for path in self._files())

    def _held(self) -> int:
        try:
            return int(self._count.read_text())
        except (FileNotFoundError, ValueError):
            return self.held_bytes()

    def _make_room(self, wanted: int) -> int:
        """Remove what was used longest ago; the bytes that are left."""
        files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._files())
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held + wanted <= self._bound * ROOM or not held:
                break
            path.unlink()
            held -= size
        return held

    def _files(self) -> Iterator[Path]:
        return (path for path in self._folder.glob("??/*") if path.is_file())

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / digest[:2] / digest
