"""How good picks are: counting against the truth, precision and recall, and curves over a threshold of the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Picks that are right, picks that are wrong, particles that were missed.

    Examples
    --------
    >>> counts = Counts(8, 2, 2)
    >>> counts.precision, counts.recall, counts.f1
    (0.8, 0.8, 0.8000000000000002)
    >>> (counts + Counts(0, 1, 0)).fp
    3
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Of two together."""
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the picks that are right; 0 where there are none."""
        return self.tp / (self.tp + self.fp) if self.tp else 0.0

    @property
    def recall(self) -> float:
        """Share of the particles that were found; 0 where there are none."""
        return self.tp / (self.tp + self.fn) if self.tp else 0.0

    @property
    def accuracy(self) -> float:
        """Right ones of all."""
        return self.tp / (self.tp + self.fp + self.fn) if self.tp else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / (self.precision + self.recall) if self.tp else 0.0

    def fbeta(self, beta: float) -> float:
        """The same with recall counted ``beta`` times as much."""
        p, r = self.precision, self.recall
        return (1 + beta**2) * (p * r) / (beta**2 * p + r) if self.tp else 0.0


def count_nearest(picks: Points, truth: Points, distance: float) -> Counts:
    """Count as octopi does: a pick is right that has a particle nearer than ``distance``, and the other way round.

    Several picks may share a particle, so right ones and missed ones need not add up to the particles.

    Parameters
    ----------
    picks, truth
        [n, 3], in one unit.
    distance
        In that unit.
    """
    if not len(picks) or not len(truth):
        return Counts(0, len(picks), len(truth))
    near, found = _nearest(picks, truth), _nearest(truth, picks)
    right = int((near < distance).sum())
    return Counts(right, len(picks) - right, int((found >= distance).sum()))


def pairs_of(picks: Points, truth: Points, distance: float) -> NDArray[np.int64]:
    """Pairs [n, 2] of picks and particles no farther than ``distance`` from each other, each in one pair at most.

    As many as there can be, and among those the nearest together.

    >>> pairs_of(np.array([[0.0, 0, 0], [2, 0, 0]]), np.array([[1.0, 0, 0], [-1.5, 0, 0]]), 2.0).tolist()
    [[0, 1], [1, 0]]
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    empty = np.zeros((0, 2), np.int64)
    if not len(picks) or not len(truth):
        return empty
    near = KDTree(picks).sparse_distance_matrix(KDTree(truth), distance, output_type="ndarray")
    if not len(near):
        return empty
    a, b, far = near["i"], near["j"] + len(picks), near["v"]
    n = len(picks) + len(truth)
    _, group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)
    found = []
    order = np.argsort(group[a], kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[a][order])) + 1):
        rows, row = np.unique(a[members], return_inverse=True)
        columns, column = np.unique(b[members], return_inverse=True)
        unlike = 1.0 + distance * (1 + min(len(rows), len(columns)))  # dearer than all pairs together
        cost = np.full((len(rows), len(columns)), unlike)
        cost[row, column] = far[members]
        chosen = [(i, k) for i, k in zip(*linear_sum_assignment(cost), strict=True) if cost[i, k] < unlike]
        found += [(int(rows[i]), int(columns[k]) - len(picks)) for i, k in chosen]
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def count_one_to_one(picks: Points, truth: Points, distance: float) -> Counts:
    """Count pairs: every pick and every particle in one at most; a pair is no farther apart than ``distance``.

    >>> count_one_to_one(np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((1, 3)), 2.0)
    Counts(tp=1, fp=1, fn=0)
    """
    tp = len(pairs_of(picks, truth, distance))
    return Counts(tp, len(picks) - tp, len(truth) - tp)


@dataclass(frozen=True)
class Curve:
    """Precision and recall where only picks of at least a score count, from the highest score down.

    Attributes
    ----------
    threshold, precision, recall, fbeta
        float64 [n].
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    fbeta: NDArray[np.float64]

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the largest F-beta, and that."""
        if not len(self.fbeta):
            return math.nan, 0.0
        at = int(self.fbeta.argmax())
        return float(self.threshold[at]), float(self.fbeta[at])

    @property
    def average_precision(self) -> float:
        """The area below precision over recall."""
        steps = np.diff(self.recall, prepend=0.0)
        return float((steps * self.precision).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        threshold, best = self.best
        lists = {name: getattr(self, name).round(6).tolist() for name in ("threshold", "precision", "recall", "fbeta")}
        known = None if math.isnan(threshold) else threshold
        return {**lists, "best_threshold": known, "best_fbeta": best, "average_precision": self.average_precision}


def curve_of(runs: list[tuple[Points, NDArray[np.float64], Points]], distance: float, beta: float) -> Curve:
    """The curve of picks in several runs.

    A pick is right that is the best one within ``distance`` of a particle that no better pick has taken: one to one.

    Parameters
    ----------
    runs
        Of every run its picks [n, 3], their scores [n] and the truth [m, 3].
    distance
        Up to which a pick is right.
    beta
        Of F-beta.
    """
    scores, right, n = [], [], 0
    for picks, score, truth in runs:
        n += len(truth)
        order = np.argsort(-score, kind="stable")
        scores.append(score[order])
        right.append(_greedy(picks[order], truth, distance))
    score, hit = (np.concatenate(parts) if parts else np.zeros(0) for parts in (scores, right))
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    last = np.flatnonzero(np.diff(score, append=-np.inf)) if len(score) else np.zeros(0, np.int64)
    tp = np.cumsum(hit)[last]
    precision, recall = tp / (last + 1), tp / max(n, 1)
    below = np.maximum(beta**2 * precision + recall, 1e-300)
    return Curve(score[last], precision, recall, (1 + beta**2) * precision * recall / below)


def _greedy(picks: Points, truth: Points, distance: float) -> NDArray[np.float64]:
    """Of picks, the best first, 1 for those that take a particle."""
    from scipy.spatial import KDTree

    hit, taken = np.zeros(len(picks)), np.zeros(len(truth), np.bool_)
    if len(picks) and len(truth):
        for n, near in enumerate(KDTree(truth).query_ball_point(picks, distance)):
            free = [k for k in near if not taken[k]]
            if free:
                taken[min(free, key=lambda k, n=n: float(((truth[k] - picks[n]) ** 2).sum()))] = True  # type: ignore[misc]
                hit[n] = 1
    return hit


def _nearest(points: Points, others: Points) -> NDArray[np.float64]:
    from scipy.spatial import KDTree

    return np.asarray(KDTree(others).query(points)[0])
