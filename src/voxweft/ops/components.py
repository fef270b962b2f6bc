"""Connected components of labels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.installed import install_line


def require_components() -> None:
    """Refuse to begin what needs components where they cannot be found.

    Raises
    ------
    RequestError
        If connected-components-3d is not installed.
    """
    if find_spec("cc3d") is None:
        raise RequestError(f"components need connected-components-3d: {install_line('panoptic')}")


def connected(values: NDArray[Any], connectivity: int) -> NDArray[np.uint32]:
    """Components of equal values that are not 0, numbered from 1 in the order of their first voxels.

    Parameters
    ----------
    values
        Integers or bool [Y, X] or [Z, Y, X].
    connectivity
        4 or 8 in two dimensions, 6, 18 or 26 in three.

    Raises
    ------
    RequestError
        If connected-components-3d is not installed.

    Examples
    --------
    >>> connected(np.array([[5, 5, 0, 7]]), 4)
    array([[1, 1, 0, 2]], dtype=uint32)
    """
    require_components()
    import cc3d

    if values.dtype == np.bool_ and (values.ndim < 3 or min(values.shape) < 2):
        values = values.view(np.uint8)  # of bool planes and lines 4.1.1 gives wrong components, or raises
    found = cc3d.connected_components(values, connectivity=connectivity, out_dtype=np.uint32)  # type: ignore[call-overload]
    return np.asarray(found, np.uint32)  # of nothing at all it may be bool


def keep_largest(labels: NDArray[Any], groups: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Labels with nothing left of each group but its largest component (neighbours share a corner); the rest is 0.

    Parameters
    ----------
    labels
        Integers [Z, Y, X].
    groups
        Labels that count as one thing; done one group after the other.

    Returns
    -------
    ndarray
        A copy. Of components of one size the one that begins first (z, then y, then x) stays.

    Raises
    ------
    RequestError
        If connected-components-3d is not installed.

    Examples
    --------
    >>> keep_largest(np.array([[[1, 1, 0, 1, 2, 0, 2, 2]]], np.uint8), [[1], [2]])
    array([[[1, 1, 0, 0, 0, 0, 2, 2]]], dtype=uint8)
    """
    kept = labels.copy()
    for group in groups:
        inside = np.isin(kept, list(group))
        if not inside.any():
            continue
        ids = connected(inside, 26)
        sizes = np.bincount(ids.ravel())[1:]
        kept[inside & (ids != 1 + int(sizes.argmax()))] = 0
    return kept
