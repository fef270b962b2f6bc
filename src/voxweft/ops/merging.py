"""Semantic classes and instances of a slice as one map: class x divisor + number of the object in its class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.components import connected

STUFF_AREA = 64


def merge_instances(
    semantic: NDArray[Any],
    things: NDArray[np.bool_],
    instances: NDArray[np.int64],
    divisor: int,
    *,
    stuff_area: int = STUFF_AREA,
) -> NDArray[np.int64]:
    """The panoptic map of a slice.

    Parameters
    ----------
    semantic
        Class of each pixel [Y, X], 0 is the background.
    things
        Where the class is one of countable things, bool [Y, X].
    instances
        Number of the instance of each of those pixels, int64 [``things.sum()``]; 0 for none.
    divisor
        What a class is multiplied with.
    stuff_area
        Pixels that an uncountable class must have in the whole slice; of fewer nothing is kept.

    Returns
    -------
    panoptic
        int64 [Y, X]: of a thing class x divisor + 1, 2, and so on; of stuff class x divisor; else 0. A thing has the
        class that most of its pixels have, of equally many the lower.

    Examples
    --------
    >>> semantic = np.array([[1, 1, 0, 1, 2]])
    >>> merge_instances(semantic, semantic == 1, np.array([7, 7, 3]), 1000, stuff_area=1)
    array([[1002, 1002,    0, 1001, 2000]])
    """
    classes = semantic[things].astype(np.int64)
    n_classes, largest = int(semantic.max(initial=0)) + 1, int(instances.max(initial=0))
    counts = np.bincount(instances * n_classes + classes, minlength=(largest + 1) * n_classes)
    counts = counts.reshape(largest + 1, n_classes)
    own = counts.argmax(axis=1)
    own[0] = 0
    present = counts.sum(axis=1) > 0
    present[0] = False
    number = np.zeros(largest + 1, np.int64)
    for one in np.unique(own[present]):
        members = present & (own == one)
        number[members] = one * divisor + np.arange(1, members.sum() + 1)
    made = np.zeros(semantic.shape, np.int64)
    made[things] = number[instances]
    sizes = np.bincount(semantic[~things].astype(np.int64), minlength=1)
    for one in np.flatnonzero(sizes):
        if one and sizes[one] >= stuff_area:
            made[(semantic == one) & ~things] = one * divisor
    return made


def split_connected(panoptic: NDArray[np.int64], classes: Collection[int], divisor: int) -> NDArray[np.int64]:
    """Objects of several pieces as several objects: 8-connected pieces of one value, numbered anew in each class.

    Parameters
    ----------
    panoptic
        Of :func:`merge_instances`, int64 [Y, X].
    classes
        Those that are split; others stay.
    divisor
        That of the map.

    Examples
    --------
    >>> split_connected(np.array([[1001, 0, 1001, 2000]]), [1], 1000)
    array([[1001,    0, 1002, 2000]])
    """
    made = panoptic.copy()
    for one in classes:
        inside = panoptic // divisor == one
        if not inside.any():
            continue
        rows, columns = (np.flatnonzero(inside.any(axis=1 - axis)) for axis in (0, 1))
        place = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        numbers = np.where(inside[place], panoptic[place] - one * divisor, 0).astype(np.uint32)
        pieces = connected(numbers, 8)
        made[place] = np.where(pieces > 0, pieces.astype(np.int64) + one * divisor, made[place])
    return made
