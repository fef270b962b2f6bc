"""ResNet3D with a decoder in three dimensions: ink of a surface volume, and ink of each of its voxels.

    backbone  four maps [B, 4 w .. 32 w, Z .. Z/8, Y/4 .. Y/32, X/4 .. X/32], see resnet3d
      each    1 x 1 x 1 to w .. 8 w channels, GroupNorm, ReLU
      up      enlarged to the next finer map and joined with it: two 3 x 3 x 3 convolutions beside a 1 x 1 x 1 one
    features  [B, w, Z, Y/4, X/4]
      collapse "features"   attention over z weighs the features; their sum becomes one logit
      collapse "logits"     every voxel has a logit; attention over z, which knows where z is, weighs the logits

The published networks have w = 64. ``resnet3d-152-3d-decoder`` (villa, ``optimized_inference``) collapses features,
Hecate (villa, ``ink_detection/models/canonical_projection.py``) logits. Names in the state dict are theirs. In the
Hecate of 9.6 micrometres the stem keeps the resolution: features are [B, w, Z, Y, X].

Evaluation needs little memory: a map is reduced to a quarter of its channels as soon as it is there, then let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from voxweft.errors import ModelError
from voxweft.nets.resnet3d import ResNet3d, ResNet3dSize, Shapes, by_planes, in_turn, is_large

FEATURES, LOGITS = "features", "logits"
MOST_GROUPS = 32  # of a GroupNorm
NOWHERE = -1e4  # score of a voxel without input: no attention
UNSEEN = -20.0  # logit of a plane that the network does not see
LEAST = 1e-8  # sum of attention
CHANNELS = 16  # of a large map that are enlarged at once


@dataclass(frozen=True, slots=True)
class Decoder3dSize:
    """All that fixes the shapes of an :class:`InkDecoder3d`.

    Attributes
    ----------
    backbone
        Of the ResNet3D.
    reduced
        Channels of the four maps after their reduction.
    collapse
        "features" or "logits".
    margin
        Planes at either end that the network does not see.
    pooled
        Whether the stem has strides (1, 2, 2) and a maximum, which makes the features a quarter of the size.
    """

    backbone: ResNet3dSize
    reduced: tuple[int, ...]
    collapse: str = FEATURES
    margin: int = 0
    pooled: bool = True

    @classmethod
    def of(cls, state: Shapes, collapse: str = FEATURES, margin: int = 0) -> Decoder3dSize:
        """Sizes from the shapes of a state dict; a stem of 3 x 3 x 3 is one that keeps the resolution.

        Raises
        ------
        ModelError
            If the backbone is none that is known, or the decoder has no four reductions.
        """
        backbone = ResNet3dSize.of(state)
        names = [f"decoder.channel_reduce.{s}.0.weight" for s in range(4)]
        if missing := [n for n in names if n not in state or state[n].ndim != 5]:
            raise ModelError(f"the state dict of a 3-D decoder has no {missing[0]!r}, or one of another shape")
        reduced = tuple(int(state[n].shape[0]) for n in names)
        return cls(backbone, reduced, collapse, margin, pooled=backbone.stem[1:] != (3, 3, 3))

    def unused(self, state: Shapes) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that training alone needs: of the groups of which there is any, all."""
        n_classes = state["backbone.fc.bias"].shape[0] if "backbone.fc.bias" in state else 1
        groups: dict[str, dict[str, tuple[int, ...]]] = {
            "backbone.fc.": {"weight": (n_classes, self.backbone.outer[-1]), "bias": (n_classes,)}
        }
        for scale in (2, 1):
            groups[f"decoder.aux_head_s{scale}.conv."] = {"weight": (1, self.reduced[scale], 1, 1), "bias": (1,)}
        there = {prefix: shapes for prefix, shapes in groups.items() if any(k.startswith(prefix) for k in state)}
        return {prefix + name: shape for prefix, shapes in there.items() for name, shape in shapes.items()}


