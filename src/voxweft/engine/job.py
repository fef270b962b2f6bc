"""A plan with everything opened, and the numbers that a sweep keeps."""

from __future__ import annotations

import os
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import Plan
from voxweft.engine.staged import TileLogits
from voxweft.image.protocols import Sink, Volume
from voxweft.model.protocols import Predictor


@dataclass(slots=True)
class Tally:
    """What sweeps did, in seconds, patches, voxels and bytes; adds up over runs and parts."""

    seconds: dict[str, float] = field(default_factory=dict)
    n_patches: int = 0
    n_skipped: int = 0
    n_slabs: int = 0
    n_voxels: int = 0
    n_nonfinite: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def add(self, other: Tally) -> None:
        """Add another's numbers to these."""
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for name in ("n_patches", "n_skipped", "n_slabs", "n_voxels", "n_nonfinite", "bytes_read", "bytes_written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Job:
    """A plan with everything opened: what a worker needs to sweep.

    ``n_lanes`` forward passes run at once. ``goes_on(column, slab)`` is asked before a sweep goes on to a further slab,
    which another worker may have been given meanwhile.
    """

    plan: Plan
    volume: Volume | None
    predictor: Predictor | None
    sink: Sink
    ledger: Ledger
    mask: Volume | None = None
    device: str = "cpu"
    n_lanes: int = 1
    emit: Emit = silent
    stored: TileLogits | None = None
    goes_on: Callable[[int, int], bool] = lambda _column, _slab: True


def commit(
    job: Job, tally: Tally, unit: tuple[int, int], array: NDArray[Any], record: Mapping[str, Any] | None = None
) -> None:
    """Write a slab [C, Z, Y, X], declare it complete, and tell of it."""
    (column, slab), columns = unit, job.plan.columns
    box = columns.box(column, range(slab, slab + 1))
    job.sink.write(box, array)
    who = {"crc32": zlib.crc32(array.data), "host": platform.node(), "pid": os.getpid(), "at": time.time()}
    job.ledger.mark_slab(column, slab, {**(record or {}), **who})
    tally.n_slabs += 1
    tally.n_voxels += (box & job.plan.region).n_voxels
    tally.bytes_written += array.nbytes
    job.emit(Event("slab", data={"column": column, "slab": slab, "n_voxels": box.n_voxels, **(record or {}), **who}))


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_for(device: str, n_workers: int = 1) -> int:
    """Forward passes at once: on a CPU one a core, on an accelerator one."""
    return max(1, n_cores() // n_workers) if device == "cpu" else 1
