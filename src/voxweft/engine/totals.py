"""What was done, in numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

COUNTS = ("n_patches", "n_skipped", "n_restored", "n_units", "n_voxels", "n_nonfinite", "bytes_read", "bytes_written")


@dataclass(slots=True)
class Totals:
    """What stages did, in seconds, patches, units, voxels and bytes; adds up over runs and parts."""

    seconds: dict[str, float] = field(default_factory=dict)
    n_patches: int = 0
    n_skipped: int = 0
    n_restored: int = 0  # patches that an earlier attempt at a slab had done
    n_units: int = 0
    n_voxels: int = 0
    n_nonfinite: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @classmethod
    def sum_of(cls, several: Iterable[Mapping[str, Any]]) -> Totals:
        """The sum of what :meth:`to_dict` gave."""
        total = cls()
        for one in several:
            total.add(cls(**one))
        return total

    @property
    def n_passed(self) -> int:
        """Patches that are behind, whoever computed them."""
        return self.n_patches + self.n_skipped + self.n_restored

    @contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Add the time of a block to an activity."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - start

    def add(self, other: Totals) -> None:
        """Add another's numbers to these."""
        for activity, seconds in other.seconds.items():
            self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_for(device: str, n_workers: int = 1) -> int:
    """Forward passes at once: on a CPU one a core, on an accelerator one."""
    return max(1, n_cores() // n_workers) if device == "cpu" else 1
