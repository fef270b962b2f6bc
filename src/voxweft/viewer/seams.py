"""Is the tiling visible in the result? Steps across patch borders against steps beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.geometry.tiling import TileGrid

NEAR = 4
FAINT, CLEAR = 1.10, 1.30


@dataclass(frozen=True, slots=True)
class SeamCheck:
    """Mean step across patch borders divided by the mean step between planes up to four voxels away.

    Attributes
    ----------
    ratio_zyx
        One number an axis; None where no border lies inside the window or nothing changes there.
    """

    ratio_zyx: tuple[float | None, float | None, float | None]

    @property
    def worst(self) -> float | None:
        """The largest ratio, or None."""
        return max((r for r in self.ratio_zyx if r is not None), default=None)

    @property
    def verdict(self) -> str:
        """One sentence for a person."""
        if self.worst is None:
            return "no patch border inside the examined window"
        if self.worst < FAINT:
            return "no seams: the result changes no more across patch borders than beside them"
        if self.worst < CLEAR:
            return "faint seams: slightly larger steps across patch borders; a larger --overlap softens them"
        return "seams: the tiling is visible; try a larger --overlap, --window gaussian or --tta mirroring"


def check_seams(values: NDArray[np.float32], window: Box, grid: TileGrid) -> SeamCheck:
    """Examine a window of a result.

    Parameters
    ----------
    values
        [Z, Y, X], the voxels of ``window``.
    window
        Where they lie in the volume.
    grid
        The patch positions of the whole volume.
    """
    ratios = []
    for axis in range(3):
        steps = np.array(
            [
                float(np.abs(np.take(values, p, axis) - np.take(values, p - 1, axis)).mean(dtype=np.float64))
                for p in range(1, values.shape[axis])
            ]
        )
        borders = _borders(grid, axis, window.start[axis] + 1, window.stop[axis])
        ratios.append(_ratio(steps, [b - window.start[axis] - 1 for b in borders]))
    return SeamCheck(tuple(ratios))  # type: ignore[arg-type]


def _borders(grid: TileGrid, axis: int, lo: int, hi: int) -> list[int]:
    """Planes ``lo <= p < hi`` where a patch begins or ends."""
    starts = [grid.axes[axis].start(i) + grid.origin[axis] for i in range(grid.axes[axis].count)]
    return sorted({p for s in starts for p in (s, s + grid.patch[axis]) if lo <= p < hi})


def _ratio(steps: NDArray[np.float64], borders: Sequence[int]) -> float | None:
    there = set(borders)
    near = {b + d for b in borders for d in range(-NEAR, NEAR + 1)} - there
    beside = [steps[i] for i in sorted(near) if 0 <= i < len(steps)]
    if not borders or not beside or np.mean(beside) == 0:
        return None
    return round(float(np.mean(steps[list(borders)]) / np.mean(beside)), 3)
