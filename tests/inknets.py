"""Small ink networks with random weights, and checkpoints of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from voxweft.nets.resnet3d import InkResNet3d, ResNet3dSize
from voxweft.nets.timesformer import TimeSformer, TimeSformerSize

SIZE = TimeSformerSize(
    dim=16, image_size=32, patch_size=8, num_frames=5, num_classes=16, depth=2, heads=2, dim_head=8, channels=1
)


def small_timesformer(seed: int = 0, **other: Any) -> TimeSformer:
    torch.manual_seed(seed)
    size = TimeSformerSize(**{**{f: getattr(SIZE, f) for f in SIZE.__slots__}, **other})
    return TimeSformer(size).eval().requires_grad_(False)


def narrow_resnet(depth: int = 50, normalization: bool = False, divisor: int = 16, seed: int = 0) -> InkResNet3d:
    """The published network with widths divided, and running statistics that are not those of no training."""
    torch.manual_seed(seed)
    inner = tuple(n // divisor for n in (64, 128, 256, 512))
    stem = (64 // divisor, 7, 7, 7)
    net = InkResNet3d(ResNet3dSize(depth, stem, inner, tuple(4 * n for n in inner), normalization))
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return net.eval().requires_grad_(False)


def backbone(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"backbone.{k}": v for k, v in state.items()}


def lightning(path: Path, state: dict[str, torch.Tensor], **hyper: Any) -> Path:
    """A checkpoint in the layout of the villa ink code."""
    torch.save({"state_dict": state, "hyper_parameters": hyper, "epoch": 3}, path)
    return path
