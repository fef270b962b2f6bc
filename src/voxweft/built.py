"""What takes long to make and is the same wherever it is made: converted networks, quantised ones, measurements.

Kept in ``$VOXWEFT_CACHE/engines`` (default ``~/.cache/voxweft/engines``), up to 2 GB, for all processes of a user.
A folder that cannot be used, and an entry that is damaged, cost time and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from voxweft.disk_cache import DiskCache
from voxweft.errors import VoxweftError
from voxweft.version import __version__

BOUND_BYTES, LARGEST_BYTES = 2 << 30, 1 << 28
WAIT_S = 120.0  # for another process that makes the same; then it is made here, too
DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Where voxweft keeps what it may lose."""
    return Path(os.environ.get("VOXWEFT_CACHE") or "~/.cache/voxweft").expanduser()


def built(name: str, make: Callable[[], bytes]) -> bytes:
    """What ``make()`` gives, from the cache where it is there.

    Several processes that want the same at once make it once; one that is killed meanwhile leaves nothing behind.

    Parameters
    ----------
    name
        All that decides it; see :func:`named`.
    make
        Called at most once; not called where the cache has it.
    """
    if (found := kept(name)) is not None:
        return found
    with _turn(name):
        found = kept(name)
        if found is None:
            found = make()
            keep(name, found)
        return found


def kept(name: str) -> bytes | None:
    """What was kept under a name; None where there is nothing, or what is there is damaged."""
    store = _store()
    try:
        data = store.get(name) if store else None
    except OSError:
        return None
    if data is None or hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
        return data and data[DIGEST:]
    with suppress(OSError):
        store.remove(name)  # type: ignore[union-attr]
    return None


def keep(name: str, data: bytes, *, renew: bool = False) -> None:
    """Keep bytes where that is possible; with ``renew`` in the place of what was kept under the name."""
    store = _store()
    if store and len(data) <= LARGEST_BYTES:
        with suppress(OSError, NotImplementedError, VoxweftError, Timeout):
            if renew:
                store.remove(name)
            store.put(name, hashlib.sha256(data).digest() + data)


def named(kind: str, *packages: str, **facts: Any) -> str:
    """A name for what is made: what it is, what decides it, and the versions of the packages that make it.

    >>> named("network", "numpy", patch=(8, 8, 8)).split()[0]
    'network'
    """
    versions = {package: _version(package) for package in packages}
    told = json.dumps({"voxweft": __version__, **versions, **facts}, sort_keys=True, default=str)
    return f"{kind} {told}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _store() -> DiskCache | None:
    """The cache; None where its folder cannot be used."""
    try:
        return _opened(cache_folder() / "engines")
    except RuntimeError:  # a user without a home
        return None


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> DiskCache | None:
    try:
        store = DiskCache(folder, BOUND_BYTES)
        return store if os.access(folder, os.W_OK) else None
    except VoxweftError:
        return None


@contextmanager
def _turn(name: str) -> Iterator[None]:
    """Whose turn it is to make something: a lock that ends with the process that holds it."""
    if not _store():
        yield
        return
    lock = FileLock(cache_folder() / "engines" / f"{hashlib.sha256(name.encode()).hexdigest()}.lock")
    with suppress(OSError, NotImplementedError, Timeout):  # then it is made here, too
        lock.acquire(timeout=WAIT_S)
    try:
        yield
    finally:
        lock.release()
