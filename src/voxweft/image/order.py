"""Axes in another order: permutations of z, y, x, always read as ``numpy.transpose`` reads them."""

from __future__ import annotations

from typing import TypeVar

from voxweft.errors import RequestError
from voxweft.geometry.box import Box

Order = tuple[int, int, int]
T = TypeVar("T")

AS_IT_IS: Order = (0, 1, 2)


def check_order(order: Order) -> None:
    """Refuse what is no permutation of 0, 1, 2.

    Raises
    ------
    RequestError
        Naming the order.
    """
    if sorted(order) != [0, 1, 2]:
        raise RequestError(f"{order} is no order of three axes; use each of 0 (z), 1 (y), 2 (x) once")


def inverse(order: Order) -> Order:
    """The order that undoes another.

    >>> inverse((2, 0, 1))
    (1, 2, 0)
    """
    return order.index(0), order.index(1), order.index(2)


def permute(zyx: tuple[T, T, T], order: Order) -> tuple[T, T, T]:
    """Three values in another order: the first is what was at ``order[0]``.

    >>> permute(("z", "y", "x"), (2, 0, 1))
    ('x', 'z', 'y')
    """
    return zyx[order[0]], zyx[order[1]], zyx[order[2]]


def permute_box(box: Box, order: Order) -> Box:
    """The box with its axes in another order."""
    return Box(permute(box.start, order), permute(box.stop, order))
