"""What a model is: the card that must equal training, and the protocols that backends follow."""

from __future__ import annotations

from voxweft.model.card import ModelCard, Normalization
from voxweft.model.protocols import ForwardSetting, Model, Predictor

__all__ = ["ForwardSetting", "Model", "ModelCard", "Normalization", "Predictor"]
