"""A box of voxels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from voxweft.errors import RequestError

Zyx = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels, ``start <= voxel < stop``, axis order z y x.

        start (2, 1)      x ->
          +-------+      0 1 2 3 4
        y |  box  |    2   # # #
        | +-------+    3   # # #     Box((0, 2, 1), (1, 4, 4)), shape (1, 2, 3)
        v     stop (4, 4)

    Examples
    --------
    >>> box = Box((0, 2, 1), (1, 4, 4))
    >>> box.shape, box.n_voxels
    ((1, 2, 3), 6)
    >>> box & Box((0, 3, 0), (9, 9, 2))
    Box(start=(0, 3, 1), stop=(1, 4, 2))
    >>> str(box)
    '0:1,2:4,1:4'
    """

    start: Zyx
    stop: Zyx

    @classmethod
    def of(cls, shape: Zyx) -> Box:
        """The box at the origin with this shape."""
        return cls((0, 0, 0), shape)

    @classmethod
    def parse(cls, text: str, shape: Zyx) -> Box:
        """Read ``z0:z1,y0:y1,x0:x1``; an omitted bound is the volume's.

        Raises
        ------
        RequestError
            If the text is no box, or the box is empty or leaves the volume.

        Examples
        --------
        >>> Box.parse("10:20,:,5:", (30, 40, 50))
        Box(start=(10, 0, 5), stop=(20, 40, 50))
        """
        spans = [re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", part) for part in text.split(",")]
        if len(spans) != 3 or not all(spans):
            raise RequestError(f"--bbox {text!r} is not a box; write z0:z1,y0:y1,x0:x1, for example 0:128,256:512,:")
        start = tuple(int(span[1] or 0) for span in spans if span)
        stop = tuple(int(span[2] or size) for span, size in zip(spans, shape, strict=True) if span)
        if any(a >= b or b > size for a, b, size in zip(start, stop, shape, strict=True)):
            raise RequestError(f"--bbox {text!r} is empty or leaves the volume of {shape} (z, y, x) voxels")
        return cls(start, stop)  # type: ignore[arg-type]

    @property
    def shape(self) -> Zyx:
        """Extent in voxels, z y x; 0 where empty."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return max(d - a, 0), max(e - b, 0), max(f - c, 0)

    @property
    def n_voxels(self) -> int:
        """Number of voxels inside."""
        z, y, x = self.shape
        return z * y * x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Three slices that take the box from an array in z y x order."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def __and__(self, other: Box) -> Box:
        """The common box; empty (``n_voxels == 0``) where the two do not meet."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(max, start, map(min, self.stop, other.stop)))
        return Box(start, stop)  # type: ignore[arg-type]

    def __contains__(self, other: object) -> bool:
        """Whether another box lies wholly inside."""
        return isinstance(other, Box) and (self & other) == other

    def shift(self, by: Zyx, sign: int = 1) -> Box:
        """The same box moved by ``sign * by`` voxels."""
        z, y, x = (sign * b for b in by)
        (a, b, c), (d, e, f) = self.start, self.stop
        return Box((a + z, b + y, c + x), (d + z, e + y, f + x))

    def cells(self, size: Zyx) -> Iterator[Box]:
        """The cells of a regular grid from voxel 0 that meet the box, whole ones, x fastest.

        Examples
        --------
        >>> [str(cell) for cell in Box((0, 0, 3), (1, 1, 9)).cells((1, 1, 4))]
        ['0:1,0:1,0:4', '0:1,0:1,4:8', '0:1,0:1,8:12']
        """
        ranges = (range(a // n * n, b, n) for a, b, n in zip(self.start, self.stop, size, strict=True))
        for start in product(*ranges):
            yield Box(start, tuple(a + n for a, n in zip(start, size, strict=True)))  # type: ignore[arg-type]

    def indices(self, size: Zyx) -> Iterator[Zyx]:
        """The indices z y x of those cells.

        Examples
        --------
        >>> list(Box((0, 0, 3), (1, 1, 9)).indices((1, 1, 4)))
        [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
        """
        ranges = (range(a // n, -(-b // n)) for a, b, n in zip(self.start, self.stop, size, strict=True))
        return product(*ranges)  # type: ignore[return-value]

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))
