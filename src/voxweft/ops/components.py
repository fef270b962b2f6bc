"""Connected components of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError


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
    try:
        import cc3d
    except ImportError as error:
        raise RequestError("components need the extra 'medical': pip install 'voxweft[medical]'") from error
    kept = labels.copy()
    for group in groups:
        inside = np.isin(kept, list(group))
        if not inside.any():
            continue
        ids = cc3d.connected_components(inside, connectivity=26)
        sizes = np.bincount(ids.ravel())[1:]
        kept[inside & (ids != 1 + int(sizes.argmax()))] = 0
    return kept
