"""What is known of the voxels of each label: how many, where, and how grey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx

Table = Mapping[str, NDArray[np.generic]]


def label_statistics(
    labels: NDArray[np.integer], image: NDArray[np.generic] | None, start: Zyx, n_labels: int
) -> dict[str, NDArray[np.generic]]:
    """Of each label 1 to ``n_labels - 1`` in a block what :class:`LabelStatistics` joins; row 0 stays empty.

    Parameters
    ----------
    labels, image
        [Z, Y, X], and the grey values of the same voxels; None for none.
    start
        First voxel of the block in the volume.
    n_labels
        Rows.

    Returns
    -------
    dict
        Rows [1, n_labels, ...]: ``voxels`` int64; ``sum`` and ``squares`` of grey values, float64; ``low`` and ``high``
        (one past the last) and ``centre`` (sum of indices) [..., 3], z y x.
    """
    places = np.nonzero(labels)
    found = labels[places].astype(np.int64)
    low = np.full((n_labels, 3), np.iinfo(np.int64).max)
    high, centre = np.zeros((n_labels, 3), np.int64), np.zeros((n_labels, 3))
    voxels = np.bincount(found, minlength=n_labels)
    for axis, (place, a) in enumerate(zip(places, start, strict=True)):
        n = labels.shape[axis]
        counts = np.bincount(found * n + place, minlength=n_labels * n).reshape(n_labels, n)
        filled = counts > 0
        some = filled.any(axis=1)
        low[some, axis] = a + filled[some].argmax(axis=1)
        high[some, axis] = a + n - filled[some, ::-1].argmax(axis=1)
        centre[:, axis] = counts @ (a + np.arange(n, dtype=np.float64))
    table = {"voxels": voxels, "low": low, "high": high, "centre": centre}
    if image is not None:
        grey = np.nan_to_num(image[places].astype(np.float64), posinf=0.0, neginf=0.0)
        table |= {"sum": np.bincount(found, grey, n_labels), "squares": np.bincount(found, grey**2, n_labels)}
    return {name: np.asarray(values)[None] for name, values in table.items()}


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """One label of a volume.

    Attributes
    ----------
    voxels
        How many.
    box
        That holds all of them; None where there are none.
    centroid_zyx
        Mean index.
    touches_border
        Whether one lies on a face of the volume.
    mean, std
        Of the grey values; None where no image was given.
    """

    voxels: int
    box: Box | None = None
    centroid_zyx: tuple[float, float, float] | None = None
    touches_border: bool = False
    mean: float | None = None
    std: float | None = None


def facts_of(tables: Iterable[Table], shape: Zyx) -> tuple[LabelFacts, ...]:
    """What is known of the labels of a volume of a shape, from the tables of its blocks.

    >>> labels = np.zeros((4, 4, 4), np.uint8)
    >>> labels[1:3, 2, 2:4] = 1
    >>> facts = facts_of([label_statistics(labels, labels * 7, (0, 0, 0), 2)], (4, 4, 4))[1]
    >>> facts.voxels, str(facts.box), facts.centroid_zyx, facts.touches_border, facts.mean
    (4, '1:3,2:3,2:4', (1.5, 2.0, 2.5), True, 7.0)
    """
    rows = list(tables)
    if not rows:
        return ()
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    low, high = joined["low"].min(axis=0), joined["high"].max(axis=0)
    sums = {name: joined[name].sum(axis=0) for name in joined if name not in ("low", "high")}
    found = []
    for k, n in enumerate(sums["voxels"].tolist()):
        if not n:
            found.append(LabelFacts(0))
            continue
        box = Box(tuple(low[k].tolist()), tuple(high[k].tolist()))
        z, y, x = (sums["centre"][k] / n).tolist()
        border = any(a == 0 or b == m for a, b, m in zip(box.start, box.stop, shape, strict=True))
        mean = std = None
        if "sum" in sums:
            mean = float(sums["sum"][k] / n)
            std = float(np.sqrt(max(0.0, sums["squares"][k] / n - mean**2)))
        found.append(LabelFacts(n, box, (z, y, x), border, mean, std))
    return tuple(found)
