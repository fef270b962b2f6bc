"""A plan with everything opened, and the numbers that a sweep keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from weft.engine.events import Emit, silent
from weft.engine.ledger import Ledger
from weft.engine.plan import Plan
from weft.engine.staged import TileLogits
from weft.image.protocols import Sink, Volume
from weft.model.protocols import Predictor


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
    """A plan with everything opened: what a worker needs to sweep. ``n_lanes`` forward passes run at once."""

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


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_for(device: str, n_workers: int = 1) -> int:
    """Forward passes at once: on a CPU one a core, on an accelerator one."""
    return max(1, n_cores() // n_workers) if device == "cpu" else 1
