"""Ink networks as a sweep over rows sees them: layers are channels, rows come first.

[B, layers, rows, 1, columns] -> network -> probabilities [B, channels, rows, 1, columns]
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from voxweft.nets.timesformer import TimeSformer


class SurfaceNetwork(torch.nn.Module):
    """Ink probabilities float32 [B, 1, Y, 1, X] of layers [B, L, Y, 1, X].

    Parameters
    ----------
    network
        A TimeSformer, [B, L, 1, Y, X] -> [B, k * k] row by row, or a network that gives logits [B, 1, k, k], or of any
        smaller size, of a volume [B, 1, L, Y, X].
    normalization
        Of the one channel [B, 1, L, Y, X] before a TimeSformer, or nothing.
    """

    def __init__(self, network: torch.nn.Module, normalization: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.normalization = network, normalization or torch.nn.Identity()
        self.side = math.isqrt(network.size.num_classes) if isinstance(network, TimeSformer) else 0

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        volume = self.normalization(layers.squeeze(3).unsqueeze(1))
        if self.side:
            logits = self.network(volume.transpose(1, 2)).unflatten(1, (1, self.side, self.side))
        else:
            logits = self.network(volume)
        size = (layers.shape[2], layers.shape[4])
        wide = functional.interpolate(logits.float().sigmoid(), size, mode="bilinear", align_corners=False)
        return wide.unsqueeze(3)


class ProbabilityNetwork(torch.nn.Module):
    """Probabilities float32 [B, C, Y, 1, X] of layers [B, L, Y, 1, X] by a network that gives them as [B, C, Y, X]."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        return self.network(layers.squeeze(3).unsqueeze(1)).unsqueeze(3)  # type: ignore[no-any-return]
