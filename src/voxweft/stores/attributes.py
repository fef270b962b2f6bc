"""What voxweft writes to the attribute "voxweft" of its zarr groups and reads back."""

from __future__ import annotations

from typing import Any

import numpy as np

from voxweft.errors import VolumeError, first_line
from voxweft.image.place import IDENTITY, Matrix
from voxweft.stores.url import unreadable, zarr_store


def direction_of(attribute: Any) -> Matrix:
    """The direction matrix of an attribute "voxweft", the identity where it says none.

    >>> direction_of({"direction_zyx": [[0, 0, 1], [0, 1, 0], [1, 0, 0]]})[0]
    (0.0, 0.0, 1.0)

    Raises
    ------
    VolumeError
        If it is none.
    """
    rows = attribute.get("direction_zyx") if isinstance(attribute, dict) else None
    try:
        matrix = np.array(IDENTITY if rows is None else rows, float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise VolumeError(f"the direction_zyx {str(rows)[:60]} in its metadata is no matrix of 3 x 3 numbers")
    return tuple(map(tuple, matrix.tolist()))  # type: ignore[return-value]


def stamp_of(attribute: Any) -> str:
    """What changes when the files change that a volume was prepared from; "" where nothing is said of them."""
    return str(attribute.get("files", "")) if isinstance(attribute, dict) else ""


def attributes_of(url: str) -> dict[str, Any]:
    """The attributes of an array or group, for what an earlier stage said of itself."""
    import zarr

    try:
        return dict(zarr.open(zarr_store(url, read_only=True), mode="r").attrs)
    except unreadable() as error:
        raise VolumeError(f"{url} cannot be opened as a zarr: {first_line(error)}") from error
