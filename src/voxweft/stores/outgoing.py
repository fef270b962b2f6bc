"""A volume on its way into a file of another format, band by band: memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Volume

BAND_BYTES = 1 << 29  # of planes that are read at once; a single plane may be larger


@dataclass(frozen=True)
class Outgoing:
    """What a file is to hold.

    Attributes
    ----------
    channels
        Volumes of one channel each.
    dtype
        Of the file; it holds every value.
    name, names
        Of the image; of its channels or labels, by number.
    told
        Told of the boxes or planes that are written, and how many there are.
    """

    channels: tuple[Volume, ...]
    dtype: str = ""
    name: str = ""
    names: tuple[tuple[int, str], ...] = ()
    told: Callable[[int, int], None] = field(default=lambda _done, _all: None)

    @property
    def info(self) -> VolumeInfo:
        """Extent, place and chunks; of the first channel."""
        return self.channels[0].info

    def fitting(self, dtypes: Sequence[str], what: str) -> Outgoing:
        """The same in the dtype of the stored values, or the smallest of ``dtypes`` that holds all.

        Raises
        ------
        RequestError
            If none does. ``what`` cannot hold them.
        """
        return replace(self, dtype=self._fitting(dtypes, what) if dtypes else self.info.dtype)

    def _fitting(self, dtypes: Sequence[str], what: str) -> str:
        stored = np.dtype(self.info.dtype)
        kinds = {"u": "ui", "i": "i", "f": "f"}[stored.kind]
        held = [one for one in dtypes if np.dtype(one).kind in kinds]
        if found := next((one for one in held if one == stored or np.can_cast(stored, one, "safe")), None):
            return stored.name if stored.name in dtypes else found
        if stored.kind == "f" or not held:
            raise RequestError(f"{what} cannot hold {stored.name} values; {OTHERS}")
        low, high = self._range()
        for one in held:
            if np.iinfo(one).min <= low and high <= np.iinfo(one).max:
                return one
        raise RequestError(f"{what} cannot hold the values {low} to {high} ({stored.name}); {OTHERS}")

    def _range(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        low = high = 0
        for channel in range(len(self.channels)):
            for band in self.bands(channel):
                low, high = min(low, int(band.min())), max(high, int(band.max()))
        return low, high

    def bands(self, channel: int = 0) -> Iterator[NDArray[np.generic]]:
        """Planes [Z, Y, X] of a channel, from the first to the last, a few at once."""
        z, y, x = self.info.shape_zyx
        fit = max(1, BAND_BYTES // (y * x * np.dtype(self.info.dtype).itemsize))
        for start in range(0, z, step := min(self.info.chunk_zyx[0], fit)):
            yield self._read(channel, Box((start, 0, 0), (min(z, start + step), y, x)))

    def planes(self) -> Iterator[NDArray[np.generic]]:
        """Planes [Y, X], all channels of a plane one after the other."""
        n, done = self.info.shape_zyx[0], 0
        for bands in zip(*map(self.bands, range(len(self.channels))), strict=True):
            self.told(done := done + len(bands[0]), n)
            for z in range(len(bands[0])):
                yield from (band[z] for band in bands)

    def boxes(self) -> Iterator[tuple[int, Box, NDArray[np.generic]]]:
        """A channel, and a chunk of it with its values."""
        whole, chunk = Box.of(self.info.shape_zyx), self.info.chunk_zyx
        cells = [(channel, cell & whole) for channel in range(len(self.channels)) for cell in whole.cells(chunk)]
        for done, (channel, box) in enumerate(cells):
            yield channel, box, self._read(channel, box)
            self.told(done + 1, len(cells))

    def _read(self, channel: int, box: Box) -> NDArray[np.generic]:
        values = self.channels[channel].read(box)[0]
        return np.ascontiguousarray(values, self.dtype or values.dtype)


OTHERS = "write a .h5, which holds everything"
