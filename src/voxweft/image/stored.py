"""Where a volume stores anything at all."""

from __future__ import annotations

from dataclasses import dataclass

from voxweft.geometry.box import Box, Zyx


@dataclass(frozen=True, slots=True)
class StoredBoxes:
    """The boxes of a regular grid that are stored: ``places`` are their indices z y x, ``size_zyx`` is their size.

    Examples
    --------
    >>> stored = StoredBoxes((10, 10, 10), frozenset({(0, 2, 0)}))
    >>> stored.meets(Box((5, 15, 5), (6, 21, 6))), stored.meets(Box((0, 0, 0), (30, 20, 30)))
    (True, False)
    """

    size_zyx: Zyx
    places: frozenset[Zyx]

    def meets(self, box: Box) -> bool:
        """Whether any of them meets a box."""
        return any(index in self.places for index in box.indices(self.size_zyx))
