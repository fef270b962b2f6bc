"""Where a sweep can know anything: a network that sees nothing but zeros says nothing, and "no ink" is another answer.

A voxel is known where any channel of the input is not 0, a patch ran, and the mask is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.op import Table
from voxweft.geometry.box import Box

YES = 255  # where something is known


class KnownPlanes:
    """Planes of a column where any channel of the input is not 0, noted as they are read, kept until they are final.

    Parameters
    ----------
    area
        The column's box; only y and x are used.
    """

    def __init__(self, area: Box) -> None:
        self._area = area
        self._planes: dict[int, NDArray[np.bool_]] = {}

    def saw(self, box: Box, values: NDArray[Any]) -> None:
        """Take in voxels [C, Z, Y, X] that were read; what lies beside the column is left out."""
        (_, y0, x0), (_, y1, x1) = self._area.start, self._area.stop
        _, by, bx = box.start
        inside = values[:, :, y0 - by : y1 - by, x0 - bx : x1 - bx]
        some = np.bitwise_or.reduce(inside, axis=0) != 0 if inside.dtype.kind in "iu" else inside.any(axis=0)
        self._planes.update(enumerate(np.asarray(some), box.start[0]))

    def take(self, z: int, holes: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
        """255 where plane ``z`` is known, else 0 [Y, X]; planes are taken in order, and none again.

        ``holes``: where no patch ran, or the mask is 0.
        """
        known = self._planes.pop(z)
        for empty in holes:
            known &= ~empty
        for before in [n for n in list(self._planes) if n < z]:
            del self._planes[before]
        return known.view(np.uint8) * np.uint8(YES)


def tally(plane: NDArray[np.uint8]) -> Table:
    """Known pixels of a plane, as a table of one row."""
    return {"known": np.array([np.count_nonzero(plane)], np.int64)}
