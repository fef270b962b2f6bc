"""Is the tiling visible in the result? The worst planes where patches meet, against planes beside them.

    patches   |===========A===========|                 begins, ends   where a patch begins or ends
                          |===========B===========|     changes        half way between two centres, where with
                  begins ^     ^     ^ ends                            Gaussian weights A hands over to B
                            changes

A mean over a plane hides what covers a tenth of it. Of each plane the jump is therefore the 95 % quantile of
|this plane - the plane before|, of each channel by itself, so that what one class does in the background is not drowned
by what others do at edges. Of labels and masks, where a jump is all or nothing, it is the 95 % quantile of the share of
voxels that change in squares of 8 x 8.

Where the image is known, a jump counts only where the image does not jump itself: the empty voxels (nothing changes
within three planes) and the quieter two thirds of the others are judged apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.tiling import TileGrid

QUANTILE = 0.95
FAINT, SOFTLY, OF_LABELS = 1.25, 1.6, 2.5  # jump / beside it, at least: of sharp borders, slow ones, labels
CLEAR = 2.0  # from here on seams are not called faint
VISIBLE = 0.02  # of the range of values: five grey levels of 255
AT_MOST = 0.95  # of shifted planes are as strong as what counts as usual
END = 8  # planes at the ends of a window that are not asked what is usual: networks pad there
SQUARE = 8  # voxels of a square of a plane
MANY = 1 << 14  # voxels of a plane that are enough for a quantile
REACH = 3  # planes on both sides within which the image is to be quiet
QUIET = 2 / 3  # of the voxels that are not empty
LEAST = 8  # shifted planes, below which nothing can be told
FEW = 256  # voxels, or squares, below which nothing is said of a plane
SHARP, SOFT = (1, 4), (7, 14)  # how far the planes lie that a border is compared with


@dataclass(frozen=True, slots=True)
class Border:
    """A plane where patches meet.

    Attributes
    ----------
    axis, position
        Between voxel ``position - 1`` and ``position`` of an axis (0 z, 1 y, 2 x) of the volume.
    kind
        "begins or ends", or "changes": where one patch hands over to the next.
    jump, beside
        Across it, and the median of the same a few planes away; shares of the range of values, or of labels.
    strength, usual
        Their ratio, and what shifted planes of the same axis have at most (95 % of them).
    at
        Where in the plane the jump is largest, z y x.
    in_empty
        Whether it is in voxels where the image is empty.
    of_labels
        Whether the values are labels.
    """

    axis: int
    position: int
    kind: str
    jump: float
    beside: float
    strength: float
    usual: float
    at: Zyx
    in_empty: bool = False
    of_labels: bool = False

    @property
    def is_seam(self) -> bool:
        """Whether it jumps more than shifted planes do, and by as much as can be seen."""
        least = OF_LABELS if self.of_labels else FAINT if self.kind == "begins or ends" else SOFTLY
        return self.strength >= max(least, 1.2 * self.usual) and self.jump - self.beside >= VISIBLE


@dataclass(frozen=True, slots=True)
class SeamCheck:
    """All borders that were looked at, the worst first.

    Attributes
    ----------
    borders
        By strength above what is usual.
    """

    borders: tuple[Border, ...] = ()

    @classmethod
    def joined(cls, checks: Iterable[SeamCheck]) -> SeamCheck:
        """Several windows as one check."""
        return cls(_ranked(border for one in checks for border in one.borders))

    @property
    def seams(self) -> tuple[Border, ...]:
        """Those that are seams."""
        return tuple(border for border in self.borders if border.is_seam)

    @property
    def worst(self) -> float | None:
        """The strength of the worst border; None where there is none."""
        return self.borders[0].strength if self.borders else None

    def strongest(self, axis: int) -> Border | None:
        """The worst border along an axis."""
        return next((border for border in self.borders if border.axis == axis), None)

    def verdict(self, names: Sequence[str] = ("z", "y", "x")) -> str:
        """One sentence for a person; ``names`` of the axes."""
        if not self.borders:
            return (
                "nothing can be told: no patch border inside the examined window, or no plane that lies clear of them"
            )
        if not self.seams:
            return f"no seams: none of {len(self.borders)} patch borders stands out from planes beside it"
        one = self.seams[0]
        kind = "seams" if one.strength >= CLEAR else "faint seams"
        jump = (
            f"in a twentieth of the plane {one.jump:.0%} of the labels change or more"
            if one.of_labels
            else f"a twentieth of the voxels jump by {one.jump:.2f} of the range or more"
        )
        beside = f"{one.beside:.0%}" if one.of_labels else f"{one.beside:.2f}"
        return (
            f"{kind}: {len(self.seams)} of {len(self.borders)} patch borders stand out. The worst is along "
            f"{names[one.axis]}, at {one.position}: {jump}, beside it {beside} ({one.strength:.1f} times)"
        )


def check_seams(
    values: NDArray[Any], window: Box, grid: TileGrid, *, image: NDArray[Any] | None = None, labels: bool = False
) -> SeamCheck:
    """Examine a window of a result.

    Parameters
    ----------
    values
        [Z, Y, X] or [C, Z, Y, X], the voxels of ``window``: integers of 8 or 16 bits of the whole range, or floats
        from 0 to 1.
    window
        Where they lie in the volume.
    grid
        The patch positions of the whole volume.
    image
        What the result was made from [Z, Y, X], the voxels of ``window``; None where it is not known.
    labels
        Whether the values are numbers of classes.

    Examples
    --------
    >>> smooth = np.linspace(0, 1, 96, dtype=np.float32)[:, None, None] * np.ones((1, 96, 96), np.float32)
    >>> grid = TileGrid.of((96, 96, 96), (32, 32, 32), 0.5)
    >>> check_seams(smooth, Box.of((96, 96, 96)), grid).verdict()
    'no seams: none of 27 patch borders stands out from planes beside it'
    >>> smooth[:, 10:90, 32:64] += 0.2
    >>> [(border.axis, border.position) for border in check_seams(smooth, Box.of((96, 96, 96)), grid).seams]
    [(2, 32), (2, 64)]
    """
    channels = values if values.ndim == 4 else values[np.newaxis]
    top = 1.0 if labels or values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    found = list[Border]()
    for axis in range(3):
        looked = _Look.along(axis, channels, image, None if labels else top)
        found += [replace(one, at=_place(channels, image, window, one)) for one in _of_axis(looked, window, grid, axis)]
    return SeamCheck(_ranked(found))


def _order(one: Border) -> tuple[bool, float]:
    return not one.is_seam, -one.strength / max(1.0, one.usual)


def _ranked(borders: Iterable[Border]) -> tuple[Border, ...]:
    return tuple(sorted(borders, key=_order))


@dataclass(frozen=True, slots=True)
class _Look:
    """Planes of a result [N, C, A, B] along an axis, of its image [N, A, B] or None, and what is one (None: labels)."""

    values: NDArray[Any]
    image: NDArray[Any] | None
    top: float | None

    @classmethod
    def along(cls, axis: int, values: NDArray[Any], image: NDArray[Any] | None, top: float | None) -> _Look:
        """Along an axis; of large planes every few rows and columns, but of labels all."""
        sides = [n for k, n in enumerate(values.shape[1:]) if k != axis]
        step = 1 if top is None else max(1, math.ceil(math.sqrt(math.prod(sides) / MANY)))
        every = tuple(slice(None) if k == axis else slice(None, None, step) for k in range(3))
        planes = np.ascontiguousarray(np.moveaxis(values[(slice(None), *every)], axis + 1, 0))
        return cls(planes, None if image is None else np.ascontiguousarray(np.moveaxis(image[every], axis, 0)), top)

    def steps(self, p: int) -> NDArray[np.float32]:
        """How much each voxel of a plane differs from the one before: [C, A, B]."""
        here, before = self.values[p], self.values[p - 1]
        if self.top is None:
            return np.asarray(here != before, np.float32)
        return np.asarray(np.abs(here.astype(np.float32) - before.astype(np.float32)) / np.float32(self.top))

    def jumps(self, p: int) -> NDArray[np.float64]:
        """The jump of a plane: [2, C], in empty voxels and in the others; NaN where there are too few."""
        steps, change = self.steps(p), self.change(p)
        if self.top is None:
            steps, change = _squares(steps), _squares(change[np.newaxis])[0]
        empty = change == 0 if self.image is not None else np.zeros(change.shape, np.bool_)
        quiet = ~empty & (change <= np.quantile(change[~empty], QUIET)) if not empty.all() else ~empty
        few = min(FEW, change.size // 20)
        return np.array(
            [
                np.quantile(steps[:, where], QUANTILE, axis=1) if where.sum() > few else np.full(len(steps), np.nan)
                for where in (empty, quiet)
            ],
            np.float64,
        )

    def change(self, p: int) -> NDArray[np.float32]:
        """By how much the image changes near each voxel of a plane, across it."""
        if self.image is None:
            return np.zeros(self.values.shape[2:], np.float32)
        near = self.image[max(0, p - REACH) : p + REACH]
        return np.asarray(near.max(axis=0).astype(np.float32) - near.min(axis=0).astype(np.float32))


def _of_axis(looked: _Look, window: Box, grid: TileGrid, axis: int) -> list[Border]:
    """The borders of an axis inside the window; each as it is where it stands out most."""
    first, n = window.start[axis], len(looked.values)
    meets = {p - first: kind for p, kind in _meeting(grid, axis).items() if 0 < p - first < n}
    if not meets or n < 4:
        return []
    found = dict[int, Border]()
    measured = np.array([looked.jumps(p) for p in range(1, n)])
    inside = [p for p in range(1, n) if _away(p, meets) and (END < p < n - END or n < 4 * END)]
    for kind, reach in (("begins or ends", SHARP), ("changes", SOFT)):
        for in_empty, channel in np.ndindex(measured.shape[1:]):
            jumps = np.array([np.nan, *measured[:, in_empty, channel]])
            shifted = [s for p in inside if not math.isnan(s := _strength(jumps, p, meets, reach)[0])]
            if len(shifted) < max(LEAST, len(meets) / 4):
                continue
            usual = float(np.quantile([s for s in shifted if s] or [0.0], AT_MOST))  # of planes that change at all
            for p in (q for q, one in meets.items() if one == kind):
                strength, beside = _strength(jumps, p, meets, reach)
                at, empty = (0, 0, 0), not in_empty and looked.image is not None
                one = Border(
                    axis, p + first, kind, float(jumps[p]), beside, strength, usual, at, empty, looked.top is None
                )
                if not math.isnan(strength) and (p not in found or _order(one) < _order(found[p])):
                    found[p] = one
    return [*found.values()]


def _meeting(grid: TileGrid, axis: int) -> dict[int, str]:
    """The planes of an axis where patches meet."""
    starts = [start + grid.origin[axis] for start in grid.axes[axis].starts]
    size = grid.patch[axis]
    middles = ((a + b + size + 1) // 2 for a, b in itertools.pairwise(starts))
    return dict.fromkeys(middles, "changes") | {p: "begins or ends" for s in starts for p in (s, s + size)}


def _away(p: int, meets: dict[int, str]) -> bool:
    """Whether a plane lies clear of those where patches meet."""
    return all(abs(p - q) > (6 if kind == "changes" else 0) for q, kind in meets.items())


def _strength(jumps: NDArray[np.float64], p: int, meets: dict[int, str], reach: tuple[int, int]) -> tuple[float, float]:
    """The jump of a plane divided by the median beside it, and that; NaN where nothing lies beside it."""
    near = [p + side * d for d in range(reach[0], reach[1] + 1) for side in (-1, 1)]
    beside = [jumps[q] for q in near if 0 < q < len(jumps) and q not in meets and np.isfinite(jumps[q])]
    if len(beside) < 2 or not np.isfinite(jumps[p]):
        return math.nan, 0.0
    middle = float(np.median(beside))
    return float(jumps[p]) / max(middle, VISIBLE / 4), middle


def _squares(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over squares of a plane [C, A, B]; those at the end may be smaller."""
    total: NDArray[Any] = plane
    for axis in (1, 2):
        edges = np.arange(0, plane.shape[axis], SQUARE)
        sizes = np.diff([*edges, plane.shape[axis]]).reshape((-1, 1) if axis == 1 else (1, -1))
        total = np.add.reduceat(total, edges, axis=axis) / sizes
    return np.asarray(total, np.float32)


def _place(values: NDArray[Any], image: NDArray[Any] | None, window: Box, border: Border) -> Zyx:
    """The middle of the square of its plane whose mean jump is the largest, in voxels of the volume."""
    axis, p = border.axis, border.position - window.start[border.axis]
    looked = _Look(np.moveaxis(values, axis + 1, 0), None if image is None else np.moveaxis(image, axis, 0), 1.0)
    steps = looked.steps(p).max(axis=0)
    if image is not None:
        steps = steps * ((looked.change(p) == 0) == border.in_empty)
    cells = _squares(steps[np.newaxis])[0]
    cell = np.unravel_index(int(cells.argmax()), cells.shape)
    place = [min(int(c) * SQUARE + SQUARE // 2, n - 1) for c, n in zip(cell, steps.shape, strict=True)]
    place.insert(axis, p)
    z, y, x = (a + b for a, b in zip(place, window.start, strict=True))
    return z, y, x
