"""Hybrid of three and two dimensions: a small stem that knows depth, then a U-Net in the plane, for ink detection.

    [B, 1, Z, Y, X] -> twice 3 x 3 x 3, InstanceNorm, LeakyReLU: features [B, s, Z, Y, X]
      attention over z (one score a voxel) weighs them: sum  [B, s, Y, X] --.
      maximum over z                                         [B, s, Y, X] --- joined [B, 2 s, Y, X]
    residual encoder, decoder with one convolution a stage, 1 x 1 head: logits [B, 1, Y, X]

The networks of ``scrollprize/ink_9um`` have s = 16 and six stages of 32 to 320 channels (villa,
``ink_detection/models/hybrid_3d2d.py``: 508 tensors, 68,175,426 numbers, as every convolution is stored under two
names). The U-Net is made of dynamic-network-architectures, on which villa's is modelled; the names are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from voxweft.errors import ModelError
from voxweft.nets.resnet3d import Shapes

ENCODER, SHARED, APART, HEADS = (
    "network.shared_encoder",
    "network.shared_decoder",
    "network.task_decoders",
    "network.task_heads",
)
NORM = {"eps": 1e-5, "affine": True}


@dataclass(frozen=True, slots=True)
class HybridSize:
    """All that fixes the shapes of an :class:`InkHybrid`.

    Attributes
    ----------
    stem
        Channels of the stem in three dimensions.
    features, n_blocks, kernels
        Of the stages of the encoder: channels, residual blocks, side of the kernels.
    strides
        Of the stages; that of the first is 1.
    n_convs
        Of the stages of the decoder, the coarsest first.
    target
        What the network names its output.
    shared
        Whether the decoder is one that tasks share, with a head for each.
    bias
        Whether convolutions have one.
    """

    stem: int
    features: tuple[int, ...]
    n_blocks: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    n_convs: tuple[int, ...]
    target: str
    shared: bool
    bias: bool

    @classmethod
    def of(cls, state: Shapes) -> HybridSize:
        """Sizes from the names and shapes of a state dict.

        Raises
        ------
        ModelError
            If it has no such stages, or not exactly one target.
        """
        n_stages = _count(state, f"{ENCODER}.stages.")
        shared = any(k.startswith(f"{SHARED}.") for k in state)
        place = f"{HEADS}." if shared else f"{APART}."
        targets = sorted({k.removeprefix(place).split(".")[0] for k in state if k.startswith(place)})
        if n_stages < 2 or len(targets) != 1:
            found = ", ".join(targets) or "none"
            raise ModelError(
                f"a hybrid ink network has at least two stages and one target; this one has {n_stages} and {found}"
            )
        decoder = SHARED if shared else f"{APART}.{targets[0]}"
        first = [f"{ENCODER}.stages.{s}.blocks.0.conv1.conv" for s in range(n_stages)]
        shapes = [_shape(state, f"{name}.weight") for name in first]
        ups = [_shape(state, f"{decoder}.transpconvs.{s}.weight") for s in range(n_stages - 1)]
        return cls(
            stem=_shape(state, "depth_fusion.attention_logits.weight")[1],
            features=tuple(s[0] for s in shapes),
            n_blocks=tuple(_count(state, f"{ENCODER}.stages.{s}.blocks.") for s in range(n_stages)),
            kernels=tuple(s[-1] for s in shapes),
            strides=(1, *(s[-1] for s in reversed(ups))),
            n_convs=tuple(_count(state, f"{decoder}.stages.{s}.convs.") for s in range(n_stages - 1)),
            target=targets[0],
            shared=shared,
            bias=f"{first[0]}.bias" in state,
        )

    @property
    def divisor(self) -> int:
        """Rows and columns of a tile are a multiple of this."""
        return math.prod(self.strides)


class InkHybrid(nn.Module):
    """Ink logits float32 [B, 1, Y, X] of a volume [B, 1, Z, Y, X]; Y and X are multiples of ``size.divisor``."""

    def __init__(self, size: HybridSize) -> None:
        super().__init__()
        self.size = size
        self.depth_fusion = _DepthFusion(size.stem)
        self.network = _PlaneNetwork(size)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.network(self.depth_fusion(volume))  # type: ignore[no-any-return]


class _DepthFusion(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (1, channels):
            layers.append(nn.Conv3d(inputs, channels, 3, padding=1, bias=False))
            layers += [nn.InstanceNorm3d(channels, affine=True), nn.LeakyReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.attention_logits = nn.Conv3d(channels, 1, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        features = self.features(volume)
        weights = self.attention_logits(features).float().softmax(2).to(features.dtype)
        return torch.cat(((features * weights).sum(2), features.amax(2)), 1)


class _PlaneNetwork(nn.Module):
    """Encoder, decoder and head under the names of the trainer."""

    def __init__(self, size: HybridSize) -> None:
        super().__init__()
        self.shared_encoder = ResidualEncoder(
            input_channels=2 * size.stem,
            n_stages=len(size.features),
            features_per_stage=size.features,
            conv_op=nn.Conv2d,
            kernel_sizes=size.kernels,
            strides=size.strides,
            n_blocks_per_stage=size.n_blocks,
            conv_bias=size.bias,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs=NORM,
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        decoder = UNetDecoder(self.shared_encoder, 1, size.n_convs, deep_supervision=False)
        decoder.encoder = None  # it is stored once
        self.task_heads = nn.ModuleDict()
        if size.shared:
            decoder.seg_layers = nn.ModuleList([nn.Identity()])
            self.shared_decoder = decoder
            self.task_heads[size.target] = nn.Conv2d(size.features[0], 1, 1)
        else:
            self.task_decoders = nn.ModuleDict({size.target: decoder})
        self._target, self._shared = size.target, size.shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = self.shared_encoder(x)
        if self._shared:
            return self.task_heads[self._target](self.shared_decoder(skips))  # type: ignore[no-any-return]
        return self.task_decoders[self._target](skips)  # type: ignore[no-any-return]


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbered modules there are behind a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def _shape(state: Shapes, name: str) -> tuple[int, ...]:
    if name not in state:
        raise ModelError(f"the state dict of a hybrid ink network has no {name!r}")
    return tuple(state[name].shape)
