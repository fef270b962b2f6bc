"""Test-time augmentation: the views of a patch that are predicted and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class View:
    """An exchange of two axes, and then a flip.

    Attributes
    ----------
    flips
        Axes that are reversed, counted from the end: -3 z, -2 y, -1 x.
    swap
        Two axes that change places, or empty.
    """

    flips: tuple[int, ...] = ()
    swap: tuple[int, ...] = ()

    @property
    def inverse(self) -> View:
        """The view that undoes it.

        >>> View(flips=(-2,), swap=(-2, -1)).inverse
        View(flips=(-1,), swap=(-2, -1))
        """
        turned = dict(zip(self.swap, reversed(self.swap), strict=True))
        return View(tuple(turned.get(a, a) for a in self.flips), self.swap)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The view of [..., Z, Y, X]; ``inverse`` gives the tensor back."""
        if self.swap:
            x = x.transpose(*self.swap)
        return x.flip(self.flips) if self.flips else x

    def of_vectors(self, x: torch.Tensor, first: Sequence[int]) -> torch.Tensor:
        """The view of [B, C, Z, Y, X], in which three channels from each of ``first`` on are x, y and z of vectors.

        They turn with the image: components change places where axes do, and change sign where an axis is reversed.
        """
        import torch

        x = self(x)
        if not first:
            return x
        source, sign = list(range(x.shape[1])), [1.0] * x.shape[1]
        turned = dict(zip(self.swap, reversed(self.swap), strict=True))
        for start in first:
            for axis in (-3, -2, -1):
                channel = start - 1 - axis
                source[channel] = start - 1 - turned.get(axis, axis)
                sign[channel] = -1.0 if axis in self.flips else 1.0
        return torch.stack([x[:, n] if s > 0 else -x[:, n] for n, s in zip(source, sign, strict=True)], dim=1)


TURNS = (  # in the order of octopi; a missing wedge along z forbids to exchange z for another axis
    View(),
    View(flips=(-2, -1)),
    View(flips=(-3,)),
    View(flips=(-1,)),
    View(flips=(-2,)),
    View(flips=(-2,), swap=(-2, -1)),
    View(flips=(-1,), swap=(-2, -1)),
    View(flips=(-3, -2, -1)),
)
"""The identity, half a turn in y x, flips of z, x and y, a quarter turn and three, all three flips."""


def views(tta: str, mirror_axes: Sequence[int] = (0, 1, 2), patch: Zyx | None = None) -> tuple[View, ...]:
    """The views that a kind of augmentation averages, the identity first.

    "mirroring": every subset of the mirror axes (8 for three). "rotation": the identity, z and x exchanged, z and y
    exchanged, as the scroll pipeline does (3 in all); of a square patch one plane thick (y) only z and x. "turns:N":
    the first N of ``TURNS``.

    Raises
    ------
    RequestError
        If the kind is unknown, or axes of a patch are exchanged that are not equally long.

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
        case _ if (n := tta.removeprefix("turns:")).isdigit() and 1 <= int(n) <= len(TURNS):
            found = TURNS[: int(n)]
            if patch and patch[1] != patch[2] and any(view.swap for view in found):
                raise RequestError(f"quarter turns exchange y and x and need a square patch, not {patch}")
            return found
        case _:
            raise RequestError(f"--tta {tta!r} is unknown; use none, mirroring, rotation or turns:1 to turns:8")
