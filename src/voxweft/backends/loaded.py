"""A model together with what it takes to load it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import ModelRef


@dataclass(frozen=True)
class LoadedModel:
    """What :func:`voxweft.load_model` gives: a model and its reference. Read-only."""

    ref: ModelRef
    model: Model

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

    def at(self, url: str) -> LoadedModel:
        """The same model with a card that says another place."""
        return replace(self, ref=replace(self.ref, card=replace(self.card, path=url)))