class InkDecoder3d(nn.Module):
    """Ink probabilities float32 of a surface volume [B, 1, Z, Y, X]: [B, 1, Y, X], or with depth [B, 1 + Z, Y, X].

    Parameters
    ----------
    size
        Its shapes.
    depth_output
        Whether the probabilities of all voxels follow that of the surface, from the same features; needs the collapse
        of logits.

    Notes
    -----
    With the collapse of logits a column without any voxel but zeros has probability 0, and gives no attention.
    """

    def __init__(self, size: Decoder3dSize, *, depth_output: bool = False) -> None:
        super().__init__()
        if depth_output and size.collapse != LOGITS:
            raise ModelError(
                "this network has no probabilities of voxels; they need a collapse of logits, as of Hecate"
            )
        self.size, self.depth_output = size, depth_output
        self.normalization: nn.Module = nn.BatchNorm3d(1) if size.backbone.normalization else nn.Identity()
        self.backbone = ResNet3d(size.backbone, pooled=size.pooled)
        self.decoder = _Decoder3d(size.backbone.outer, size.reduced)
        if size.collapse == LOGITS:
            self.depth_coordinate_scale = nn.Parameter(torch.zeros(()))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        margin, depth = self.size.margin, volume.shape[2]
        seen = self.normalization(volume[:, :, margin : depth - margin])
        features = self.decoder(self.backbone(seen, self.decoder.channel_reduce))
        size = (volume.shape[3], volume.shape[4])
        if self.size.collapse == FEATURES:
            return _enlarged(self.decoder.collapsed(features), size)
        known = (volume != 0).any(2)  # [B, 1, Y, X]
        logits = self._voxel_logits(features)
        flat = _enlarged((self._attention(features, known) * logits).sum(2), size)
        if not self.depth_output:
            return flat * known
        full = functional.interpolate(logits, (depth - 2 * margin, *size), mode="trilinear", align_corners=False)
        full = functional.pad(full, (0, 0, 0, 0, margin, margin), value=UNSEEN)
        return torch.cat((flat, full[:, 0].sigmoid()), 1) * known

    def fold(self) -> InkDecoder3d:
        """Put the batch normalisations of the loaded backbone into its convolutions; for evaluation only."""
        self.backbone.fold()
        return self

    def _voxel_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1, Z, Y, X] by the head for the surface, used at every voxel."""
        head = self.decoder.logit
        bias = None if head.bias is None else head.bias.float()
        return functional.conv3d(features.float(), head.weight.float().unsqueeze(2), bias).float()

    def _attention(self, features: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Weights [B, 1, Z, Y, X] of planes; nothing where there is no input."""
        depth, half = features.shape[2], features.shape[2] // 2
        places = (torch.arange(depth, device=features.device, dtype=torch.float32) - half) / max(half, 1)
        scores = self.decoder.depth_collapse.attn_conv(features).float()
        scores = scores + self.depth_coordinate_scale.float() * places.view(1, 1, -1, 1, 1)
        stride = known.shape[-1] // features.shape[-1]
        here = functional.max_pool2d(known.float(), stride).bool().unsqueeze(2)
        weights = scores.masked_fill(~here, NOWHERE).softmax(2) * here
        return weights / weights.sum(2, keepdim=True).clamp_min(LEAST)  # type: ignore[no-any-return]


class _Reduce(nn.Sequential):
    """A convolution of single voxels, and what comes after it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm, activation = self
        return activation(norm(by_planes(conv, x)))  # type: ignore[arg-type, no-any-return]


class _Decoder3d(nn.Module):
    """Maps of four scales to features at the finest; and those to a logit."""

    def __init__(self, widths: Sequence[int], reduced: Sequence[int]) -> None:
        super().__init__()
        self.channel_reduce = nn.ModuleList(
            _Reduce(nn.Conv3d(w, r, 1, bias=False), _group_norm(r), nn.ReLU(inplace=True))
            for w, r in zip(widths, reduced, strict=True)
        )
        self.decoder_blocks = nn.ModuleList(
            _Block(reduced[s + 1] + reduced[s], reduced[s]) for s in range(len(reduced) - 2, -1, -1)
        )
        self.depth_collapse = _DepthCollapse(reduced[0])
        self.logit = nn.Conv2d(reduced[0], 1, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Features [B, reduced[0], Z, Y, X] of reduced maps, which are taken out of the list."""
        x = maps.pop()
        for block in self.decoder_blocks:
            x = block(x, maps.pop())
        return x

    def collapsed(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, 1, Y, X]."""
        weights = self.depth_collapse.attn_conv(features).softmax(2)
        return self.logit((features * weights).sum(2))  # type: ignore[no-any-return]


def _joined(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """A coarse map enlarged to a fine one, and that one behind it; a few channels of a large one at a time."""
    n, size = coarse.shape[1], fine.shape[2:]
    if not is_large(fine, 2 * n * size.numel()):
        enlarged = functional.interpolate(coarse, size, mode="trilinear", align_corners=False)
        return torch.cat((enlarged, fine), 1)
    both = fine.new_empty((len(fine), n + fine.shape[1], *size))
    both[:, n:] = fine
    for part in range(0, n, CHANNELS):
        few = slice(part, min(n, part + CHANNELS))
        both[:, few] = functional.interpolate(coarse[:, few], size, mode="trilinear", align_corners=False)
    return both


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), _group_norm(outputs)
        self.conv2, self.gn2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False), _group_norm(outputs)
        self.shortcut = nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        with in_turn(fine, (coarse.shape[1] + fine.shape[1]) * fine[0, 0].numel()):
            return self._forward(coarse, fine)

    def _forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        both = _joined(coarse, fine)
        del coarse, fine
        beside, x = by_planes(self.shortcut, both), by_planes(self.conv1, both)
        del both
        x = self.gn2(by_planes(self.conv2, functional.relu_(self.gn1(x))))
        return functional.relu_(x.add_(beside))


class _DepthCollapse(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn_conv = nn.Conv3d(channels, 1, 1)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(MOST_GROUPS, channels), channels)


def _enlarged(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Probabilities of logits [B, 1, y, x], enlarged to Y, X."""
    return functional.interpolate(logits.float().sigmoid(), size, mode="bilinear", align_corners=False)
