"""The maps that a network returns."""

from __future__ import annotations

from dataclasses import dataclass

from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx

FIELDS = ("normals", "raw")
"""What is no class: unit vectors of three channels, x y z, and numbers of any kind."""
ACTIVATIONS = ("softmax", "sigmoid", "none", *FIELDS)

SEMANTIC, CENTRES, OFFSETS = "sem_logits", "ctr_hmp", "offsets"
"""The heads of panoptic networks, of whose maps slices become objects (Cheng et al. 2020, arXiv:1911.10194)."""
COARSE = 4  # pixels of such a network's input per pixel of its maps of centres and offsets


@dataclass(frozen=True, slots=True)
class Head:
    """One map of a network that returns several.

    Attributes
    ----------
    name
        Its key where the network returns a dictionary; the name of an ONNX output.
    n_channels
        Channels of the map.
    activation
        "softmax" (exclusive classes), "sigmoid" (each channel by itself), "none" (probabilities already), "normals"
        (components x, y and z of vectors along the axes of the volume, which are brought to length one) or "raw".
    stacked
        Whether its channels are planes of a volume, as layers are.
    scale_zyx
        Voxels of the patch along z y x that one voxel of the map stands for: (1, 2, 2) is half resolution in y and x.

    Raises
    ------
    ModelError
        If a value is impossible.

    Examples
    --------
    >>> Head("edges", 1, "sigmoid", (1, 2, 2)).scale_zyx
    (1, 2, 2)
    >>> Head("edges", 1, "softmax")
    Traceback (most recent call last):
    voxweft.errors.ModelError: head 'edges': a softmax over one channel is always 1; use 'sigmoid'
    """

    name: str
    n_channels: int
    activation: str
    scale_zyx: Zyx = (1, 1, 1)
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"head {self.name!r}: activation {self.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}"
            )
        if self.n_channels < 1 or min(self.scale_zyx) < 1:
            raise ModelError(
                f"head {self.name!r}: {self.n_channels} channels at scale {self.scale_zyx}; both must be 1 or more"
            )
        if self.n_channels == 1 and self.activation == "softmax" and self.name:
            raise ModelError(f"head {self.name!r}: a softmax over one channel is always 1; use 'sigmoid'")
        if self.activation == "normals" and self.n_channels != 3:
            raise ModelError(f"head {self.name!r}: normals have 3 channels, x y z, not {self.n_channels}")


def channel_ranges(heads: tuple[Head, ...]) -> tuple[tuple[int, int], ...]:
    """First channel and end of every head, where all of them are put one after the other.

    >>> channel_ranges((Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid")))
    ((0, 2), (2, 3))
    """
    ends = [sum(h.n_channels for h in heads[: n + 1]) for n in range(len(heads))]
    return tuple((end - head.n_channels, end) for head, end in zip(heads, ends, strict=True))
