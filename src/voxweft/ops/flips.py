"""How far two answers for the same voxels agree, by what a user sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 1 << 16  # in which differences of probabilities are counted


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of an answer with the one that it is held against.

    Attributes
    ----------
    flips
        Share of voxels whose final label, or any of whose masks, is another one.
    mean, p999, largest
        Absolute difference in probability: on average, that which 99.9 % of all values do not exceed (to 2^-16), and
        the largest.
    dice
        Of each class but the background, or of each mask: 2 |A and B| / (|A| + |B|); 1 where neither has any.
    n_voxels
        Compared.
    """

    flips: float = 0.0
    mean: float = 0.0
    p999: float = 0.0
    largest: float = 0.0
    dice: tuple[float, ...] = ()
    n_voxels: int = 0


def compared(
    pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], *, exclusive: bool, threshold: float = 0.5
) -> Agreement:
    """The agreement of pairs of probabilities [C, Z, Y, X], reference first, over all of their voxels together.

    Parameters
    ----------
    pairs
        One a piece of the volume; held one at a time.
    exclusive
        Whether one class wins, the largest, or class 1 of two where it is over the threshold; else each channel is a
        mask of its own, where it is over the threshold.
    threshold
        Probability.

    Examples
    --------
    >>> p = np.array([[0.9, 0.4, 0.6, 0.2]], np.float32).reshape(1, 1, 1, 4)
    >>> found = compared([(p, p + np.float32(0.2))], exclusive=False)
    >>> found.flips, round(found.mean, 3), found.dice
    (0.25, 0.2, (0.8,))
    """
    histogram, total, largest, n_flipped, n_voxels = np.zeros(LEVELS + 1, np.int64), 0.0, 0.0, 0, 0
    both = alone = np.zeros(0, np.int64)
    for reference, other in pairs:
        difference = np.abs(reference - other)
        largest = max(largest, float(difference.max(initial=0.0)))
        total += float(difference.sum(dtype=np.float64))
        steps = np.minimum(np.ceil(difference.ravel() * LEVELS), LEVELS).astype(np.int64)
        histogram += np.bincount(steps, minlength=LEVELS + 1)
        a, b = (_masks(p, exclusive, threshold) for p in (reference, other))
        n_flipped += int((a != b).any(axis=0).sum())
        n_voxels += a[0].size
        axes = tuple(range(1, a.ndim))
        counts = (a & b).sum(axis=axes), a.sum(axis=axes) + b.sum(axis=axes)
        both, alone = counts if not alone.size else (both + counts[0], alone + counts[1])
    n_values = int(histogram.sum())
    if not n_values:
        return Agreement()
    p999 = int(np.searchsorted(histogram.cumsum(), 0.999 * n_values)) / LEVELS
    dice = tuple(float(2 * n / m) if m else 1.0 for n, m in zip(both, alone, strict=True))
    return Agreement(n_flipped / n_voxels, total / n_values, p999, largest, dice, n_voxels)


def _masks(p: NDArray[np.float32], exclusive: bool, threshold: float) -> NDArray[np.bool_]:
    """Where each class but the background is, [classes, ...]."""
    if not exclusive:
        return np.asarray(p > threshold)
    if len(p) == 2:
        return np.asarray(p[1:] > threshold)
    labels = p.argmax(axis=0)
    return np.stack([labels == c for c in range(1, len(p))])
