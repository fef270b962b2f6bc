"""The voxel size of training, held against that of a volume."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Protocol

from voxweft.model.card import ModelCard

TOLERATED = 1.2  # times as large, or as small
NANOMETERS = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "centimeter": 1e7, "meter": 1e9}
ADVICE = "expect a worse result, or take another --level or resample the volume"
RESAMPLE = (
    "expect a worse result; voxweft run --resample runs at the voxel size of the training, or take another --level"
)


class VoxelSize(Protocol):
    """Edge lengths of a voxel and their unit, as :class:`voxweft.image.Geometry` has them."""

    @property
    def voxel_size_zyx(self) -> tuple[float, float, float]:
        """Edge lengths, in ``unit``."""

    @property
    def unit(self) -> str:
        """Name of the unit, or "" where it is not known."""


@dataclass(frozen=True, slots=True)
class Compared:
    """How long the sides of a volume's voxels are, in those of the training.

    Attributes
    ----------
    times_zyx
        Found / trained, along each axis.
    absolute
        Whether these are ratios of lengths; else a common factor may be no more than another unit.
    """

    times_zyx: tuple[float, float, float]
    absolute: bool


def compared(card: ModelCard, geometry: VoxelSize) -> Compared | None:
    """The voxels of a volume against those of the training; None where one of both is not known.

    Sizes are compared as lengths where the units of both are known, and as plain numbers where the model's is not
    and the volume's is not either or is the millimeter: nnU-Net's plans have no unit, and most are in millimeters.
    In all other cases only the proportions of the axes are compared, to the axis in the middle. A volume of size 1
    without a unit says nothing of its voxels.
    """
    trained, found = card.spacing_zyx, geometry.voxel_size_zyx
    unsaid = not geometry.unit and found == (1.0, 1.0, 1.0)
    if trained is None or unsaid or min(*trained, *found) <= 0:
        return None
    factors, absolute = [b / a for a, b in zip(trained, found, strict=True)], True
    if geometry.unit in NANOMETERS and card.spacing_unit in NANOMETERS:
        unit = NANOMETERS[geometry.unit] / NANOMETERS[card.spacing_unit]
    elif card.spacing_unit or geometry.unit not in ("", "millimeter"):
        unit, absolute = 1 / median(factors), False
    else:
        unit = 1.0
    z, y, x = (factor * unit for factor in factors)
    return Compared((z, y, x), absolute)


def spacing_note(card: ModelCard, geometry: VoxelSize) -> str:
    """A sentence where a volume's voxels differ by over 20 % from those of the training along an axis, else "".

    Examples
    --------
    >>> from voxweft.image import Geometry
    >>> card = ModelCard("net.pt2", "torch.export", "", None, spacing_zyx=(2.0, 1.0, 1.0), spacing_unit="micrometer")
    >>> spacing_note(card, Geometry((2000.0, 1000.0, 1000.0), "nanometer"))
    ''
    >>> spacing_note(card, Geometry((1.0, 1.0, 1.0), "micrometer")).partition(":")[0]
    'a voxel is 0.5 times as long in z (1) as at training (2)'
    """
    sizes = compared(card, geometry)
    if sizes is None or card.spacing_zyx is None:
        return ""
    alike: dict[str, list[str]] = {}
    axes = zip("zyx", card.spacing_zyx, geometry.voxel_size_zyx, sizes.times_zyx, strict=True)
    for axis, trained, found, times in axes:
        if not 1 / TOLERATED <= times <= TOLERATED:
            lengths = f"{times:.3g} times as long in {{}} ({found:.4g}) as at training ({trained:.4g})"
            alike.setdefault(lengths, []).append(axis)
    differ = [lengths.format(", ".join(named)) for lengths, named in alike.items()]
    if not differ:
        return ""
    units = f"{geometry.unit or 'no unit'} here, {card.spacing_unit or 'no unit'} at training"
    start = "a voxel is " if sizes.absolute else "compared with its other sides, a voxel is "
    return f"{start}{', '.join(differ)}: {RESAMPLE if sizes.absolute else ADVICE} (units: {units})"
