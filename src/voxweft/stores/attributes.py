"""What voxweft writes to the attribute "voxweft" of its zarr groups and reads back."""

from __future__ import annotations

from typing import Any

from voxweft.image.place import IDENTITY, Matrix


def direction_of(attribute: Any) -> Matrix:
    """The direction matrix of an attribute "voxweft", the identity where it says none.

    >>> direction_of({"direction_zyx": [[0, 0, 1], [0, 1, 0], [1, 0, 0]]})[0]
    (0.0, 0.0, 1.0)
    """
    rows = attribute.get("direction_zyx") if isinstance(attribute, dict) else None
    if rows is None:
        return IDENTITY
    z, y, x = ((float(a), float(b), float(c)) for a, b, c in rows)
    return z, y, x


def stamp_of(attribute: Any) -> str:
    """What changes when the files change that a volume was prepared from; "" where nothing is said of them."""
    return str(attribute.get("files", "")) if isinstance(attribute, dict) else ""
