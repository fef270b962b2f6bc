"""The level at which a picture of probabilities agrees best with a labelled one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LevelScore:
    """How well ``value >= level`` is what was labelled."""

    level: int
    f1: float
    precision: float
    recall: float


def level_scores(inside: Counts, outside: Counts) -> tuple[NDArray[np.float64], ...]:
    """F1, precision and recall of ``value >= level``, for every level.

    Parameters
    ----------
    inside, outside
        How many pixels of each value lie on what was labelled, and beside it; int64 [levels].

    Examples
    --------
    >>> f1, precision, recall = level_scores(np.array([0, 1, 3]), np.array([4, 2, 0]))
    >>> precision.round(2).tolist(), recall.tolist()
    ([0.4, 0.67, 1.0], [1.0, 1.0, 0.75])
    """
    true, false = (np.cumsum(counts[::-1])[::-1].astype(np.float64) for counts in (inside, outside))
    found, labelled = np.maximum(true + false, 1), max(float(inside.sum()), 1.0)
    return 2 * true / np.maximum(true + false + labelled, 1), true / found, true / labelled


def score_at(inside: Counts, outside: Counts, level: int) -> LevelScore:
    """The scores of one level."""
    f1, precision, recall = (float(values[level]) for values in level_scores(inside, outside))
    return LevelScore(level, f1, precision, recall)


def best_level(inside: Counts, outside: Counts) -> LevelScore:
    """The level, 1 or more, of the largest F1; the middle one of several that follow each other with the same.

    >>> best_level(np.array([0, 0, 0, 0, 5]), np.array([9, 0, 0, 0, 0])).level
    2
    """
    f1 = level_scores(inside, outside)[0]
    first = 1 + int(f1[1:].argmax())
    others = np.flatnonzero(f1[first:] != f1[first])
    last = first + (int(others[0]) if len(others) else len(f1) - first) - 1
    return score_at(inside, outside, (first + last) // 2)
