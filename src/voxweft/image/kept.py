"""A volume whose chunks are decoded once though many small boxes are read."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume


class Kept:
    """A volume that keeps the chunks that it decoded last, for readers of small boxes near to each other.

    Parameters
    ----------
    volume
        Any.
    n
        How many chunks are kept.

    Examples
    --------
    >>> from voxweft import Box, open_volume
    >>> kept = Kept(open_volume(np.arange(8, dtype=np.uint8).reshape(2, 2, 2)))
    >>> kept.read(Box((0, 1, 0), (2, 2, 1))).ravel().tolist()
    [2, 6]
    """

    def __init__(self, volume: Volume, n: int = 8) -> None:
        self._volume, self.info, self._n = volume, volume.info, n
        self._chunks: OrderedDict[Box, NDArray[Any]] = OrderedDict()

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        whole = Box.of(self.info.shape_zyx)
        out = np.zeros((self.info.n_channels, *box.shape), self.info.dtype)
        for cell in box.cells(self.info.chunk_zyx):
            chunk = cell & whole
            common = chunk & box
            if chunk not in self._chunks:
                self._chunks[chunk] = self._volume.read(chunk)
                if len(self._chunks) > self._n:
                    self._chunks.popitem(last=False)
            self._chunks.move_to_end(chunk)
            inside, target = (common.shift(b.start, -1).slices for b in (chunk, box))
            out[(slice(None), *target)] = self._chunks[chunk][(slice(None), *inside)]
        return out
