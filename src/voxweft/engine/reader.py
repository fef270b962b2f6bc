"""Planes of a column, each read once, one block ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume

if TYPE_CHECKING:
    import torch

ROWS_BYTES = 1 << 26  # that are decoded at once
ON_DEVICE = ("uint8", "int8", "int16", "int32", "float16", "float32")


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

    def copy(self, box: Box, out: torch.Tensor) -> None:
        """Copy held voxels into float32 ``out`` [C, Z, Y, X]."""


class PlaneReader:
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
        Where the voxels are to lie; float64, uint16 and wider integers become float32 on an accelerator.
    own
        The voxels whose non-finite values this reader counts (the column's own, without the halo).
    """

    def __init__(self, volume: Volume, box: Box, n_planes: int, device: str, own: Box) -> None:
        self._volume, self._box, self._device, self._own = volume, box, device, own
        self.channels = volume.info.n_channels
        self._spans = deque((block.start[0], block.stop[0]) for block in plane_blocks(box, n_planes))
        self._held: deque[tuple[int, int, torch.Tensor]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-read")
        self._ahead: Future[torch.Tensor] | None = None
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
        while self._spans and self._spans[0][0] < hi:
            future = self._ahead or self._submit()
            self._ahead = None
            a, b = self._spans.popleft()
            self._held.append((a, b, future.result()))
            if self._spans:
                self._ahead = self._submit()

    def copy(self, box: Box, out: torch.Tensor) -> None:
        """Copy the held voxels of ``box`` (inside the reader's box) into float32 ``out`` [C, Z, Y, X]."""
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        _, by, bx = self._box.start
        for a, b, block in self._held:
            lo, hi = max(a, z0), min(b, z1)
            if lo < hi:
                out[:, lo - z0 : hi - z0].copy_(block[:, lo - a : hi - a, y0 - by : y1 - by, x0 - bx : x1 - bx])

    def _submit(self) -> Future[torch.Tensor]:
        a, b = self._spans[0]
        return self._thread.submit(self._read, a, b)

    def _read(self, lo: int, hi: int) -> torch.Tensor:
        (_, y0, x0), (_, y1, x1) = self._box.start, self._box.stop
        box = Box((lo, y0, x0), (hi, y1, x1))
        array, n_wrong = finite(self._rows(box), box, self._own)
        self.bytes_read += array.nbytes
        self.n_nonfinite += n_wrong
        return as_tensor(array, self._device)

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


def as_tensor(array: NDArray[Any], device: str) -> torch.Tensor:
    """Voxels where the network runs; what a tensor there cannot be is made float32."""
    import torch

    if array.dtype.name not in ON_DEVICE and (device != "cpu" or array.dtype.name not in ("uint16", "float64")):
        array = array.astype(np.float32)
    if not array.dtype.isnative or not array.flags.writeable or any(s < 0 for s in array.strides):
        array = np.array(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array).to(device)
