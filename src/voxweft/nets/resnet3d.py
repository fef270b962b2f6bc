"""ResNet3D with a 2-D decoder: bottleneck residual network (Hara et al. 2018, arXiv 1711.09577) for ink detection.

    [B, 1, Z, Y, X] -> stem: 7 x 7 x 7 with stride (1, 2, 2), maximum over 1 x 3 x 3 with stride (1, 2, 2)
      layer1  [B, 4 w, Z, Y/4, X/4]        -- maximum over z --> map 0 --------------------- cat, 3 x 3 --> logit
      layer2  [B, 8 w, Z/2, Y/8, X/8]      -- maximum over z --> map 1 ------- cat, 3 x 3 -- x2 /
      layer3  [B, 16 w, Z/4, Y/16, X/16]   -- maximum over z --> map 2 -- cat, 3 x 3 -- x2 /
      layer4  [B, 32 w, Z/8, Y/32, X/32]   -- maximum over z --> map 3 -- x2 /

The published networks have w = 64. Names in the state dict are those of the ink checkpoints of Vesuvius Challenge.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional

from voxweft.errors import ModelError

LARGE = 1 << 25  # values of a map beyond which a block makes its sum a few planes at a time
PLANES = 8
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
Shapes = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class ResNet3dSize:
    """All that fixes the shapes of an :class:`InkResNet3d`.

    Attributes
    ----------
    depth
        Key of ``BLOCKS``.
    stem
        Output channels of the first convolution and its kernel (z, y, x).
    inner, outer
        Channels within and after the blocks of the four stages.
    normalization
        Whether the input passes a batch normalisation of its one channel.
    """

    depth: int
    stem: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    normalization: bool = False

    @classmethod
    def of(cls, state: Shapes) -> ResNet3dSize:
        """Sizes from the shapes of a state dict.

        Raises
        ------
        ModelError
            If it is no bottleneck ResNet3D of a known depth.
        """
        found = tuple(len({k.split(".")[2] for k in state if k.startswith(f"backbone.layer{s}.")}) for s in range(1, 5))
        depth = next((d for d, blocks in BLOCKS.items() if blocks == found), 0)
        names = ["backbone.conv1.weight", *(f"backbone.layer{s}.0.conv{c}.weight" for s in range(1, 5) for c in (1, 3))]
        if not depth or any(n not in state or state[n].ndim != 5 for n in names):
            raise ModelError(
                f"a ResNet3D with {', '.join(map(str, found))} blocks is none of {', '.join(map(str, BLOCKS))} layers "
                "made of bottlenecks, which are the ones supported"
            )
        stem, *rest = (tuple(state[n].shape) for n in names)
        return cls(
            depth=depth,
            stem=(stem[0], *stem[2:]),
            inner=tuple(s[0] for s in rest[::2]),
            outer=tuple(s[0] for s in rest[1::2]),
            normalization=any(k.startswith("normalization.") for k in state),
        )


class InkResNet3d(torch.nn.Module):
    """Ink logits float32 [B, 1, Y/4, X/4] of a surface volume [B, 1, Z, Y, X]; Y and X are multiples of 32."""

    def __init__(self, size: ResNet3dSize) -> None:
        super().__init__()
        self.size = size
        self.normalization = torch.nn.BatchNorm3d(1) if size.normalization else torch.nn.Identity()
        self.backbone = ResNet3d(size)
        self.decoder = _Decoder(size.outer)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Logits."""
        maps = self.backbone(self.normalization(volume))
        return self.decoder([m.amax(2) for m in maps])  # type: ignore[no-any-return]


class ResNet3d(torch.nn.Module):
    """The four feature maps [B, outer[s], Z / 2^s, Y / 2^(s+2), X / 2^(s+2)] of a volume [B, 1, Z, Y, X].

    Parameters
    ----------
    size
        Its shapes.
    pooled
        Whether the stem makes Y and X four times smaller; else the maps have Y / 2^s and X / 2^s.
    """

    def __init__(self, size: ResNet3dSize, *, pooled: bool = True) -> None:
        super().__init__()
        width, *kernel = size.stem
        self.pooled = pooled
        self.conv1 = _convolution(1, width, kernel, (1, 2, 2) if pooled else (1, 1, 1))
        self.bn1: torch.nn.Module = torch.nn.BatchNorm3d(width)
        before = (width, *size.outer)
        for s, n_blocks in enumerate(BLOCKS[size.depth]):
            strides = [1 if s == 0 else 2] + [1] * (n_blocks - 1)
            inputs = [before[s]] + [before[s + 1]] * (n_blocks - 1)
            blocks = (_Bottleneck(i, size.inner[s], size.outer[s], t) for i, t in zip(inputs, strides, strict=True))
            setattr(self, f"layer{s + 1}", torch.nn.Sequential(*blocks))

    def forward(
        self, volume: torch.Tensor, reduce: Iterable[torch.nn.Module] = (torch.nn.Identity(),) * 4
    ) -> list[torch.Tensor]:
        """Feature maps, the finest first; each as ``reduce`` leaves it, so that the map itself can go."""
        x = functional.relu_(self.bn1(self.conv1(volume)))
        if self.pooled:
            x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        maps = []
        for s, reduced in enumerate(reduce, 1):
            for block in getattr(self, f"layer{s}"):
                x = block(x)
            maps.append(reduced(x))
        return maps

    def fold(self) -> None:
        """Put the batch normalisations into the convolutions before them."""
        self.conv1, self.bn1 = _folded(self.conv1, self.bn1)
        for s in range(1, 5):
            for block in getattr(self, f"layer{s}"):
                block.fold()


