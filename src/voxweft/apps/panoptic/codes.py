"""How objects of a slice are written: one number that says the class and which object of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.model.card import ModelCard

SHIFT = 24
DIVISOR = 1 << SHIFT
"""Slices are written with class x DIVISOR + number; stuff has number 0. 16 million objects a slice fit, in 32 bits."""


@dataclass(frozen=True, slots=True)
class ObjectClass:
    """A class of a panoptic network: its number, its name, and whether its objects are told apart."""

    number: int
    name: str
    is_thing: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a plan."""
        return asdict(self)


def classes_of(card: ModelCard, semantic_only: bool = False) -> tuple[ObjectClass, ...]:
    """The classes of a model, without the background."""
    names = dict(enumerate(card.class_names))
    names.pop(0, None)
    return tuple(ObjectClass(n, name, n in card.things and not semantic_only) for n, name in names.items())


def classes_from(values: Sequence[Any]) -> tuple[ObjectClass, ...]:
    """Those that a plan names.

    >>> classes_from([{"number": 1, "name": "mito", "is_thing": True}])[0].name
    'mito'
    """
    return tuple(ObjectClass(**dict(one)) for one in values)


def class_of(codes: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each code."""
    return np.asarray(codes, np.int64) >> SHIFT
