"""Patches of a volume by which a network's runtimes are measured and judged."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.sampling import spread_points
from voxweft.image.protocols import Volume
from voxweft.model.card import Normalization
from voxweft.ops.normalize import normalize

if TYPE_CHECKING:
    import torch

JUDGED, CALIBRATING = 8, 16
TRIES = 8  # boxes looked at for one that is not empty
FINE = 1 << 20  # places along an axis, and boxes, more than anybody asks for


def central_patch(volume: Volume, patch: Zyx) -> tuple[Box, Any]:
    """The patch in the middle of the volume (clipped at its faces): its box and its voxels [C, Z, Y, X]."""
    box = _box_at(Box.of(volume.info.shape_zyx), patch, (0.5, 0.5, 0.5))
    return box, volume.read(box)


def as_input(voxels: Any, patch: Zyx, schemes: tuple[Normalization, ...], device: str) -> torch.Tensor:
    """A normalised float32 patch [1, C, *patch] on the device, padded with zeros at the far faces."""
    import torch

    out = torch.zeros((1, len(voxels), *patch))
    z, y, x = voxels.shape[1:]
    inner = out[0, :, :z, :y, :x]
    inner.copy_(torch.from_numpy(np.nan_to_num(voxels.astype(np.float32), posinf=0.0, neginf=0.0)))
    normalize(inner, schemes)
    return out.to(device)


def spread(region: Box, patch: Zyx) -> Iterator[Box]:
    """Boxes of a patch, clipped to a region: its middle, two corners, a face of each axis, then evenly all over.

    >>> [box.start for box in itertools.islice(spread(Box.of((10, 10, 10)), (4, 4, 4)), 4)]
    [(3, 3, 3), (0, 0, 0), (6, 6, 6), (0, 3, 3)]
    """
    corners = [(0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 0.0)]
    for place in corners:
        yield _box_at(region, patch, place)
    for n in spread_points(Box.of((FINE, FINE, FINE)), FINE):
        yield _box_at(region, patch, tuple(k / FINE for k in n))


def _box_at(region: Box, patch: Zyx, place: tuple[float, ...]) -> Box:
    """The box of a patch whose start lies at a fraction of the way that it may go."""
    room = (max(0, n - p) for n, p in zip(region.shape, patch, strict=True))
    start = tuple(a + int(r * at) for a, r, at in zip(region.start, room, place, strict=True))
    stop = tuple(min(b, a + p) for b, a, p in zip(region.stop, start, patch, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


class Samples:
    """Patches spread over a volume, as the network is given them; read when they are first asked for.

    Patches of one value are left out while there are others, since skipped ones tell nothing.

    Parameters
    ----------
    volume, region
        Whose; where. A region that is smaller than a patch is enlarged to one.
    patch_zyx, schemes
        How large; how scaled.
    device
        Where they are to lie.
    identity
        Digest of the voxels that they are taken from, or "".
    """

    def __init__(
        self,
        volume: Volume,
        region: Box,
        patch_zyx: Zyx,
        schemes: tuple[Normalization, ...],
        device: str = "cpu",
        identity: str = "",
    ) -> None:
        self._volume, self._schemes, self._device = volume, schemes, device
        self.patch_zyx, self.identity = patch_zyx, identity
        self._boxes = spread(_at_least(region, patch_zyx, volume.info.shape_zyx), patch_zyx)
        self._seen: set[Box] = set()
        self._patches: list[torch.Tensor] = []

    @functools.cached_property
    def first(self) -> torch.Tensor:
        """The patch in the middle of the volume, whatever it holds: [1, C, *patch]."""
        voxels = central_patch(self._volume, self.patch_zyx)[1]
        return as_input(voxels, self.patch_zyx, self._schemes, self._device)

    @property
    def judged(self) -> list[torch.Tensor]:
        """Those by which precisions are judged; at least one."""
        return self._some(JUDGED)

    @property
    def calibrating(self) -> list[torch.Tensor]:
        """Others, from which ranges of values are taken; the same ones where the volume has no more."""
        return self._some(JUDGED + CALIBRATING)[JUDGED:] or self.judged

    def _some(self, count: int) -> list[torch.Tensor]:
        """So many different patches that are not empty, or as many as are found."""
        for box in itertools.islice(self._boxes, TRIES * max(0, count - len(self._patches))):
            if box in self._seen:
                continue
            self._seen.add(box)
            voxels = self._volume.read(box)
            if (voxels == voxels[:, :1, :1, :1]).all():
                continue
            self._patches.append(as_input(voxels, self.patch_zyx, self._schemes, self._device))
            if len(self._patches) == count:
                break
        return self._patches[:count] or [self.first]


def _at_least(region: Box, patch: Zyx, shape: Zyx) -> Box:
    """A region, enlarged to a patch where the volume allows it."""
    start = tuple(max(0, min(a, n - p)) for a, n, p in zip(region.start, shape, patch, strict=True))
    stop = tuple(max(b, min(n, a + p)) for b, a, n, p in zip(region.stop, start, shape, patch, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def block_of_chunks(shape: Zyx, chunk: Zyx, max_voxels: int = 1 << 25) -> Zyx:
    """Size of a block for reading all of a volume: whole rows of chunks, ``max_voxels`` where one row allows it."""
    z = chunk[0] * max(1, 16 // chunk[0])
    return z, max(chunk[1], max_voxels // (z * shape[2]) // chunk[1] * chunk[1]), shape[2]
