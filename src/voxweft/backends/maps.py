"""Panoptic networks made ready: the maps of a slice, whatever file they came from."""

from __future__ import annotations

import math
from typing import Any

import torch

from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.head import CENTRES, OFFSETS, SEMANTIC
from voxweft.model.protocols import ForwardSetting, Predictor


class PanopticModel:
    """A network that gives the maps of a slice.

    Its predictors take float32 [B, 1, 1, Y, X] and give [B, n]: of each image the values of its maps, one after the
    other: classes [C, Y x scale, X x scale], centres [1, Y / 4, X / 4] and offsets [2, Y / 4, X / 4].
    """

    def __init__(self, card: ModelCard, module: Any, inference_scale: int = 1, fine_boundaries: bool = False) -> None:
        if inference_scale < 1 or inference_scale & (inference_scale - 1) or inference_scale > 64:
            raise ModelError(f"--image-downsampling {inference_scale}: use 1, 2, 4, 8, 16, 32 or 64")
        self.card, self.scale, self.fine = card, inference_scale, fine_boundaries
        self._module = module

    def runtimes(self, device: str) -> tuple[str, ...]:
        """TorchScript runs as it is."""
        return ("torch",)

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make it ready."""
        if setting.runtime != "torch":
            raise ModelError(f"a panoptic network cannot run on {setting.runtime!r}; use torch")
        if self.card.details.get("quantized") and setting.device != "cpu":
            raise ModelError("an 8-bit network runs on the CPU only; give --device cpu or leave --use-quantized out")
        return _Maps(self._module.to(setting.device), self.card, 2 + int(math.log2(self.scale)), self.fine)


class _Maps:
    def __init__(self, module: Any, card: ModelCard, steps: int, fine: bool) -> None:
        self._module, self._card, self._steps, self._fine = module, card, steps, fine

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.stack([self._one(image) for image in batch])

    def _one(self, image: torch.Tensor) -> torch.Tensor:
        found = maps_of(self._module, image, self._steps, self._fine, self._card.path)
        return torch.cat([found[name].float().reshape(-1) for name in (SEMANTIC, CENTRES, OFFSETS)])


def maps_of(module: Any, image: torch.Tensor, steps: int, fine: bool, name: str) -> dict[str, torch.Tensor]:
    """The maps of an image [1, 1, Y, X] by their names."""
    with torch.inference_mode():
        try:
            found = module(image, steps, fine)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a foreign network: whatever it raises
            line = str(error).strip().rpartition("\n")[2]
            raise ModelError(f"{name} refuses an image of {tuple(image.shape)}: {line[:200]}") from error
    missing = [key for key in (SEMANTIC, CENTRES, OFFSETS) if not isinstance(found, dict) or key not in found]
    if missing:
        raise ModelError(f"{name} does not return {', '.join(missing)}; it is no panoptic network")
    return found  # type: ignore[no-any-return]
