"""From a case to what the network wants to see, and back: axes exchanged, cropped, scaled, resampled, as nnU-Net does.

files  ->  channels  ->  axes of the plans  ->  box that is not 0  ->  [grey values]  ->  voxel size of the plans
result <-------------------- the whole grid of the files <-------------- logits, resampled by the sweep
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from voxweft.engine.events import Emit, silent
from voxweft.engine.planning import Schemes, Target
from voxweft.errors import VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.order import inverse
from voxweft.image.protocols import Volume
from voxweft.image.resampled import Resample, Standardize
from voxweft.image.views import Crop, Permute, Stack
from voxweft.model.card import ModelCard, Normalization, Resampling
from voxweft.ops.normalize import Statistics
from voxweft.runner.measure import moments_of, nonzero_box
from voxweft.runner.respaced import grids, wanted_by
from voxweft.stores import open_volume

SAME_GRID = 1e-3  # of a voxel: how far the grids of two channels may be from each other


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case as a sweep reads it.

    Attributes
    ----------
    volume
        What is swept.
    image
        The first channel on the grid of the outputs, for measurements.
    target
        Where the outputs lie over it.
    normalization
        Schemes with their numbers; empty for those of the model.
    """

    volume: Volume
    image: Volume
    target: Target
    normalization: Schemes = ()


def open_case(files: Sequence[str]) -> Volume:
    """The channels of a case as one volume.

    Raises
    ------
    VolumeError
        If one cannot be read, or their grids differ.
    """
    volumes = [open_volume(file) for file in files]
    for other in volumes[1:]:
        _require_one_grid(volumes[0].info, other.info)
    return Stack(volumes) if volumes[1:] else volumes[0]


def plain(volume: Volume, target: Target) -> Prepared:
    """A case that the network sees as it is."""
    return Prepared(volume, volume, target)


def prepare(volume: Volume, card: ModelCard, target: Target, emit: Emit = silent) -> Prepared:
    """A case as nnU-Net prepares it, by the card of one of its models.

    Raises
    ------
    VolumeError
        If the voxel sizes lead to a volume that cannot be meant.
    """
    turned = volume if card.transpose == (0, 1, 2) else Permute(card.transpose).of(volume)
    box = nonzero_box(turned, emit)
    cropped = turned if box.shape == turned.info.shape_zyx else Crop(box).of(turned)
    scaled, schemes, before, bounds = _scaled(cropped, card, emit)
    wanted = wanted_by(card.resampling, cropped.info.geometry.voxel_size_zyx)
    there, back = grids(cropped.info, wanted, card.resampling or Resampling((None, None, None)), box.start)
    shape, seen = there.shape_out, scaled
    if shape != box.shape:
        seen = Resample(there, before, bounds).of(scaled)
        schemes = _without_clipping(schemes)
    whole = turned.info
    target = replace(
        target,
        regrid=None if shape == box.shape == whole.shape_zyx else back,
        shape_zyx=whole.shape_zyx,
        geometry=whole.geometry,
        order=inverse(card.transpose),
    )
    return Prepared(seen, turned, target, schemes)


def _scaled(
    volume: Volume, card: ModelCard, emit: Emit
) -> tuple[Volume, Schemes, tuple[tuple[float, float], ...], tuple[tuple[float, float], ...]]:
    """The volume, schemes with numbers, and the bounds of its values before and after it is resampled.

    Scaling and resampling by splines may change places, but for clipping, and for a mask outside which all is 0.
    """
    n = volume.info.n_channels
    schemes: Schemes = card.normalization * n if len(card.normalization) == 1 else card.normalization
    masked = card.masked or (False,) * n
    if any(masked):
        statistics = moments_of(volume, masked=True, emit=emit)
        within = [one.scheme == "global_zscore" and here for one, here in zip(schemes, masked, strict=True)]
        known = [statistics.filled(one, c) for c, one in enumerate(schemes)]
        numbers = tuple(
            (one.mean or 0.0, one.std or 1.0) if here else (0.0, 1.0) for one, here in zip(known, within, strict=True)
        )
        ends = zip(statistics.lower, statistics.upper, numbers, strict=True)
        bounds = tuple((min(0.0, (a - mean) / std), max(0.0, (b - mean) / std)) for a, b, (mean, std) in ends)
        rest = tuple(Normalization() if here else k for k, here in zip(known, within, strict=True))
        return Standardize(numbers, tuple(within)).of(volume), rest, (), bounds
    statistics = moments_of(volume, emit=emit)
    filled = tuple(statistics.filled(scheme, c) for c, scheme in enumerate(schemes))
    limits = tuple(_limits(scheme, statistics, c) for c, scheme in enumerate(filled))
    return volume, filled, limits, limits


def _limits(scheme: Normalization, statistics: Statistics, channel: int) -> tuple[float, float]:
    """Lowest and highest value of a channel as it is resampled."""
    low, high = float(statistics.lower[channel]), float(statistics.upper[channel])
    if scheme.scheme == "ct" and scheme.lower is not None and scheme.upper is not None:
        return tuple(float(v) for v in np.clip((low, high), scheme.lower, scheme.upper))  # type: ignore[return-value]
    return low, high


def _without_clipping(schemes: Schemes) -> Schemes:
    """Of what was clipped already, as a plain z-score."""
    return tuple(Normalization("global_zscore", s.mean, s.std) if s.scheme == "ct" else s for s in schemes)


def _require_one_grid(first: VolumeInfo, other: VolumeInfo) -> None:
    a, b = first.geometry, other.geometry
    corners = [Box.of(first.shape_zyx).start, tuple(n - 1 for n in first.shape_zyx)]
    off = max(
        abs(p - q) / min(a.voxel_size_zyx)
        for corner in corners
        for p, q in zip(a.world(corner), b.world(corner), strict=True)
    )
    if first.shape_zyx != other.shape_zyx or off > SAME_GRID * max(first.shape_zyx):
        raise VolumeError(
            f"{other.url} lies on another grid than {first.url} ({other.shape_zyx} and {first.shape_zyx} voxels, up to "
            f"{off:.3g} voxels apart); channels of a case share one"
        )
