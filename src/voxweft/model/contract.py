"""What a model asks of its input, and what of an input breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Given:
    """What a stack of layers is, and what of it is taken.

    Attributes
    ----------
    n_layers_there
        Layers that the stack has.
    start, stop
        The window, counted from the first layer that is there.
    spacing_um
        Side of a voxel in micrometres, or None where nobody knows.
    dtype
        numpy dtype of the stored values.
    form
        The attribute ``format`` of the surface volume, or "".
    reverse
        Whether the layers are taken in reverse order.
    """

    n_layers_there: int
    start: int
    stop: int
    spacing_um: float | None
    dtype: str
    form: str
    reverse: bool


@dataclass(frozen=True, slots=True)
class Breach:
    """One clause that an input breaks: a short code, how bad it is, and a sentence."""

    code: str
    severity: Literal["error", "warning"]
    text: str


def breaches(contract: Any, given: Given) -> tuple[Breach, ...]:
    """All that an input breaks of a contract; without one nothing."""
    return ()
