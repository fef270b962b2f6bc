"""A volume on another grid: resampled box by box, in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.regrid import Regrid
from voxweft.image.info import VolumeInfo
from voxweft.image.views import BaseView

FLOOR = 1e-8


@dataclass(frozen=True, slots=True)
class Resample(BaseView):
    """The volume on a grid of the same extent, its values held within bounds.

        volume   10 voxels of 3 mm        clipped to ``before``, float32
        view     30 voxels of 1 mm        resampled, clipped to ``bounds``

    Cubic splines overshoot at edges; the bounds take that away, as nnU-Net's resampling does.

    Attributes
    ----------
    regrid
        The maps of the axes.
    before, bounds
        Lowest and highest value a channel, before and after; empty for none.
    dtype
        What the values become; of an integer one they are rounded.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> seen = Resample(Regrid.of((1, 1, 2), (1, 1, 4), 1)).of(open_volume(np.array([[[0.0, 4.0]]])))
    >>> seen.read(Box.of((1, 1, 4)))
    array([[[[0., 1., 3., 4.]]]], dtype=float32)
    """

    regrid: Regrid
    before: tuple[tuple[float, float], ...] = ()
    bounds: tuple[tuple[float, float], ...] = ()
    dtype: str = "float32"
    kind: Literal["resample"] = "resample"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Extent, voxel size and origin of the other grid."""
        if self.regrid.shape_in != seen.shape_zyx:
            raise VolumeError(
                f"{seen.url} has {seen.shape_zyx} voxels, its other grid is one of {self.regrid.shape_in}"
            )
        shape = self.regrid.shape_out
        scale = [a / b for a, b in zip(seen.shape_zyx, shape, strict=True)]
        z, y, x = (s * k for s, k in zip(seen.geometry.voxel_size_zyx, scale, strict=True))
        geometry = replace(
            seen.geometry,
            voxel_size_zyx=(z, y, x),
            origin_zyx=seen.geometry.world([(k - 1) / 2 for k in scale]),
        )
        chunk: Zyx = tuple(max(1, min(n, 32)) for n in shape)  # type: ignore[assignment]
        return replace(
            seen, shape_zyx=shape, levels=(shape,), level=0, dtype=self.dtype, chunk_zyx=chunk, geometry=geometry
        )

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """What the box is made of."""
        return self.regrid.reach(box)

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Clipped, resampled, clipped."""
        made = self.regrid.resample(_clipped(values.astype(np.float32), self.before), box)
        made = _clipped(made, self.bounds)
        return made if self.dtype == "float32" else np.floor(made + 0.5).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Standardize(BaseView):
    """Every channel less its mean, divided by its spread, in float32; perhaps 0 where no channel has a value.

    Attributes
    ----------
    numbers
        Mean and spread a channel.
    masked
        Of each channel, whether voxels where all channels are 0 stay 0.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> Standardize(((2.0, 2.0),), (True,)).of(open_volume(np.array([[[0, 2, 4]]]))).read(Box.of((1, 1, 3)))
    array([[[[0., 0., 1.]]]], dtype=float32)
    """

    numbers: tuple[tuple[float, float], ...]
    masked: tuple[bool, ...] = ()
    kind: Literal["standardize"] = "standardize"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """As float32."""
        return replace(seen, dtype="float32", levels=(seen.shape_zyx,), level=0)

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Scaled."""
        outside = ~values.any(axis=0) if any(self.masked) else None
        made = values.astype(np.float32)
        for n, (mean, spread) in enumerate(self.numbers):
            made[n] = (made[n] - np.float32(mean)) / np.float32(max(spread, FLOOR))
            if outside is not None and self.masked[n]:
                made[n][outside] = 0
        return made


def _clipped(values: NDArray[np.float32], bounds: tuple[tuple[float, float], ...]) -> NDArray[np.float32]:
    for channel, (lower, upper) in zip(values, bounds, strict=False):
        np.clip(channel, lower, upper, out=channel)
    return values
