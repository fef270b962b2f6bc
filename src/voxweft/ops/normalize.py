"""Scaling of intensities before the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.model.card import Normalization

if TYPE_CHECKING:
    import torch

FLOOR = 1e-8
PIECE = 1 << 15  # values that are squared at once; so few stay in the cache
FLOOR_OF_MAD = 1e-6
MAD_TO_STD = 1.4826  # of a normal distribution
BY_VOXEL = ("none", "ct", "global_zscore", "global_minmax")  # every voxel by itself: all channels at once
TOGETHER = (*BY_VOXEL, "robust_mad")  # also: one statistic of all channels, which are layers of one volume


def normalize(patch: torch.Tensor, schemes: Sequence[Normalization]) -> None:
    """Scale a patch in place by the formulas of :class:`~voxweft.model.card.Normalization`.

    The same voxels give the same bits wherever the patch lies and for any number of threads: statistics are summed in
    float64 in a fixed order.

    Parameters
    ----------
    patch
        float32 [C, Z, Y, X], the valid voxels only (no padding).
    schemes
        One per channel, or one for all; volume-wide schemes have their numbers filled in.
    """
    if len(schemes) == 1 and schemes[0].scheme in TOGETHER:
        _normalize_channel(patch, schemes[0])
        return
    for c in range(patch.shape[0]):
        _normalize_channel(patch[c], schemes[c % len(schemes)])


def _normalize_channel(x: torch.Tensor, scheme: Normalization) -> None:
    match scheme.scheme:
        case "none":
            return
        case "ct":
            x.clamp_(scheme.lower, scheme.upper)
            shift, spread = scheme.mean, scheme.std
        case "global_zscore":
            shift, spread = scheme.mean, scheme.std
        case "global_minmax":
            shift, spread = scheme.lower, _difference(scheme)
        case _ if x.device.type != "cpu":
            normalize_there(x, scheme)
            return
        case "percentile_minmax":
            lower, upper = (float(v) for v in np.percentile(x.numpy(), (1.0, 99.0)))
            x.clamp_(lower, upper)
            shift, spread = lower, upper - lower
        case "robust_mad":
            shift, spread = _robust(x, scheme.percentiles)
        case "instance_minmax":
            shift = float(x.min())
            spread = float(x.max()) - shift
        case _:
            shift, spread = _moments(x)
    x.sub_(shift or 0.0).mul_(1.0 / max(spread or 0.0, FLOOR))


def normalize_there(x: torch.Tensor, scheme: Normalization) -> None:
    """The schemes of a patch by itself, on an accelerator: statistics stay there, so that nobody waits for them."""
    import torch

    wide = x.double()
    match scheme.scheme:
        case "percentile_minmax":
            shift, upper = _percentiles(x, (1.0, 99.0))
            x.clamp_(shift.float(), upper.float())
            spread = upper - shift
        case "robust_mad":
            lower, upper = _percentiles(x, scheme.percentiles)
            x.clamp_(lower.float(), upper.float())
            shift = _percentiles(x, (50.0,))[0]
            spread = MAD_TO_STD * _percentiles((x - shift.float()).abs(), (50.0,))[0]
            for other in (wide.std(correction=0), (upper - lower) / 2, torch.ones_like(spread)):
                spread = torch.where(spread >= FLOOR_OF_MAD, spread, other)
        case "instance_minmax":
            shift, upper = x.min().double(), x.max().double()
            spread = upper - shift
        case _:
            shift, spread = wide.mean(), wide.std(correction=0)
    x.sub_(shift).mul_(1.0 / spread.clamp(min=FLOOR))


def _percentiles(x: torch.Tensor, wanted: Sequence[float]) -> list[torch.Tensor]:
    """Percentiles by linear interpolation, float64, on the device of ``x``."""
    values = x.flatten().sort().values
    found = []
    for percent in wanted:
        place = percent / 100 * (len(values) - 1)
        first = int(place)
        low, high = values[first].double(), values[min(first + 1, len(values) - 1)].double()
        found.append(low + (high - low) * (place - first))
    return found


def _difference(scheme: Normalization) -> float:
    return (scheme.upper or 0.0) - (scheme.lower or 0.0)


def _robust(x: torch.Tensor, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Clip to the percentiles; median, and what the median distance from it says of the standard deviation.

    Where half of the voxels are alike, the standard deviation before clipping counts, or else half the distance of the
    percentiles, or else 1 (villa, ``image_proc/intensity/normalization.py``).
    """
    values = x.numpy().reshape(-1)
    deviation = float(values.std(dtype=np.float64))
    lower, upper = (float(v) for v in np.percentile(values, percentiles))
    x.clamp_(lower, upper)
    values = np.clip(values, np.float32(lower), np.float32(upper))
    middle = float(np.median(values))
    scale = MAD_TO_STD * float(np.median(np.abs(values - np.float32(middle))))
    return middle, next((s for s in (scale, deviation, (upper - lower) / 2) if s >= FLOOR_OF_MAD), 1.0)


