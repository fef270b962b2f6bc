"""A model together with what it takes to load it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Model, Predictor, precisions_of
from voxweft.model.ref import ModelRef
from voxweft.shown import Shown


@dataclass(frozen=True)
class LoadedModel(Shown):
    """What :func:`voxweft.load_model` gives: a model and its reference. Read-only."""

    ref: ModelRef
    model: Model

    def __repr__(self) -> str:
        return repr(self.card)

    @property
    def card(self) -> ModelCard:
        """What it expects and gives."""
        return self.ref.card

    def runtimes(self, device: str) -> tuple[str, ...]:
        """The runtimes that can run it on "cpu" or "cuda" with the packages installed here, plainest first."""
        return self.model.runtimes(device)

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make it ready; see :class:`~voxweft.model.protocols.Model`."""
        return self.model.open(setting)

    def precisions(self, device: str) -> tuple[str, ...]:
        """Those that the model can be run in here."""
        return precisions_of(self.model, device)

    def quantized(self, setting: ForwardSetting, samples: Sequence[Any]) -> bytes:
        """The network in int8; see :class:`~voxweft.model.protocols.Quantizable`."""
        model: Any = self.model
        return bytes(model.quantized(setting, samples))

    def open_network(self, setting: ForwardSetting, network: bytes) -> Predictor:
        """Make ready what :meth:`quantized` gave."""
        model: Any = self.model
        return model.open_network(setting, network)  # type: ignore[no-any-return]

    def at(self, url: str) -> LoadedModel:
        """The same model with a card that says another place."""
        return replace(self, ref=replace(self.ref, card=replace(self.card, path=url)))
