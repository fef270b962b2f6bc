"""How objects are shown: in notebooks by HTML that the package has drawn by its viewer, and counted in words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

_pages: list[Callable[[Any], str]] = []


def draw_with(page: Callable[[Any], str]) -> None:
    """Draw all objects with a function of them that gives HTML."""
    _pages[:] = [page]


class Shown:
    """An object that has a page in a notebook; one that cannot be drawn is shown as its ``repr``."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """HTML for a notebook; None where there is none."""
        with suppress(Exception):  # to look at an object is never an error
            return _pages[0](self)
        return None


def counted(n: int, things: str, form: str = "{}") -> str:
    """How many of what, in the singular for one.

    >>> counted(1, "forward passes"), counted(3, "columns"), counted(1, "boxes"), counted(0, "copies")
    ('1 forward pass', '3 columns', '1 box', '0 copies')
    >>> counted(1, "bands of rows"), counted(1200, "patches", "{:,}")
    ('1 band of rows', '1,200 patches')
    """
    return f"{form.format(n)} {singular(things) if n == 1 else things}"


def singular(things: str) -> str:
    """One of them: a band of rows, a patch, a copy."""
    name, of, rest = things.partition(" of ")
    if name.endswith("ies"):
        return name.removesuffix("ies") + "y" + of + rest
    return name.removesuffix("es" if name.endswith(("xes", "ches", "sses")) else "s") + of + rest