def _moments(x: torch.Tensor) -> tuple[float, float]:
    """Mean and population standard deviation in float64."""
    values = x.numpy()  # numpy sums in one fixed order; torch's order depends on the number of threads
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def moments(block: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Count, mean, sum of squared differences from it, minimum and maximum of each channel, in float64.

    Parameters
    ----------
    block
        [C, Z, Y, X] of any real dtype; values that are not finite count as 0.

    Returns
    -------
    dict
        A table of one line: ``count`` int64 [1], the others float64 [1, C]; :class:`Statistics` joins lines.
    """
    values = block.reshape(block.shape[0], -1)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values, 0)
    n = values.shape[1]
    mean = values.mean(axis=1, dtype=np.float64)
    if values.flags.c_contiguous:
        m2 = np.array([_squares(row, middle) for row, middle in zip(values, mean, strict=True)]) / n * n
    else:
        m2 = values.var(axis=1, dtype=np.float64) * n
    found = {"mean": mean, "m2": m2, "lower": values.min(axis=1), "upper": values.max(axis=1)}
    return {"count": np.array([n])} | {name: one.astype(np.float64)[None] for name, one in found.items()}


def _squares(values: NDArray[Any], mean: np.float64) -> np.float64:
    """The sum of squared differences, halved as NumPy sums a row, with its bits, but no copy of all in float64."""
    n = len(values)
    if n > PIECE:
        half = n // 2 - n // 2 % 8
        return _squares(values[:half], mean) + _squares(values[half:], mean)
    differences = values - mean
    differences *= differences
    return np.float64(differences.sum())


class Statistics:
    """Mean, standard deviation, minimum and maximum of a volume, block by block (float64; the order decides bits).

    Examples
    --------
    >>> s = Statistics(n_channels=1)
    >>> s.add(moments(np.arange(4, dtype=np.uint8).reshape(1, 1, 1, 4)))
    >>> s.filled(Normalization("global_zscore"), 0)
    Normalization(scheme='global_zscore', mean=1.5, std=1.118033988749895, lower=None, upper=None)
    """

    def __init__(self, n_channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(n_channels)
        self.m2 = np.zeros(n_channels)
        self.lower = np.full(n_channels, np.inf)
        self.upper = np.full(n_channels, -np.inf)

    def add(self, table: Mapping[str, NDArray[Any]]) -> None:
        """Take in :func:`moments` of further blocks, line by line (Chan et al. 1979)."""
        for n, mean, m2, lower, upper in zip(
            *(table[k] for k in ("count", "mean", "m2", "lower", "upper")), strict=True
        ):
            total = self.count + int(n)
            delta = mean - self.mean
            self.m2 += m2 + delta**2 * (self.count * int(n) / total)
            self.mean += delta * (int(n) / total)
            self.count = total
            self.lower, self.upper = np.minimum(self.lower, lower), np.maximum(self.upper, upper)

    def filled(self, scheme: Normalization, channel: int) -> Normalization:
        """The scheme with the numbers that it needs; others come back as they are."""
        if not scheme.needs_statistics:
            return scheme
        if scheme.scheme == "global_minmax":
            return Normalization(scheme.scheme, lower=float(self.lower[channel]), upper=float(self.upper[channel]))
        return Normalization(scheme.scheme, mean=float(self.mean[channel]), std=self.std(channel))

    def std(self, channel: int) -> float:
        """Population standard deviation of a channel."""
        return float(np.sqrt(self.m2[channel] / max(self.count, 1)))
