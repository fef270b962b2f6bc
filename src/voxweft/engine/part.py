"""Shares of the work, and the words for their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of a part, of a stage, or of a whole run: in the ledger, in status and in reports.

    >>> State("done") == "done", State.DONE
    (True, 'done')
    """

    def __repr__(self) -> str:
        return repr(str(self))

    WAITING = "waiting"
    """Nobody has begun it, or somebody must go on."""
    RUNNING = "running"
    DONE = "done"
    """Of a part: it ended well."""
    COMPLETE = "complete"
    """Of a run: everything is there."""
    PARTIAL = "partial"
    """Of a run: it ended well, other parts are still to come."""
    FAILED = "failed"
    STOPPED = "stopped"
    """It was asked to end."""
    LOST = "lost"
    """It gives no sign of life any more."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive units of a stage for one worker.

    Attributes
    ----------
    stage
        Name of the stage.
    index, count
        Part ``index`` of ``count``; count 0: of a call that numbers its parts by itself.
    units
        Their numbers.
    call
        The call that numbers them; "" for part I of N.
    """

    stage: str
    index: int
    count: int
    units: range
    call: str = ""

    @property
    def key(self) -> str:
        """Its name among the records of the ledger."""
        return f"{self.call}-{self.stage}-{self.index}"


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What a worker did for a part; plain JSON values, so that it can travel."""

    stage: str
    index: int
    count: int
    totals: Mapping[str, Any]
    peak_memory_bytes: int
