"""What is shown of an output, whatever shows it: plain data, read when somebody looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.place import Geometry
from voxweft.image.protocols import Volume
from voxweft.image.units import METERS
from voxweft.viewer.pictures import TINT

IMAGE, PROBABILITY, LABELS = "image", "probability", "labels"
KINDS = (IMAGE, PROBABILITY, LABELS, UNCERTAINTY)
ORANGE = f"#{bytes(TINT).hex()}"
WIDE = {"bool": "uint8", "float16": "float32", "float64": "float32", "int64": "float32"}  # what viewers cannot take


@dataclass(frozen=True, slots=True)
class Layer:
    """One thing to look at.

    Attributes
    ----------
    name, kind
        As it is told; "image", "probability", "labels" or "uncertainty".
    levels
        Its resolution levels, the finest first.
    channel
        Which one of them is meant.
    low, high
        Values that are black and white, or nothing and full colour.
    colour
        Of a probability, "#rrggbb".
    names, colours
        Of labels, by their values.
    visible
        Whether it is shown from the first.
    """

    name: str
    kind: str
    levels: tuple[Volume, ...]
    channel: int = 0
    low: float = 0.0
    high: float = 255.0
    colour: str = ORANGE
    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, str] = field(default_factory=dict)
    visible: bool = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """What :meth:`read` gives: labels unsigned, all else what a graphics card can take."""
        name = self.levels[0].info.dtype
        if self.kind == LABELS:
            return np.dtype(name if name.startswith("uint") else "uint8" if name == "bool" else "uint64")
        return np.dtype(name if name not in WIDE and name != "uint64" else WIDE.get(name, "float32"))

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Voxels [Z, Y, X] of a level."""
        return np.asarray(self.levels[level].read(box)[self.channel].astype(self.dtype, copy=False))

    def place(self, level: int, within: Geometry) -> tuple[list[float], list[float]]:
        """Voxel size of a level, and where its first voxel's centre lies, along the axes of another volume.

        Both z y x in the unit of ``within``, from the centre of its first voxel.
        """
        own = self.levels[level].info.geometry
        ratio = METERS[own.unit] / METERS[within.unit] if {own.unit, within.unit} <= METERS.keys() else 1.0
        step = np.subtract([ratio * v for v in own.origin_zyx], within.origin_zyx)
        origin = np.array(within.direction).T @ step
        return [ratio * v for v in own.voxel_size_zyx], [float(v) for v in origin]


@dataclass(frozen=True, slots=True)
class Points:
    """Picks: voxels z y x of the output, float64 [n, 3]; and what they are called."""

    name: str
    centres: NDArray[np.float64]
    colour: str = ORANGE


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is shown of an output.

    Attributes
    ----------
    title
        The output, without what may let others in.
    geometry, shape_zyx
        Voxel size and extent of the output, in whose voxels places are told.
    layers, points
        The lowest first.
    notes
        What could not be shown, and why.
    report
        Where its report.html lies; "" where there is none.
    """

    title: str
    geometry: Geometry
    shape_zyx: Zyx
    layers: tuple[Layer, ...]
    points: tuple[Points, ...] = ()
    notes: tuple[str, ...] = ()
    report: str = ""

    def only(self, names: str) -> Shown:
        """The same with other layers switched on: their names, or the first words of them, separated by commas.

        Raises
        ------
        RequestError
            If there is none of that name.
        """
        asked = [name.strip() for name in names.split(",") if name.strip()]
        known = [layer.name for layer in self.layers]
        if unknown := [name for name in asked if not any(one.startswith(name) for one in known)]:
            raise RequestError(f"--layers {unknown[0]!r} is none of the layers: {', '.join(known)}")
        if not asked:
            return self
        layers = (replace(one, visible=any(one.name.startswith(name) for name in asked)) for one in self.layers)
        return replace(self, layers=tuple(layers))

    def place(self, at: str) -> tuple[float, float, float]:
        """A place "z,y,x" in voxels; "": the middle.

        Raises
        ------
        RequestError
            If it is none, or outside.
        """
        if not at:
            return tuple((n - 1) / 2 for n in self.shape_zyx)  # type: ignore[return-value]
        try:
            z, y, x = (float(word) for word in at.split(","))
        except ValueError:
            raise RequestError(f"--at {at!r} is no place; write z,y,x in voxels, for example 10,200,300") from None
        if not all(0 <= v < n for v, n in zip((z, y, x), self.shape_zyx, strict=True)):
            raise RequestError(f"--at {at} is outside of {self.title}, which is {self.shape_zyx} voxels (z y x)")
        return z, y, x