class _Bottleneck(torch.nn.Module):
    def __init__(self, inputs: int, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, inner, (1, 1, 1)), _batch_norm(inner)
        self.conv2, self.bn2 = _convolution(inner, inner, (3, 3, 3), (stride,) * 3), _batch_norm(inner)
        self.conv3, self.bn3 = _convolution(inner, outer, (1, 1, 1)), _batch_norm(outer)
        self.downsample: torch.nn.Module = torch.nn.Identity()
        if stride > 1 or inputs != outer:
            self.downsample = torch.nn.Sequential(
                _convolution(inputs, outer, (1, 1, 1), (stride,) * 3), _batch_norm(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with in_turn(x, max(x.shape[1], self.conv3.out_channels // self.conv2.stride[0] ** 3) * x[0, 0].numel()):
            return self._forward(x)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu_(self.bn1(by_planes(self.conv1, x)))
        inner = functional.relu_(self.bn2(self.conv2(inner)))
        kept = self._beside(x)
        if not is_large(inner, inner[0, 0].numel() * self.conv3.out_channels):
            return functional.relu_(self.bn3(self.conv3(inner)).add_(kept))
        # a block is the only one that needs its input: the sum takes its place
        for z in range(0, kept.shape[2], PLANES):
            kept[:, :, z : z + PLANES].add_(self.bn3(self.conv3(inner[:, :, z : z + PLANES])))
        return functional.relu_(kept)

    def _beside(self, x: torch.Tensor) -> torch.Tensor:
        """The input as it is added: itself, or through the convolution of one voxel; of a large one what that needs."""
        if not is_large(x, x[0].numel()) or not isinstance(self.downsample, torch.nn.Sequential):
            return self.downsample(x)  # type: ignore[no-any-return]
        conv, norm = self.downsample
        s = self.conv2.stride[0]
        seen = x[:, :, ::s, ::s, ::s].contiguous()
        return norm(functional.conv3d(seen, conv.weight, conv.bias))  # type: ignore[arg-type, no-any-return]

    def fold(self) -> None:
        """See :meth:`ResNet3d.fold`."""
        self.conv1, self.bn1 = _folded(self.conv1, self.bn1)
        self.conv2, self.bn2 = _folded(self.conv2, self.bn2)
        self.conv3, self.bn3 = _folded(self.conv3, self.bn3)
        if isinstance(self.downsample, torch.nn.Sequential):
            self.downsample = torch.nn.Sequential(*_folded(*self.downsample))


class _Decoder(torch.nn.Module):
    """Maps of four scales to one logit at the finest."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(fine + coarse, fine, 3, padding=1, bias=False), torch.nn.BatchNorm2d(fine)
            )
            for fine, coarse in pairwise(widths)
        )
        self.logit = torch.nn.Conv2d(widths[0], 1, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        x = maps[-1]
        for fine, merge in zip(maps[-2::-1], list(self.convs)[::-1], strict=True):
            enlarged = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = functional.relu(merge(torch.cat((fine, enlarged), 1)))
        return self.logit(x)  # type: ignore[no-any-return]


def _convolution(
    inputs: int, outputs: int, kernel: Sequence[int], stride: tuple[int, int, int] = (1, 1, 1)
) -> torch.nn.Conv3d:
    k = (kernel[0], kernel[1], kernel[2])
    return torch.nn.Conv3d(inputs, outputs, k, stride, (k[0] // 2, k[1] // 2, k[2] // 2), bias=False)


def _batch_norm(channels: int) -> torch.nn.Module:
    return torch.nn.BatchNorm3d(channels)


@contextmanager
def in_turn(x: torch.Tensor, n_values: int) -> Iterator[None]:
    """Let one thread at a time work on large maps, of so many values: two would take twice the memory."""
    with _turn if is_large(x, n_values) else nullcontext():
        yield


_turn = threading.Lock()


def by_planes(conv: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """What a convolution of stride 1 makes of a map; of a large one a few planes at a time.

    The library copies what it convolves to a layout of its own, which is then a copy of those planes only.
    """
    if not is_large(x, 4 * x[0].numel()):
        return conv(x)  # type: ignore[no-any-return]
    depth, reach = x.shape[2], conv.kernel_size[0] // 2
    made = x.new_empty((len(x), conv.out_channels, *x.shape[2:]))
    for z in range(0, depth, PLANES):
        end = min(depth, z + PLANES)
        lo, hi = max(0, z - reach), min(depth, end + reach)
        planes = functional.pad(x[:, :, lo:hi], (0, 0, 0, 0, reach - (z - lo), reach - (hi - end)))
        made[:, :, z:end] = functional.conv3d(planes, conv.weight, conv.bias, 1, (0, reach, reach))
    return made


def is_large(x: torch.Tensor, n_values: int) -> bool:
    """Whether a map of so many values is made in pieces: on a CPU, and unless a runtime records what is done."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    recorded = tracing or torch.compiler.is_exporting() or torch.compiler.is_compiling()
    return n_values >= LARGE and x.device.type == "cpu" and not recorded


def _folded(conv: torch.nn.Conv3d, norm: torch.nn.Module) -> tuple[torch.nn.Conv3d, torch.nn.Module]:
    """A convolution that normalises as well, and nothing."""
    if not isinstance(norm, torch.nn.BatchNorm3d) or norm.running_mean is None or norm.running_var is None:
        return conv, norm
    with torch.no_grad():
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        conv.weight.mul_(scale.view(-1, 1, 1, 1, 1))  # in its place: memory holds all weights once
        conv.bias = torch.nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    return conv, torch.nn.Identity()
