"""Strokes of known contrast, planted on a sheet: what a network would have shown had they been written there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACES, DIRECTIONS = ("near", "far"), ("forward", "reverse")
SEEN = 0.02  # mean probability that strokes must add
AHEAD = 0.01  # of the other direction
UNDECIDED = "undecided"
SHARE = 0.75  # of the pitch that a stroke is long
Lifts = Mapping[tuple[str, str, int], float]
"""What strokes add to the mean probability, by face, direction and amplitude."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What lifts say.

    Attributes
    ----------
    direction
        What the faces agree on; "undecided" where each of them has a direction of its own: then it depends on which
        face was written on, which planted strokes cannot tell.
    of_face
        Of strokes on a face the direction whose largest lift is 0.02 at least, and 0.01 ahead of the other's; else
        "undecided".
    faintest
        The smallest amplitude with a lift of 0.02 in that direction, or in any where it is undecided; None where even
        the strongest strokes are not seen.
    """

    direction: str
    of_face: Mapping[str, str]
    faintest: int | None


def woven_strokes(shape_yx: tuple[int, int], width: int, pitch: int) -> NDArray[np.bool_]:
    """Strokes bool [Y, X], one in each square of side ``pitch``, lying and standing by turns.

    >>> for row in woven_strokes((4, 8), 1, 4):
    ...     print("".join("-#"[int(v)] for v in row))
    --------
    ------#-
    -###--#-
    ------#-
    """
    y, x = np.indices(shape_yx, sparse=True)
    across, along = np.abs(y % pitch - pitch // 2), np.abs(x % pitch - pitch // 2)
    lying = (y // pitch + x // pitch) % 2 == 0
    half, reach = width / 2, SHARE * pitch / 2
    in_lying, in_standing = (across < half) & (along < reach), (along < half) & (across < reach)
    return np.asarray(np.where(lying, in_lying, in_standing))


def faces_of(profile: NDArray[np.float64]) -> tuple[int, int]:
    """The layers where a sheet begins and ends, by the mean grey value of each layer.

    Where the profile falls to half its height on both sides of its peak; on a side where it does not, a quarter of the
    stack from that end.

    >>> faces_of(np.array([10.0, 10, 12, 90, 100, 95, 11, 10]))
    (3, 5)
    >>> faces_of(np.full(8, 50.0))
    (2, 5)
    """
    n, peak = len(profile), int(np.argmax(profile))
    sides = []
    for side in (profile[: peak + 1][::-1], profile[peak:]):
        half = (side[0] + side.min()) / 2
        below = np.flatnonzero(side < half)
        sides.append(int(below[0]) - 1 if len(below) else None)
    near = peak - sides[0] if sides[0] is not None else n // 4
    far = peak + sides[1] if sides[1] is not None else n - 1 - n // 4
    return near, max(near, far)


def planted(
    stack: NDArray[np.uint8], strokes: NDArray[np.bool_], amplitude: int, layer: int, thickness: float
) -> NDArray[np.uint8]:
    """Layers uint8 [L, Y, X] with strokes that are so much brighter; they fade to 1/e ``thickness`` layers away."""
    fade = np.exp(-(((np.arange(len(stack)) - layer) / thickness) ** 2)) * amplitude
    brighter = stack + np.round(fade)[:, None, None] * strokes
    return np.asarray(np.clip(brighter, 0, 255), np.uint8)


def verdict(lifts: Lifts) -> Verdict:
    """What the lifts say of the direction, and of the faintest strokes that are seen.

    >>> verdict({("near", "forward", 8): 0.01, ("near", "forward", 16): 0.2, ("near", "reverse", 16): 0.05})
    Verdict(direction='forward', of_face={'near': 'forward'}, faintest=16)
    >>> verdict({("near", "forward", 8): 0.2, ("far", "reverse", 8): 0.2}).direction
    'undecided'
    """
    faces = [face for face in FACES if any(key[0] == face for key in lifts)]
    of_face = {face: _ahead({key: lift for key, lift in lifts.items() if key[0] == face}) for face in faces}
    decided = {*of_face.values()} - {UNDECIDED}
    direction = decided.pop() if len(decided) == 1 else UNDECIDED
    seen = [a for (_, d, a), lift in lifts.items() if lift >= SEEN and direction in (UNDECIDED, d)]
    return Verdict(direction, of_face, min(seen, default=None))


def _ahead(lifts: Lifts) -> str:
    """The direction whose largest lift is ahead."""
    best = {d: max((lift for key, lift in lifts.items() if key[1] == d), default=-math.inf) for d in DIRECTIONS}
    second, first = sorted(DIRECTIONS, key=best.__getitem__)
    return first if best[first] >= SEEN and best[first] - best[second] >= AHEAD else UNDECIDED
