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
