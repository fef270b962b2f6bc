"""How much a compressed chunk says that it holds, known before memory is given to it.

A few bytes can stand for gigabytes; a chunk that claims far more than its array's chunks hold is damaged or hostile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

HEAD, MOST_TIMES = 32, 16  # bytes of a chunk; more than its array's dtype and filters explain
ZSTD, GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


def claimed_bytes(codec: str, data: bytes) -> int:
    """Bytes that a chunk claims to unpack to; 0 where its codec does not say.

    Parameters
    ----------
    codec
        Name in the metadata: "blosc", "zstd", "gzip" or "lz4"; others say nothing.
    data
        The whole chunk.

    Examples
    --------
    >>> import gzip
    >>> claimed_bytes("gzip", gzip.compress(bytes(1000))), claimed_bytes("bz2", b"BZh9")
    (1000, 0)
    """
    reader = READERS.get(codec)
    return reader(data) if reader and len(data) > 8 else 0


def require_sane(codec: str, data: bytes | NDArray[Any], wanted: int) -> None:
    """Refuse a chunk that claims to unpack to far more than the ``wanted`` bytes that a chunk of its array has."""
    claimed = claimed_bytes(codec, bytes(data[:HEAD]) + bytes(data[-4:]))
    if claimed > MOST_TIMES * wanted + (1 << 16):
        raise ValueError(f"it claims to unpack to {claimed} bytes, and a chunk has {wanted}")


def _zstd(data: bytes) -> int:
    """https://www.rfc-editor.org/rfc/rfc8878#name-frame-header."""
    if data[:4] != ZSTD:
        return 0
    descriptor = data[4]
    single, kind = bool(descriptor & 0x20), descriptor >> 6
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    length = (int(single), 2, 4, 8)[kind]
    return int.from_bytes(data[start : start + length], "little") + 256 * (kind == 1)


READERS: dict[str, Callable[[bytes], int]] = {
    "blosc": lambda data: int.from_bytes(data[4:8], "little"),
    "zstd": _zstd,
    "gzip": lambda data: int.from_bytes(data[-4:], "little") if data[:2] == GZIP else 0,
    "lz4": lambda data: int.from_bytes(data[:4], "little"),
}
