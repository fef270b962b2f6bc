"""Finishing on an accelerator: nothing but finished planes comes back, while the next layer is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.device import Transfers, pieces, transfers_to
from voxweft.engine.finishing import SameGrid, refuse
from voxweft.engine.known import tally
from voxweft.ops.activate_device import as_stored, dtype_there, finished

if TYPE_CHECKING:
    import torch

PIECE_VALUES = 1 << 24  # logits that are finished, and fetched, at once


class OnDevice(SameGrid):
    """Planes are finished many at once, sent back, and placed when the next ones have been made.

    device   finish piece 1 | finish piece 2 | network ...
    copies                  | piece 1 ->     | piece 2 ->
    host                                     | place 1    | place 2 (at the next layer, or in the end)
    """

    def __init__(self, *given: Any, transfers: Transfers | None = None) -> None:
        super().__init__(*given)
        self._pending: deque[Callable[[], None]] = deque()
        self._transfers = transfers

    def to(self, end: int) -> None:
        """The writer is told when they are placed."""
        lo, self.cursor = self.cursor, max(self.cursor, end)
        if lo < end:
            self.planes(lo, end)
            self._pending.append(lambda: self._writer.advance(end))

    def planes(self, lo: int, end: int) -> None:
        """The planes ``lo <= z < end``, which are final."""
        blended, uncovered = self._weaver.take(lo, end)
        for a, b in pieces(end - lo, blended[:, 0].numel(), PIECE_VALUES):
            self._send(lo + a, blended[:, a:b], None if uncovered is None else uncovered[a:b])
            self._settle(1)

    def end(self) -> None:
        """Place all that is on its way."""
        self._settle(0)

    def _settle(self, n_left: int) -> None:
        while len(self._pending) > n_left:
            self._pending.popleft()()

    def _send(self, lo: int, blended: torch.Tensor, uncovered: NDArray[np.bool_] | None) -> None:
        """Finish planes [C', n, Y, X] from ``lo`` on and begin to fetch them."""
        ways = self._transfers or transfers_to(str(blended.device))
        n, height, width = blended.shape[1:]
        rows = max(1, PIECE_VALUES // (n * width * max(1, len(blended))))
        made = []
        for finish in self._stage.finishes:
            out = blended.new_empty((finish.n_channels, n, height, width), dtype=dtype_there(finish))
            for y in range(0, height, rows):
                out[:, :, y : y + rows] = finished(finish, blended[:, :, y : y + rows])
            made.append(ways.down(out))
        wrong = ways.down(blended.sum().isfinite().logical_not().reshape(1))
        outside = [self._mask.outside(lo + k, self._box) for k in range(n)]
        holes = [
            [e for e in (None if uncovered is None else uncovered[k], outside[k]) if e is not None] for k in range(n)
        ]
        there = [self._known.take(lo + k, holes[k]) for k in range(n)] if self._known else None

        def place() -> None:
            with ExitStack() as stack:
                if stack.enter_context(wrong).any():
                    refuse(lo, lo + n)
                arrays = [
                    as_stored(f, stack.enter_context(one)) for f, one in zip(self._stage.finishes, made, strict=True)
                ]
                for k in range(n):
                    planes = [array[:, k : k + 1] for array in arrays]
                    for values, background in zip(planes, self._background, strict=True) if holes[k] else ():
                        for empty in holes[k]:
                            values[:, 0, empty] = background
                    known = [there[k][None, None]] if there else []
                    self._writer.put(lo + k, 0, [*planes, *known], self._box)
                    if there:
                        self._writer.note(tally(there[k]))

        self._pending.append(place)
