"""Planes of a column, each read once, one block ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.device import Stored, transfers_to
from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume

if TYPE_CHECKING:
    import torch

ROWS_BYTES = 1 << 26  # that are decoded at once


def plane_blocks(box: Box, n_planes: int) -> Iterator[Box]:
    """A box divided at the multiples of ``n_planes``: what is read at once.

    >>> [str(block) for block in plane_blocks(Box((5, 0, 0), (70, 9, 9)), 32)]
    ['5:32,0:9,0:9', '32:64,0:9,0:9', '64:70,0:9,0:9']
    """
    lo, hi = box.start[0], box.stop[0]
    for a, b in pairwise([lo, *range((lo // n_planes + 1) * n_planes, hi, n_planes), hi]):
        yield Box((a, *box.start[1:]), (b, *box.stop[1:]))


class Reader(Protocol):
    """Gives voxels of patches, in the order of their planes."""

    n_nonfinite: int
    bytes_read: int

    def __exit__(self, *exc: object) -> None:
        """Close it."""

    def need(self, lo: int, hi: int) -> None:
        """Hold the planes ``lo <= z < hi``; ``lo`` never goes back."""

    def copy(self, box: Box, out: torch.Tensor, channels: tuple[int, ...] | None = None) -> None:
        """Copy held voxels into float32 ``out`` [C, Z, Y, X]; of some channels, in this order, or of all."""

    def constant(self, boxes: Sequence[Box], channels: tuple[int, ...] | None = None) -> list[bool]:
        """Of held boxes: whether each of these channels holds one value only; asked of the device once for all."""


class Held(ABC):
    """Voxels on a device, in pieces; what every reader does with them.

    Parameters
    ----------
    device
        Where they lie.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    @abstractmethod
    def _pieces(self, box: Box) -> Iterator[tuple[Box, Box, Stored]]:
        """What a box is made of: the part that lies in a piece, the box of the piece, the piece."""

    def copy(self, box: Box, out: torch.Tensor, channels: tuple[int, ...] | None = None) -> None:
        """Copy the voxels of a box that is held into float32 ``out`` [C, Z, Y, X]; of some channels, or of all."""
        for part, whole, stored in self._pieces(box):
            target, source = part.shift(box.start, -1).slices, part.shift(whole.start, -1).slices
            out[(slice(None), *target)].copy_(stored.values(stored.part(source, channels)))

    def constant(self, boxes: Sequence[Box], channels: tuple[int, ...] | None = None) -> list[bool]:
        """Of boxes that are held: whether each of these channels holds one value only."""
        import torch

        def compared() -> torch.Tensor:
            ends = []
            for box in boxes:
                pieces = [
                    (s.part(part.shift(whole.start, -1).slices, channels)) for part, whole, s in self._pieces(box)
                ]
                lowest = torch.stack([piece.amin((1, 2, 3)) for piece in pieces]).amin(0)
                highest = torch.stack([piece.amax((1, 2, 3)) for piece in pieces]).amax(0)
                ends.append((lowest.float() == highest.float()).all())
            return torch.stack(ends)

        return [bool(n) for n in transfers_to(self._device).numbers(compared)] if boxes else []


class PlaneReader(Held):
    """Planes of one column, read in blocks, in order, by a thread, and dropped when the last patch has used them.

        planes   0        32        64        96
                 |= held =|= held ==|= ahead =|          blocks begin on multiples of ``n_planes``
                      |== patch ==|

    Parameters
    ----------
    volume
        Where to read.
    box
        All voxels that the sweep will need, inside the volume.
    n_planes
        Planes a block; a whole number of chunks, so that each is decoded once.
    device
        Where the voxels are to lie; float64 and wide integers become float32 on an accelerator.
    own
        The voxels whose non-finite values this reader counts (the column's own, without the halo).
    saw
        Told of every block that is read, and of its voxels [C, Z, Y, X].
    """

    def __init__(
        self,
        volume: Volume,
        box: Box,
        n_planes: int,
        device: str,
        own: Box,
        saw: Callable[[Box, NDArray[Any]], None] | None = None,
    ) -> None:
        super().__init__(device)
        self._volume, self._box, self._own, self._saw = volume, box, own, saw
        self.channels = volume.info.n_channels
        self._spans = deque((block.start[0], block.stop[0]) for block in plane_blocks(box, n_planes))
        self._held: deque[tuple[int, int, Stored]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-read")
        self._ahead: Future[Stored] | None = None
        self.n_nonfinite = 0
        self.bytes_read = 0

    def __enter__(self) -> PlaneReader:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def need(self, lo: int, hi: int) -> None:
        """Hold the planes ``lo <= z < hi``; drop what lies before. ``lo`` never goes back."""
        while self._held and self._held[0][1] <= lo:
            self._held.popleft()
        while self._spans and self._ahead is None and self._spans[0][1] <= lo:
            self._spans.popleft()  # of a sweep that goes on from the middle
        while self._spans and self._spans[0][0] < hi:
            future = self._ahead or self._submit()
            self._ahead = None
            a, b = self._spans.popleft()
            self._held.append((a, b, future.result()))
            if self._spans:
                self._ahead = self._submit()

    def _pieces(self, box: Box) -> Iterator[tuple[Box, Box, Stored]]:
        (_, y0, x0), (_, y1, x1) = self._box.start, self._box.stop
        for a, b, stored in self._held:
            if max(a, box.start[0]) < min(b, box.stop[0]):
                whole = Box((a, y0, x0), (b, y1, x1))
                yield whole & box, whole, stored

    def _submit(self) -> Future[Stored]:
        a, b = self._spans[0]
        return self._thread.submit(self._read, a, b)

    def _read(self, lo: int, hi: int) -> Stored:
        (_, y0, x0), (_, y1, x1) = self._box.start, self._box.stop
        box = Box((lo, y0, x0), (hi, y1, x1))
        array, n_wrong = finite(self._rows(box), box, self._own)
        self.bytes_read += array.nbytes
        self.n_nonfinite += n_wrong
        if self._saw:
            self._saw(box, array)
        return Stored(array, self._device)

    def _rows(self, box: Box) -> NDArray[Any]:
        """The voxels of a box; of a large one a few rows of chunks at once, since each is decoded beside its place."""
        info, (z, y, x) = self._volume.info, box.shape
        plane = z * x * info.n_channels * np.dtype(info.dtype).itemsize  # of one row of voxels
        rows = max(1, ROWS_BYTES // max(1, plane * info.chunk_zyx[1])) * info.chunk_zyx[1]
        if rows >= y:
            return self._volume.read(box)
        array: NDArray[Any] | None = None
        for cell in box.cells((box.stop[0], rows, box.stop[2])):
            part = cell & box
            values = self._volume.read(part)
            if array is None:
                array = np.empty((values.shape[0], *box.shape), values.dtype)
            array[(slice(None), *part.shift(box.start, -1).slices)] = values
        return array if array is not None else self._volume.read(box)


def finite(array: NDArray[Any], box: Box, own: Box) -> tuple[NDArray[Any], int]:
    """The voxels [C, Z, Y, X] of a box with 0 for NaN and Inf, and how many of these lie in ``own``."""
    if array.dtype.kind != "f":
        return array, 0
    good = np.isfinite(array)
    if good.all():
        return array, 0
    counted = (box & own).shift(box.start, -1)
    n_wrong = int((~good[(slice(None), *counted.slices)]).sum())
    return np.where(good, array, array.dtype.type(0)), n_wrong
