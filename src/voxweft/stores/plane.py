"""A sink for pictures: an engine that sweeps over rows writes an image of one plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Sink


class PlaneSink:
    """Another sink with its first two axes exchanged.

        the engine's   z = rows   y = 0      x = columns     slabs are bands of rows
        stored         z = 0      y = rows   x = columns     one plane, as viewers expect it

    Parameters
    ----------
    inner
        Where it is stored.
    """

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.url, self.records = inner.url, inner.records

    def exists(self) -> bool:
        """Whether anything lies there."""
        return self._inner.exists()

    def create(self, spec: OutputSpec) -> None:
        """Make the arrays."""
        self._inner.create(_turned(spec))

    def open(self) -> OutputSpec:
        """Open what is there."""
        return _turned(self._inner.open())

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> None:
        """Write [C, rows, 1, columns] of a level."""
        self._inner.write(_box(box), np.ascontiguousarray(array.swapaxes(1, 2)), level)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read back [C, rows, 1, columns]."""
        return np.ascontiguousarray(self._inner.read(_box(box), level).swapaxes(1, 2))

    def shape(self, level: int = 0) -> Zyx:
        """Rows, 1, columns of a level."""
        return _swap(self._inner.shape(level))

    def n_levels(self) -> int:
        """How many resolution levels there are."""
        return self._inner.n_levels()

    def build_level(self, level: int, box: Box) -> None:
        """Fill a box of a level from the level above it."""
        self._inner.build_level(level, _box(box))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes."""
        self._inner.set_attributes(attributes)

    def remove(self) -> None:
        """Delete everything."""
        self._inner.remove()


def _swap(zyx: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    return zyx[1], zyx[0], zyx[2]


def _box(box: Box) -> Box:
    return Box(_swap(box.start), _swap(box.stop))


def _turned(spec: OutputSpec) -> OutputSpec:
    place = spec.geometry
    return replace(
        spec,
        shape_zyx=_swap(spec.shape_zyx),
        chunk_zyx=_swap(spec.chunk_zyx),
        shard_zyx=_swap(spec.shard_zyx),
        geometry=replace(place, voxel_size_zyx=_swap(place.voxel_size_zyx), origin_zyx=_swap(place.origin_zyx)),
    )
