"""What is known of every object of a block of labels, and thinner or thicker objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.ops.runs import Runs, measured, surface


def object_rows(labels: NDArray[Any], box: Box, near: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """A row an object that a box holds: its label, and of its voxels there their number, box, sums and surface.

    Parameters
    ----------
    labels
        [Z, Y, X] of the box.
    box
        Where it lies.
    near
        The voxels that are on the surface of their object, see :func:`voxweft.ops.runs.surface`.

    Examples
    --------
    >>> labels = np.array([[[4, 4, 4]]])
    >>> rows = object_rows(labels, Box.of((1, 1, 3)), np.array([[[False, False, True]]]))
    >>> rows["label"], rows["voxels"], rows["surface"]
    (array([4]), array([3]), array([1]))
    """
    runs = Runs.of([labels], box.start)
    (label,), table = measured(runs, [runs.values[:, 0]])
    outer = labels[near & (labels > 0)]
    table["surface"] = np.bincount(np.searchsorted(label, outer), minlength=len(label)).astype(np.int64)
    return {"label": label, **table}


def eroded(labels: NDArray[Any], n: int) -> NDArray[Any]:
    """Objects without their outermost voxels, ``n`` times; the edge of the array counts as more of the same.

    >>> eroded(np.array([[[3, 3, 3, 5, 5, 0]]]), 1)
    array([[[3, 3, 0, 0, 0, 0]]])
    """
    whole = (slice(None),) * 3
    for _ in range(n):
        labels = np.where(surface(labels, whole), 0, labels)
    return labels


def dilated(labels: NDArray[Any], n: int) -> NDArray[Any]:
    """Objects that grow into the background by a voxel, ``n`` times; where two meet the higher label wins.

    >>> dilated(np.array([[[3, 0, 0, 5, 0]]]), 1)
    array([[[3, 3, 5, 5, 5]]])
    """
    for _ in range(n):
        grown = np.zeros_like(labels)
        for axis in range(3):
            low, high = (tuple(s if a == axis else slice(None) for a in range(3)) for s in _SIDES)
            np.maximum(grown[low], labels[high], out=grown[low])
            np.maximum(grown[high], labels[low], out=grown[high])
        labels = np.where(labels > 0, labels, grown)
    return labels


_SIDES = (slice(None, -1), slice(1, None))
