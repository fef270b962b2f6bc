"""The U-Net of the vesuvius trainer: one encoder for all targets, decoders that targets share or have alone.

    x -> stem -> stage 0 -> stage 1 -> ... -> stage n            shared_encoder
                    |          |                |
                  skip 0     skip 1 ...      up, cat, convolve   shared_decoder, or task_decoders.NAME
                                                |
                               1 x 1 x 1 convolution a target    task_heads.NAME, or task_decoders.NAME.seg_layers

Names in the state dict are those that ``vesuvius.train`` saves. The blocks are those of nnU-Net (Isensee et al. 2021),
from the package dynamic-network-architectures. Targets give logits: an activation that the trainer applies to them in
evaluation is left to those who blend them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_pool_op
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD, StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import nn
from torch.nn import functional

BLOCKS = {"BasicBlockD": BasicBlockD, "BottleneckBlockD": BottleneckD, "ConvBlock": None}
ACTIVATIONS = {"LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU}
UPSAMPLING = ("transpconv", "trilinear", "pixelshuffle")
Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """What the network is to tell: its name, its channels, and whether it has a decoder of its own."""

    name: str
    n_channels: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class TrainerSize:
    """All that fixes the shapes of a :class:`TrainerUNet`; a number for each stage, the finest first.

    Attributes
    ----------
    n_inputs, targets
        Input channels; what comes out.
    features, n_blocks, kernels, strides
        Channels of the stages, their blocks, kernels and strides z y x (y x of a network for images).
    n_decoder_blocks
        Blocks of the decoder at all stages but the coarsest, which comes first.
    encoder, decoder
        Keys of ``BLOCKS``.
    stem
        Channels of the convolution before the stages; 0: there is none.
    bottleneck
        Inner channels of bottleneck blocks.
    bias, dropout, norm_eps, affine
        Of convolutions; probability, or None where the network was built without; of the instance normalisation.
    activation, slope
        A key of ``ACTIVATIONS``; for negative values.
    pool
        "conv" (strides), or "avg" or "max" before a stage.
    upsampling
        One of ``UPSAMPLING``.
    """

    n_inputs: int
    targets: tuple[Target, ...]
    features: tuple[int, ...]
    n_blocks: tuple[int, ...]
    kernels: Sizes
    strides: Sizes
    n_decoder_blocks: tuple[int, ...]
    encoder: str = "BasicBlockD"
    decoder: str = "ConvBlock"
    stem: int = 0
    bottleneck: tuple[int | None, ...] = ()
    bias: bool = True
    dropout: float | None = None
    norm_eps: float = 1e-5
    affine: bool = True
    activation: str = "LeakyReLU"
    slope: float = 0.01
    pool: str = "conv"
    upsampling: str = "transpconv"

    @property
    def n_dimensions(self) -> int:
        """2 or 3."""
        return len(self.kernels[0])

    @property
    def divisor(self) -> tuple[int, ...]:
        """A patch must be a multiple of this, in voxels."""
        return tuple(math.prod(stride[a] for stride in self.strides) for a in range(self.n_dimensions))

    @property
    def convolution(self) -> type[nn.Module]:
        """Of its dimensions."""
        return nn.Conv2d if self.n_dimensions == 2 else nn.Conv3d

    @property
    def shared(self) -> dict[str, Any]:
        """What all blocks take."""
        flat = self.n_dimensions == 2
        dropout = None if self.dropout is None else (nn.Dropout2d if flat else nn.Dropout3d)
        slope = {"negative_slope": self.slope} if self.activation == "LeakyReLU" else {}
        return {
            "conv_op": self.convolution,
            "conv_bias": self.bias,
            "norm_op": nn.InstanceNorm2d if flat else nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": self.norm_eps, "affine": self.affine},
            "dropout_op": dropout,
            "dropout_op_kwargs": {"p": self.dropout} if dropout else None,
            "nonlin": ACTIVATIONS[self.activation],
            "nonlin_kwargs": {"inplace": True, **slope},
        }


class TrainerUNet(nn.Module):
    """[B, n_inputs, Z, Y, X] (or [B, n_inputs, Y, X]) -> logits [B, n_channels, ...] by the names of the targets.

    Parameters
    ----------
    size
        All that fixes its shapes.
    """

    def __init__(self, size: TrainerSize) -> None:
        super().__init__()
        self.shared_encoder = Encoder(size)
        self.task_decoders, self.task_heads = nn.ModuleDict(), nn.ModuleDict()
        self.names = [target.name for target in size.targets]
        if not all(target.alone for target in size.targets):
            self.shared_decoder = Decoder(size, 0)
        for target in size.targets:
            if target.alone:
                self.task_decoders[target.name] = Decoder(size, target.n_channels)
            else:
                self.task_heads[target.name] = size.convolution(size.features[0], target.n_channels, kernel_size=1)

    def keep(self, names: Collection[str]) -> None:
        """Compute these targets only."""
        for name in [name for name in self.names if name not in names]:
            del (self.task_decoders if name in self.task_decoders else self.task_heads)[name]
        self.names = [name for name in self.names if name in names]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of all targets."""
        skips = self.shared_encoder(x)
        shared = self.shared_decoder(skips) if len(self.task_heads) else None
        return {
            name: self.task_heads[name](shared) if name in self.task_heads else self.task_decoders[name](skips)
            for name in self.names
        }


