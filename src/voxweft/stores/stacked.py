"""A sink whose channels are stored as the planes of a volume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.place import Geometry
from voxweft.image.protocols import Sink
from voxweft.stores.wrapped import WrappedSink


class StackedSink(WrappedSink):
    """Another sink, to which channels of one plane are written as planes.

        result    [C, 1, Y, X]   z is one voxel long
        stored    [C, Y, X]      a volume without channels; spec.stacked "reversed": the last channel is plane 0

    Parameters
    ----------
    inner
        Where it is stored.
    """

    def __init__(self, inner: Sink) -> None:
        super().__init__(inner)
        self._spec = OutputSpec((1, 1, 1), 1, "uint8", (1, 1, 1), (1, 1, 1), stacked="planes")

    def create(self, spec: OutputSpec) -> None:
        """Make the array.

        Raises
        ------
        RequestError
            If the result has more than one plane.
        """
        if spec.shape_zyx[0] != 1 or not spec.stacked or len(spec.level_shapes) > 1:
            raise RequestError(f"{self.url}: channels of {spec.shape_zyx[0]} planes cannot be stacked")
        n, sizes = spec.n_channels, (spec.chunk_zyx[1:], spec.shard_zyx[1:])
        (cy, cx), (sy, sx) = sizes
        y, x = spec.shape_zyx[1:]
        self._spec = spec
        self._inner.create(
            replace(
                spec,
                shape_zyx=(n, y, x),
                n_channels=1,
                chunk_zyx=(n, cy, cx),
                shard_zyx=(n, sy, sx),
                geometry=_of_planes(spec.geometry, n),
                stacked="",
            )
        )

    def open(self) -> OutputSpec:
        """Open what is there."""
        found = self._inner.open()
        n, y, x = found.shape_zyx
        self._spec = replace(
            found,
            shape_zyx=(1, y, x),
            n_channels=n,
            chunk_zyx=(1, *found.chunk_zyx[1:]),
            shard_zyx=(1, *found.shard_zyx[1:]),
            stacked=self._spec.stacked,
        )
        return self._spec

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> int | None:
        """Write [C, 1, Y, X] of the result."""
        return self._inner.write(self._stored(box), self._turned(array.transpose(1, 0, 2, 3)), level)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read back [C, 1, Y, X] of the result."""
        return self._turned(self._inner.read(self._stored(box), level)).transpose(1, 0, 2, 3)

    def shape(self, level: int = 0) -> Zyx:
        """Extent of the result."""
        _, y, x = self._inner.shape(level)
        return 1, y, x

    def _stored(self, box: Box) -> Box:
        return Box((0, *box.start[1:]), (self._spec.n_channels, *box.stop[1:]))

    def _turned(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Planes [1, C, Y, X] in the order in which they are stored, or back."""
        return np.ascontiguousarray(planes[:, ::-1] if self._spec.stacked == "reversed" else planes)


def _of_planes(geometry: Geometry, n: int) -> Geometry:
    """Where planes lie that together are one voxel high."""
    z, y, x = geometry.voxel_size_zyx
    return replace(geometry, voxel_size_zyx=(z / n, y, x), origin_zyx=geometry.world([(1 - n) / (2 * n), 0.0, 0.0]))
