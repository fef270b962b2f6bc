"""What notebooks show of an object: HTML that another floor of the house draws."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

PAGE = "voxweft.viewer.notebook"


class Shown:
    """An object that has a page in a notebook; one that cannot be drawn is shown as its ``repr``."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """HTML for a notebook; None where there is none."""
        with suppress(Exception):  # to look at an object is never an error
            return str(import_module(PAGE).html_of(self))
        return None