class Encoder(nn.Module):
    """A list of maps, one a stage, the finest first."""

    def __init__(self, size: TrainerSize) -> None:
        super().__init__()
        n_inputs, block, stages = size.n_inputs, BLOCKS[size.encoder], list[nn.Module]()
        self.stem = None
        if size.stem:
            self.stem = StackedConvBlocks(
                num_convs=1,
                input_channels=n_inputs,
                output_channels=size.stem,
                kernel_size=size.kernels[0],
                initial_stride=1,
                **size.shared,
            )
            n_inputs = size.stem
        for s, n_features in enumerate(size.features):
            common = {
                "input_channels": n_inputs,
                "output_channels": n_features,
                "kernel_size": size.kernels[s],
                "initial_stride": size.strides[s] if size.pool == "conv" else 1,
                **size.shared,
            }
            if block is None:
                stages.append(nn.Sequential(StackedConvBlocks(num_convs=size.n_blocks[s], **common)))
            else:
                inner = size.bottleneck[s] if size.bottleneck else None
                stage = StackedResidualBlocks(
                    n_blocks=size.n_blocks[s], block=block, bottleneck_channels=inner, **common
                )
                stages.append(stage if size.pool == "conv" else nn.Sequential(_pool(size, s), stage))
            n_inputs = n_features
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps."""
        maps, x = [], x if self.stem is None else self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """From the maps of the encoder to the finest features, or with ``n_channels`` to logits.

    Every stage has a layer for logits, as deep supervision needs it; only that of the finest is used.
    """

    def __init__(self, size: TrainerSize, n_channels: int) -> None:
        super().__init__()
        block = StackedConvBlocks if size.decoder == "ConvBlock" else StackedResidualBlocks
        stages, ups, logits = list[nn.Module](), list[nn.Module](), list[nn.Module]()
        for n, s in enumerate(reversed(range(len(size.features) - 1))):
            below, here = size.features[s + 1], size.features[s]
            ups.append(_upsampling(size, below, here, size.strides[s + 1]))
            n_of = {"num_convs" if size.decoder == "ConvBlock" else "n_blocks": size.n_decoder_blocks[n]}
            stages.append(
                block(
                    input_channels=2 * here,
                    output_channels=here,
                    kernel_size=size.kernels[s],
                    initial_stride=1,
                    **n_of,
                    **size.shared,
                )
            )
            if n_channels:
                logits.append(size.convolution(here, n_channels, kernel_size=1))
        self.stages, self.transpconvs = nn.ModuleList(stages), nn.ModuleList(ups)
        self.seg_layers = nn.ModuleList(logits)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Features, or logits."""
        x = maps[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(maps[:-1]), strict=True):
            x = stage(torch.cat((up(x), skip), 1))
        return self.seg_layers[-1](x) if len(self.seg_layers) else x


class Interpolated(nn.Module):
    """Enlarged by linear interpolation, then a pointwise convolution."""

    def __init__(self, n_inputs: int, n_outputs: int, stride: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.scale = [float(n) for n in stride]
        self.conv = nn.Conv3d(n_inputs, n_outputs, kernel_size=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n_outputs, Z', Y', X']."""
        return self.conv(functional.interpolate(x, scale_factor=self.scale, mode="trilinear", align_corners=False))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """A pointwise convolution whose channels become the voxels of blocks with side ``r``: channel, z, y, x in order."""

    def __init__(self, n_inputs: int, n_outputs: int, stride: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.r, self.n_outputs = stride[0], n_outputs
        self.conv = nn.Conv3d(n_inputs, n_outputs * self.r**3, kernel_size=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n_outputs, Z r, Y r, X r]."""
        n, (z, y, x_) = self.r, x.shape[2:]
        blocks = self.conv(x).reshape(-1, self.n_outputs, n, n, n, z, y, x_)
        return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(-1, self.n_outputs, z * n, y * n, x_ * n)  # type: ignore[no-any-return]


def _upsampling(size: TrainerSize, n_inputs: int, n_outputs: int, stride: tuple[int, ...]) -> nn.Module:
    if size.upsampling != "transpconv":
        kind = Interpolated if size.upsampling == "trilinear" else Shuffled
        return kind(n_inputs, n_outputs, stride, size.bias)
    transposed = nn.ConvTranspose2d if size.n_dimensions == 2 else nn.ConvTranspose3d
    return transposed(n_inputs, n_outputs, stride, stride, bias=size.bias)  # type: ignore[arg-type]


def _pool(size: TrainerSize, stage: int) -> nn.Module:
    kind = get_matching_pool_op(conv_op=size.convolution, pool_type=size.pool)
    return kind(size.strides[stage])  # type: ignore[no-any-return]
