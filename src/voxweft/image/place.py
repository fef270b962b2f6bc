"""Where voxels lie in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from voxweft.geometry.box import Zyx
from voxweft.image.order import Order, permute

Three = tuple[float, float, float]
Matrix = tuple[Three, Three, Three]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the voxels lie in the world, axis order z y x throughout.

        world = origin + direction @ (voxel_size * index)

                        step along    z  y  x  of the array
                                    ( .  .  . )  z
        direction, by rows:         ( .  .  . )  y  of the world
                                    ( .  .  . )  x

    Attributes
    ----------
    voxel_size_zyx
        Edge lengths of a voxel along the axes of the array, in ``unit``.
    unit
        A UDUNITS name as OME-Zarr uses ("nanometer", "micrometer", "millimeter", "angstrom"), or "" where unknown.
    origin_zyx
        Position of the centre of voxel (0, 0, 0), in ``unit``.
    direction
        Rows are the axes z y x of the world, columns those of the array: column k is the direction, of length 1, in
        which index k grows.

    Examples
    --------
    >>> place = Geometry((2.0, 1.0, 1.0), "micrometer", (10.0, 0.0, 0.0))
    >>> place.world((3, 0, 5))
    (16.0, 0.0, 5.0)
    >>> place.permuted((2, 1, 0)).world((5, 0, 3))
    (16.0, 0.0, 5.0)
    """

    voxel_size_zyx: Three = (1.0, 1.0, 1.0)
    unit: str = ""
    origin_zyx: Three = (0.0, 0.0, 0.0)
    direction: Matrix = IDENTITY

    def world(self, index_zyx: Sequence[float]) -> Three:
        """Position of the centre of a voxel, z y x in ``unit``; fractions of a voxel are allowed."""
        steps = [size * index for size, index in zip(self.voxel_size_zyx, index_zyx, strict=True)]
        z, y, x = (
            origin + sum(along * step for along, step in zip(row, steps, strict=True))
            for origin, row in zip(self.origin_zyx, self.direction, strict=True)
        )
        return z, y, x

    def cropped(self, start: Zyx) -> Geometry:
        """That of the box that begins at voxel ``start``."""
        return replace(self, origin_zyx=self.world(start))

    def permuted(self, order: Order) -> Geometry:
        """That of the array with its axes in another order; every voxel stays where it is."""
        z, y, x = (permute(row, order) for row in self.direction)
        return replace(self, voxel_size_zyx=permute(self.voxel_size_zyx, order), direction=(z, y, x))

    def flipped(self, axes: Sequence[int], shape_zyx: Zyx) -> Geometry:
        """That of the array of this shape with axes reversed; every voxel stays where it is."""
        last = [n - 1 if axis in axes else 0 for axis, n in enumerate(shape_zyx)]
        z, y, x = (_flip(row, axes) for row in self.direction)
        return replace(self, origin_zyx=self.world(last), direction=(z, y, x))

    def coarser(self, factor_zyx: Zyx) -> Geometry:
        """That of voxels which each stand for a block of so many; they lie at the centre of their block."""
        z, y, x = (size * k for size, k in zip(self.voxel_size_zyx, factor_zyx, strict=True))
        middle = self.world([(k - 1) / 2 for k in factor_zyx])
        return replace(self, voxel_size_zyx=(z, y, x), origin_zyx=middle)


def _flip(row: Three, axes: Sequence[int]) -> Three:
    """A row of a direction with the signs of some columns changed (0 stays 0, without a sign)."""
    z, y, x = (0.0 - value if axis in axes else value for axis, value in enumerate(row))
    return z, y, x
