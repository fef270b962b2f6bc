"""The end of a unit: write, keep its table, mark it complete, tell of it; always in this order."""

from __future__ import annotations

import os
import platform
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.events import Emit, Event
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Table
from voxweft.engine.stage import Stage
from voxweft.engine.totals import Totals
from voxweft.geometry.box import Box
from voxweft.image.protocols import Sink

PIECES = "pieces"  # of a unit that is not empty in some boxes only: their table, int64 [N, 6], start and stop
Piece = tuple[Box, Sequence[NDArray[Any]]]
"""A box, and its voxels [C, Z, Y, X] in each output."""
GoesOn = Callable[[int], bool]
"""Asked before a run goes on to a further unit, which another worker may have been given meanwhile."""


class Commit:
    """Writes units of a stage; counts them in ``totals``.

    Parameters
    ----------
    stage, sinks
        The stage; where each of its arrays goes.
    ledger, emit
        Who keeps and who hears of it.
    totals
        To go on from.
    """

    def __init__(
        self, stage: Stage, sinks: Sequence[Sink], ledger: Ledger, emit: Emit, totals: Totals | None = None
    ) -> None:
        self.stage, self._sinks, self.ledger, self._emit = stage, sinks, ledger, emit
        self.totals = totals or Totals()
        self.checkpoint_s = 0.0
        """How often what a unit has so far is kept; 0: never."""
        self.written = set[int]()
        """The units that are complete."""
        self._lock = threading.Lock()  # several blocks may be computed at the same time

    def warn(self, text: str) -> None:
        """Tell of something that did not go well."""
        self._emit(Event("warning", text))

    def __call__(
        self,
        unit: int,
        arrays: Sequence[NDArray[Any]] = (),
        *,
        table: Table | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the arrays [C, Z, Y, X] of a unit, one an output, and declare it complete."""
        box = self.stage.box(unit)
        pieces = [(box, arrays)] if box is not None and arrays else []
        self._commit(unit, pieces, table, {**self._written(pieces), **(record or {})})

    def sparse(
        self,
        unit: int,
        pieces: Sequence[Piece],
        *,
        table: Table | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a unit of which only some boxes, whole shards, are not empty; its table tells where they lie, too."""
        corners = np.array([[*box.start, *box.stop] for box, _ in pieces], np.int64)
        written = self._written(pieces) or {"crc32": [0] * len(self._sinks), "n_files": [0] * len(self._sinks)}
        table = {**(table or {}), **({PIECES: corners} if pieces else {})}
        self._commit(unit, pieces, table, {**written, PIECES: len(pieces), **(record or {})})

    def _written(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """What is recorded of boxes once they are written: checksums over all of them, and numbers of files."""
        if not pieces:
            return {}
        crc, n_files = [0] * len(self._sinks), list[int | None]([0] * len(self._sinks))
        levels = [output.level for output in self.stage.outputs if output.spec]
        for box, arrays in pieces:
            for n, (sink, level, array) in enumerate(zip(self._sinks, levels, arrays, strict=True)):
                stored, before = sink.write(box, array, level), n_files[n]
                n_files[n] = None if stored is None or before is None else before + stored
                crc[n] = checksum(array, crc[n])
        return {"crc32": crc, "n_files": n_files}

    def _commit(self, unit: int, pieces: Sequence[Piece], table: Table | None, record: Mapping[str, Any]) -> None:
        stage = self.stage
        if table:
            self.ledger.put_table(stage.name, unit, table)
        record = {**record, "host": platform.node(), "pid": os.getpid(), "at": time.time()}
        self.ledger.mark(stage.name, unit, record)
        n_voxels = sum(wanted_voxels(stage, box) for box, _ in pieces)
        with self._lock:
            self.written.add(unit)
            self.totals.n_units += 1
            self.totals.n_voxels += n_voxels
            self.totals.bytes_written += sum(a.nbytes for _, arrays in pieces for a in arrays)
            self._emit(Event("unit", data={"stage": stage.name, "unit": unit, "n_voxels": n_voxels, **record}))


def checksum(array: NDArray[Any], before: int = 0) -> int:
    """crc32 of the bytes of an array, going on from those before."""
    return zlib.crc32(array.tobytes() if not array.flags.c_contiguous else array.data, before)


def wanted_voxels(stage: Stage, box: Box | None) -> int:
    """Voxels of the full resolution that a unit makes."""
    if box is None or stage.kind == "gather" or any(output.level for output in stage.outputs):
        return 0
    return (box & stage.region).n_voxels
