"""What happens during a run, told to whoever listens (the progress bar, a log, a test)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes
    ----------
    kind
        "phase" (something that may take a while begins), "plan", "statistics", "begin" (of a stage), "unit" (of a stage
        is complete), "progress" (units, and patches where the stage has them), "patches" (of a part), "picture",
        "note", "warning" or "done".
    text
        One sentence for a person.
    data
        The same for a machine; plain JSON values.
    """

    kind: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Listen to nothing."""
