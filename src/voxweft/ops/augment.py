"""Test-time augmentation: the views of a patch that are predicted and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx

if TYPE_CHECKING:
    import torch

Tta = Literal["none", "mirroring", "rotation"]


@dataclass(frozen=True, slots=True)
class View:
    """A flip and a transpose that undo themselves.

    Attributes
    ----------
    flips
        Axes that are reversed, counted from the end: -3 z, -2 y, -1 x.
    swap
        Two axes that change places, or empty.
    """

    flips: tuple[int, ...] = ()
    swap: tuple[int, ...] = ()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The view of [..., Z, Y, X]; applied twice it gives the tensor back."""
        if self.swap:
            x = x.transpose(*self.swap)
        return x.flip(self.flips) if self.flips else x


def views(tta: str, mirror_axes: Sequence[int] = (0, 1, 2), patch: Zyx | None = None) -> tuple[View, ...]:
    """The views that a kind of augmentation averages, the identity first.

    "mirroring": every subset of the mirror axes (8 for three). "rotation": the identity, z and x exchanged, z and y
    exchanged, as the scroll pipeline does (3 in all); of a square patch one plane thick (y) only z and x.

    Raises
    ------
    RequestError
        If the kind is unknown, or "rotation" meets a patch that is no cube.

    Examples
    --------
    >>> len(views("mirroring")), len(views("mirroring", (1, 2))), len(views("rotation"))
    (8, 4, 3)
    """
    match tta:
        case "none":
            return (View(),)
        case "mirroring":
            axes = sorted(a - 3 for a in mirror_axes)
            return tuple(View(flips=c) for n in range(len(axes) + 1) for c in combinations(axes, n))
        case "rotation":
            if patch and patch[1] == 1 and patch[0] == patch[2]:
                return (View(), View(swap=(-3, -1)))
            if patch and len(set(patch)) > 1:
                raise RequestError(f"--tta rotation exchanges axes and needs a cubic patch, not {patch}")
            return (View(), View(swap=(-3, -1)), View(swap=(-3, -2)))
        case _:
            raise RequestError(f"--tta {tta!r} is unknown; use none, mirroring or rotation")
