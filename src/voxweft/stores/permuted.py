"""A sink whose result is stored with its axes in another order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.order import AS_IT_IS, Order, check_order, inverse, permute, permute_box
from voxweft.image.protocols import Sink
from voxweft.stores.wrapped import WrappedSink


class PermutedSink(WrappedSink):
    """Another sink, written to and read in the axes of the result.

        result    z = rows   y = 0      x = columns     slabs are bands of rows
        stored    z = 0      y = rows   x = columns     PermutedSink(inner, (1, 0, 2)): one plane, as viewers expect it

    Parameters
    ----------
    inner
        Where it is stored.
    order
        Axis k of what is stored is axis ``order[k]`` of the result.

    Raises
    ------
    RequestError
        If the order is none.
    """

    def __init__(self, inner: Sink, order: Order) -> None:
        check_order(order)
        super().__init__(inner)
        self._order, self._back = order, inverse(order)

    def create(self, spec: OutputSpec) -> None:
        """Make the arrays."""
        self._inner.create(replace(spec.permuted(self._order), order=AS_IT_IS))

    def open(self) -> OutputSpec:
        """Open what is there."""
        return replace(self._inner.open().permuted(self._back), order=self._order)

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> int | None:
        """Write [C, Z, Y, X] of the result at a box of a level."""
        return self._inner.write(permute_box(box, self._order), _turned(array, self._order), level)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read back [C, Z, Y, X] of the result."""
        return _turned(self._inner.read(permute_box(box, self._order), level), self._back)

    def shape(self, level: int = 0) -> Zyx:
        """Extent of a level of the result."""
        return permute(self._inner.shape(level), self._back)


def _turned(array: NDArray[Any], order: Order) -> NDArray[Any]:
    return np.ascontiguousarray(array.transpose(0, *(axis + 1 for axis in order)))
