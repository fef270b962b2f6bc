"""A volume at the voxel size of the training, and the result back on its own grid.

volume     10 voxels of 0.75 mm
swept       5 voxels of 1.5 mm      splines, as the model says; else linear
result     10 voxels of 0.75 mm     logits resampled in the sweep, then finished
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxweft.engine.planning import Target
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Zyx
from voxweft.geometry.regrid import Regrid
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.image.resampled import Resample
from voxweft.model.card import ModelCard, Resampling
from voxweft.model.spacing import compared

Size = tuple[float, float, float]
ANISOTROPIC = 3.0  # a side so many times as long as the shortest: its axis is resampled apart
MOST_VOXELS = 1 << 34  # after resampling: a voxel size that leads to more is a mistake
LINEAR = Resampling((None, None, None), order=1, back=1)


def respaced(volume: Volume, cards: Sequence[ModelCard]) -> tuple[Volume, Target]:
    """The volume as its models were trained, and where their outputs lie: on its own grid.

    Parameters
    ----------
    volume
        [C, Z, Y, X], with a voxel size.
    cards
        Of the models of an ensemble; each states the same voxel size.

    Raises
    ------
    RequestError
        If a voxel size is not known, units cannot be compared, or models differ.
    """
    info, found = volume.info, {compared(card, volume.info.geometry) for card in cards}
    first = next(iter(found))
    if first is None or not first.absolute:
        raise RequestError(
            f"--resample needs the voxel sizes of both, in units that can be compared; {info.url} says "
            f"{_in_words(info.geometry.voxel_size_zyx)} {info.geometry.unit or 'without a unit'}, {cards[0].path} "
            f"{_in_words(cards[0].spacing_zyx or ())} {cards[0].spacing_unit or 'without a unit'}.",
            "Resample the volume yourself, or leave --resample out.",
        )
    if len(found) > 1:
        raise RequestError("--resample: the models of the ensemble were trained at different voxel sizes")
    own = info.geometry.voxel_size_zyx
    wanted: Size = tuple(side / times for side, times in zip(own, first.times_zyx, strict=True))  # type: ignore[assignment]
    there, back = grids(info, wanted, cards[0].resampling or LINEAR)
    if there.shape_out == info.shape_zyx:
        return volume, Target()
    kind, bounds = np.dtype(info.dtype), tuple[tuple[float, float], ...]()
    if kind.kind in "iu":
        bounds = ((float(np.iinfo(kind).min), float(np.iinfo(kind).max)),) * info.n_channels
    target = Target(regrid=back, shape_zyx=info.shape_zyx, geometry=info.geometry)
    return Resample(there, bounds=bounds).of(volume), target


def grids(info: VolumeInfo, wanted: Size, rules: Resampling, offset: Zyx = (0, 0, 0)) -> tuple[Regrid, Regrid]:
    """The maps from a volume to voxels of another size, and back into an array where it begins at ``offset``.

    Raises
    ------
    VolumeError
        If the voxel sizes lead to a volume that cannot be meant.
    """
    own = info.geometry.voxel_size_zyx
    shape: Zyx = tuple(  # type: ignore[assignment]
        max(1, round(a / b * n)) for n, a, b in zip(info.shape_zyx, own, wanted, strict=True)
    )
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        raise VolumeError(
            f"{info.url}: voxels of {_in_words(own)} {info.geometry.unit} would become {shape} voxels of "
            f"{_in_words(wanted)}; its voxel size cannot be right"
        )
    apart = _apart(rules.apart, own, wanted)
    there = Regrid.of(info.shape_zyx, shape, rules.order, apart=apart, order_apart=rules.order_apart)
    apart = _apart(rules.apart, wanted, own)
    back = Regrid.of(shape, info.shape_zyx, rules.back, offset=offset, apart=apart, order_apart=rules.back_apart)
    return there, back


def wanted_by(rules: Resampling | None, own: Size) -> Size:
    """The voxel size that a network wants; where it wants none of an axis, that of the volume."""
    spacing = rules.spacing_zyx if rules else (None, None, None)
    z, y, x = (b if a is None else a for a, b in zip(spacing, own, strict=True))
    return z, y, x


def _apart(asked: bool | None, old: Size, new: Size) -> int | None:
    """The axis that is resampled apart: that of the longest voxel side where it is 3 times as long as the shortest."""
    coarse = next((s for s in (old, new) if max(s) / min(s) > ANISOTROPIC), None) if asked is None else old
    if not asked and (asked is not None or coarse is None):
        return None
    longest = [axis for axis, side in enumerate(coarse or old) if side == max(coarse or old)]
    return longest[0] if len(longest) == 1 else None


def _in_words(sizes: Sequence[float]) -> str:
    return " x ".join(f"{s:g}" for s in sizes) or "nothing"
