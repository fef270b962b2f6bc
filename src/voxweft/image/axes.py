"""From the axes that a file has to [C, Z, Y, X]: by their names where it names them, never by a guess.

stored         t  c  z  y  x   of shape (2, 3, 40, 512, 512)
--time 1       1  :  :  :  :
read           [3, 40, 512, 512]

stored         x  y  z                 read transposed: [1, z, y, x]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError
from voxweft.geometry.box import Box

T = TypeVar("T")

NAMES = {
    "t": ("t", "time", "frame", "frames"),
    "c": ("c", "channel", "channels", "s", "sample", "samples"),
    "z": ("z", "depth", "plane", "slice"),
    "y": ("y", "height", "row", "rows"),
    "x": ("x", "width", "column", "columns", "col"),
}
LETTERS = {name: letter for letter, names in NAMES.items() for name in names}
WORDS = {"t": "time points", "c": "channels"}


@dataclass(frozen=True, slots=True)
class Select:
    """Which part of a file with more axes than a volume has is meant; None where nobody said.

    Attributes
    ----------
    channel, time
        Index on that axis.
    series
        Which of several images in one file.
    """

    channel: int | None = None
    time: int | None = None
    series: int | None = None

    @classmethod
    def of(cls, channel: int, time: int, series: int) -> Select:
        """As options say it: -1 where nobody said."""
        return cls(*(None if n < 0 else n for n in (channel, time, series)))


@dataclass(frozen=True, slots=True)
class Axes:
    """What each stored axis is.

    Attributes
    ----------
    letters
        "c", "z", "y", "x" or "t", or "" for an axis of extent 1 that is none of them.
    fixed
        The index that is read of an axis, or None for all of it.

    Examples
    --------
    >>> axes = Axes.of(("time", "c", "z", "y", "x"), (2, 3, 4, 5, 6), "cells.tif", Select(time=1))
    >>> axes.n_channels((2, 3, 4, 5, 6)), axes.pick((2, 3, 4, 5, 6)), axes.index(Box((0, 1, 2), (4, 5, 6)))[0]
    (3, (4, 5, 6), 1)
    >>> Axes.of(("t", "z", "y", "x"), (2, 4, 5, 6), "cells.tif")
    Traceback (most recent call last):
    voxweft.errors.VolumeError: cells.tif has the axes t, z, y, x with 2 time points; choose one with --time
    """

    letters: tuple[str, ...]
    fixed: tuple[int | None, ...]

    @classmethod
    def of(cls, names: Sequence[str | None], shape: Sequence[int], url: str, select: Select | None = None) -> Axes:
        """The axes of a shape by their names; z, y, x and c before them where no name is known.

        Raises
        ------
        VolumeError
            If the names are not those of a volume, or a selection is missing, or there is nothing to select.
        """
        select = select or Select()
        known = [LETTERS.get(str(name).lower(), "") for name in names]
        if not any(known):  # such as dim_0, dim_1, dim_2
            names = known = list("czyx")[-len(shape) :] if len(shape) in (3, 4) else []
        told = ", ".join(str(n) for n in names) or "without names"
        if len(known) != len(shape):
            raise VolumeError(f"{url} has {len(shape)} dimensions, its axes are {told}; a volume has z, y, x")
        what = f"{url} has the axes {told}"
        if any(not letter and n != 1 for letter, n in zip(known, shape, strict=True)):
            raise VolumeError(f"{what}; voxweft needs z, y, x, and at most c and t beside")
        if any(known.count(letter) > 1 for letter in NAMES) or not {"z", "y", "x"} <= set(known):
            raise VolumeError(f"{what}; voxweft needs z, y, x once each, and at most c and t beside")
        chosen = {"t": select.time, "c": select.channel}
        fixed: list[int | None] = []
        for letter, n in zip(known, shape, strict=True):
            index = chosen.pop(letter, None)
            if letter == "t" and n > 1 and index is None:
                raise VolumeError(f"{what} with {n} time points; choose one with --time")
            if index is not None and not 0 <= index < n:
                option = "--time" if letter == "t" else "--channel"
                raise VolumeError(f"{what} with {n} {WORDS[letter]}; {option} {index} must be 0 to {n - 1}")
            fixed.append(index if index is not None else 0 if letter in ("", "t") else None)
        if left := [WORDS[letter] for letter, index in chosen.items() if index]:
            raise VolumeError(f"{what}; there are no {' or '.join(left)} to choose from")
        return cls(tuple(known), tuple(fixed))

    def pick(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Of one value an axis those of z, y, x."""
        z, y, x = (values[self.letters.index(letter)] for letter in "zyx")
        return z, y, x

    def n_channels(self, shape: Sequence[int]) -> int:
        """Channels that are read."""
        stored = zip(self.letters, self.fixed, shape, strict=True)
        return next((n for letter, index, n in stored if letter == "c" and index is None), 1)

    def index(self, box: Box) -> tuple[int | slice, ...]:
        """What to take of the stored array for a box of voxels."""
        places = dict(zip("zyx", box.slices, strict=True))
        return tuple(
            places.get(letter, slice(None)) if index is None else index
            for letter, index in zip(self.letters, self.fixed, strict=True)
        )

    def arranged(self, values: NDArray[Any]) -> NDArray[Any]:
        """[C, Z, Y, X] of what :meth:`index` took; bool as uint8."""
        left = [letter for letter, index in zip(self.letters, self.fixed, strict=True) if index is None]
        values = values.transpose([left.index(letter) for letter in "czyx" if letter in left])
        values = values if "c" in left else values[np.newaxis]
        return values.astype(np.uint8) if values.dtype.kind == "b" else values
