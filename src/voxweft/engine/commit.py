"""The end of a unit: write, keep its table, mark it complete, tell of it; always in this order."""

from __future__ import annotations

import os
import platform
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from voxweft.engine.events import Emit, Event
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Table
from voxweft.engine.stage import Stage
from voxweft.engine.totals import Totals
from voxweft.geometry.box import Box
from voxweft.image.protocols import Sink

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
    """

    def __init__(self, stage: Stage, sinks: Sequence[Sink], ledger: Ledger, emit: Emit) -> None:
        self.stage, self._sinks, self.ledger, self._emit = stage, sinks, ledger, emit
        self.totals = Totals()
        self._lock = threading.Lock()  # several blocks may be computed at the same time

    def __call__(
        self,
        unit: int,
        arrays: Sequence[NDArray[Any]] = (),
        *,
        table: Table | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the arrays [C, Z, Y, X] of a unit, one an output, and declare it complete."""
        stage, box = self.stage, self.stage.box(unit)
        n_files: list[int | None] = []
        levels = (output.level for output in stage.outputs if output.spec)
        if box is not None and arrays:
            together = zip(self._sinks, levels, arrays, strict=True)
            n_files = [sink.write(box, array, level) for sink, level, array in together]
        if table:
            self.ledger.put_table(stage.name, unit, table)
        who = {"host": platform.node(), "pid": os.getpid(), "at": time.time()}
        written = {"crc32": checksums(arrays), "n_files": n_files} if arrays else {}
        record_of_unit = {**written, **(record or {}), **who}
        self.ledger.mark(stage.name, unit, record_of_unit)
        n_voxels = wanted_voxels(stage, box) if arrays else 0
        with self._lock:
            self.totals.n_units += 1
            self.totals.n_voxels += n_voxels
            self.totals.bytes_written += sum(a.nbytes for a in arrays)
            self._emit(Event("unit", data={"stage": stage.name, "unit": unit, "n_voxels": n_voxels, **record_of_unit}))


def checksums(arrays: Iterable[NDArray[Any]]) -> list[int]:
    """crc32 of the bytes of each array."""
    return [zlib.crc32(a.tobytes() if not a.flags.c_contiguous else a.data) for a in arrays]


def wanted_voxels(stage: Stage, box: Box | None) -> int:
    """Voxels of the full resolution that a unit makes."""
    if box is None or stage.kind == "gather" or any(output.level for output in stage.outputs):
        return 0
    return (box & stage.region).n_voxels
