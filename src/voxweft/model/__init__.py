"""What a model is: the card that must equal training, how to load it again, and the protocols of backends."""

from __future__ import annotations

from voxweft.model.card import Intensity, ModelCard, Normalization
from voxweft.model.head import Head
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import ModelRef, model_ref

__all__ = [
    "ForwardSetting",
    "Head",
    "Intensity",
    "Model",
    "ModelCard",
    "ModelRef",
    "Normalization",
    "Predictor",
    "model_ref",
]
