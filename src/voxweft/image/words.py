"""How results are spoken of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """What a front end calls axes, channels and voxels; for display, nothing is decided by it.

    Attributes
    ----------
    axes
        Names of z, y, x; "" for an axis of one voxel that is not spoken of.
    channels, voxels
        In the plural.

    Examples
    --------
    >>> Words(("rows", "", "columns"), "layers", "pixels").is_picture
    True
    """

    axes: tuple[str, str, str] = ("z", "y", "x")
    channels: str = "channels"
    voxels: str = "voxels"

    @property
    def is_picture(self) -> bool:
        """Whether the result is one plane, shown as a whole: one axis has no name."""
        return "" in self.axes


def counted(n: int, things: str, form: str = "{}") -> str:
    """How many of what, in the singular for one.

    >>> counted(1, "forward passes"), counted(3, "columns"), counted(1, "boxes"), counted(0, "copies")
    ('1 forward pass', '3 columns', '1 box', '0 copies')
    >>> counted(1200, "patches", "{:,}")
    '1,200 patches'
    """
    return f"{form.format(n)} {singular(things) if n == 1 else things}"


def singular(things: str) -> str:
    """One of them."""
    if things.endswith("ies"):
        return things.removesuffix("ies") + "y"
    return things.removesuffix("es" if things.endswith(("xes", "ches", "sses")) else "s")
