"""Which chunks of a zarr array are stored, and how large they are: one listing instead of a look at every place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from voxweft.errors import ReadError, first_line
from voxweft.remote import is_remote, object_store
from voxweft.stores.url import local_path, unreadable

Index = tuple[int, ...]
CHUNK = re.compile(r"(?:c/)?(\d+(?:[./]\d+)*)$")
BLOSC_HEADER = 16


class ChunkFiles:
    """The stored chunks of one array.

    Attributes
    ----------
    keys
        Key of the file by chunk index.
    sizes
        Bytes by chunk index.
    times
        When each was written (local), or its version (s3://), as text.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.keys: dict[Index, str] = {}
        self.sizes: dict[Index, int] = {}
        self.times: dict[Index, str] = {}
        try:
            for key, size, time in _remote(self._url) if is_remote(url) else _local(self._url):
                if found := CHUNK.match(key):
                    index = tuple(map(int, re.split("[./]", found[1])))
                    self.keys[index], self.sizes[index], self.times[index] = key, size, time
        except unreadable() as error:
            raise ReadError(f"{url} cannot be listed: {first_line(error)}") from error

    def stamps(self) -> bytes:
        """What changes when any chunk changes."""
        return "".join(f"{i} {self.sizes[i]} {self.times[i]};" for i in sorted(self.keys)).encode()

    def truncated(self, size: int | None = None) -> str | None:
        """The first file that is not of this size or, without one, of the size that its Blosc header says; or None."""
        order = sorted(self.keys)
        if size is not None:
            wrong = next((i for i in order if self.sizes[i] != size), None)
            return f"{self._url}/{self.keys[wrong]}" if wrong else None
        read = _remote_heads(self._url) if is_remote(self._url) else _local_heads(self._url)
        with ThreadPoolExecutor(16) as threads:
            heads: Iterable[bytes] = threads.map(read, (self.keys[i] for i in order))
            for index, head in zip(order, heads, strict=True):
                if len(head) < BLOSC_HEADER or int.from_bytes(head[12:16], "little") != self.sizes[index]:
                    return f"{self._url}/{self.keys[index]}"
        return None


def _local(url: str) -> Iterator[tuple[str, int, str]]:
    root = str(local_path(url))
    for folder, _, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        for name in names:
            key = name if inside == "." else f"{inside}/{name}".replace(os.sep, "/")
            found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - one call a chunk
            yield key, found.st_size, str(found.st_mtime_ns)


def _remote(url: str) -> Iterator[tuple[str, int, str]]:
    for page in object_store(url).list():
        for item in page:
            yield item["path"], item["size"], str(item.get("e_tag"))


def _local_heads(url: str) -> Any:
    root = local_path(url)

    def read(key: str) -> bytes:
        with (root / key).open("rb") as file:
            return file.read(BLOSC_HEADER)

    return read


def _remote_heads(url: str) -> Any:
    store = object_store(url)
    return lambda key: bytes(store.get_range(key, start=0, end=BLOSC_HEADER))
