"""What it takes to load the same model again."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voxweft.model.card import ModelCard
from voxweft.model.frozen import FrozenDict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from voxweft.model.protocols import Model

NOT_COMPARED = ("path", "normalization_note", "notes", "contract", "attributes", "details")
"""Fields of a card that decide no bit: where it lies, and what is told of it."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Enough to load the same model again anywhere, and to see that it is the same.

    Attributes
    ----------
    card
        The model as it was.
    arguments
        What :func:`voxweft.load_model` was given beside the path and is needed again; no secrets.

    Examples
    --------
    >>> ref = ModelRef(ModelCard("net.ckpt", "ink TimeSformer", "ab12", (64, 1, 64)), {"n_layers": 26})
    >>> ref.url, ref.digest, ref.arguments
    ('net.ckpt', 'ab12', {'n_layers': 26})
    """

    card: ModelCard
    arguments: Mapping[str, Any] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", FrozenDict(self.arguments))

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.card.path

    @property
    def digest(self) -> str:
        """sha256 of the weights (hex)."""
        return self.card.digest


def model_ref(model: Model) -> ModelRef:
    """The reference of a model; of an object that has none its card alone."""
    ref = getattr(model, "ref", None)
    return ref if isinstance(ref, ModelRef) else ModelRef(model.card)


def decisive(card: ModelCard) -> str:
    """All of a card that decides what the network computes, as one line; the weights are in its digest."""
    told = _cards().dump_python(card, mode="json")
    return json.dumps({name: value for name, value in told.items() if name not in NOT_COMPARED}, sort_keys=True)


def card_differences(stored: ModelCard, found: ModelCard) -> list[str]:
    """What of a card decides the output and is not as it was: a line for each field, without that of the weights.

    >>> old = ModelCard("net.pt2", "torch.export", "", (64, 64, 64))
    >>> card_differences(old, ModelCard("copy.pt2", "torch.export", "", (64, 64, 64), n_inputs=2))
    ["the model's n_inputs: stored 1, now 2"]
    """
    old, new = (_cards().dump_python(card, mode="json") for card in (stored, found))
    return [
        f"the model's {name}: stored {json.dumps(old[name])[:160]}, now {json.dumps(new[name])[:160]}"
        for name in sorted(set(old) - {*NOT_COMPARED, "digest"})
        if json.dumps(old[name]) != json.dumps(new[name])
    ]


@functools.cache
def _cards() -> TypeAdapter[ModelCard]:
    """Cards as plans store them, so that a stored one and one just read look alike."""
    from pydantic import TypeAdapter

    return TypeAdapter(ModelCard)
