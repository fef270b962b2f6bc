"""Networks for tests and benchmarks: ``fake://NAME?classes=2&patch=64,64,64``.

=======  ====================================================================================================
null     one 1 x 1 x 1 convolution: the engine's own cost
blur     two 3 x 3 x 3 convolutions with InstanceNorm, fixed random weights: the tiling matters
kill     like null, but the process dies (SIGKILL) when a patch holds ``value`` and FILE does not exist
labels   panoptic: the image holds labels, and the maps are those that give these objects back
=======  ====================================================================================================

``delay=50`` makes every forward pass 50 ms longer.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlparse

import torch

from voxweft.backends.maps import PanopticModel
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import CENTRES, COARSE, OFFSETS, SEMANTIC, Head


def load(url: str, *, inference_scale: int = 1, fine_boundaries: bool = False) -> TorchModel | PanopticModel:
    """Make the network of an URL; the arguments are those of a panoptic network."""
    name, query = urlparse(url).netloc, dict(parse_qsl(urlparse(url).query))
    if name == "labels":
        return _labels(url, query, inference_scale, fine_boundaries)
    try:
        z, y, x = (int(n) for n in query.get("patch", "64,64,64").split(","))
        n_inputs, n_classes = int(query.get("inputs", 1)), int(query.get("classes", 2))
        delay_ms = int(query.get("delay", 0))
    except ValueError as error:
        raise ModelError(f"{url}: patch=z,y,x, inputs, classes and delay must be whole numbers") from error
    makers = {"null": _null, "blur": _blur, "kill": _null}
    if name not in makers:
        raise ModelError(f"{url}: unknown fake; use one of {', '.join(makers)}")
    module = makers[name](n_inputs, n_classes)
    if name == "kill":
        module = _Kill(module, float(query.get("value", 255)), query.get("file", ""))
    if delay_ms:
        module = _Slow(module, delay_ms / 1000)
    card = ModelCard(
        path=url,
        format="fake",
        digest=hashlib.sha256(url.encode()).hexdigest(),
        patch_zyx=(z, y, x),
        n_inputs=n_inputs,
        n_classes=n_classes,
        activation="sigmoid" if n_classes == 1 else "softmax",
        normalization=(Normalization(query.get("normalization", "none")),),
    )
    return TorchModel(
        card,
        [module.eval().requires_grad_(False)],
        ("torch",) if name == "kill" or delay_ms else ("torch", "jit", "openvino", "graph", "compile"),
    )


def _labels(url: str, query: dict[str, str], scale: int, fine: bool) -> PanopticModel:
    coarse = 1 if fine else COARSE
    card = ModelCard(
        path=url,
        format="fake",
        digest=hashlib.sha256(url.encode()).hexdigest(),
        patch_zyx=None,
        n_classes=4,
        divisor_zyx=(1, 16, 16),
        class_names=("background", "object"),
        n_dimensions=2,
        heads=(
            Head(SEMANTIC, 1, "sigmoid"),
            Head(CENTRES, 1, "none", (1, coarse, coarse)),
            Head(OFFSETS, 2, "none", (1, coarse, coarse)),
        ),
        things=(1,),
    )
    delay_s = int(query.get("delay", 0)) / 1000
    return PanopticModel(card, _Labels(delay_s), scale, fine)


class _Labels(torch.nn.Module):
    """Exact maps of labels: every object has one centre, and the offsets of its pixels lead there."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__()
        self._delay_s = delay_s

    def forward(self, x: torch.Tensor, render_steps: int, interpolate_ins: bool) -> dict[str, torch.Tensor]:
        time.sleep(self._delay_s)
        height, width = x.shape[-2:]
        step = 1 if interpolate_ins else COARSE
        labels = x[0, 0].round().long()
        values, index = torch.unique(labels, return_inverse=True)
        place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).float()
        n = torch.bincount(index.reshape(-1))
        mean = torch.stack([torch.bincount(index.reshape(-1), one.reshape(-1).double()) / n for one in place])
        sides = (-(-height // step), -(-width // step))
        cell = (mean / step).round().long()
        cell = torch.stack([c.clamp(0, side - 1) for c, side in zip(cell, sides, strict=True)])
        heat = torch.zeros(sides)
        # two objects whose centres are neighbours on the coarse map would be one: the later one moves on
        for k in range(len(values)):
            if values[k] > 0:
                y, x0 = self._free(heat, int(cell[0, k]), int(cell[1, k]))
                heat[y, x0] = 1.0
                cell[0, k], cell[1, k] = y, x0
        aim = (cell * step).float()
        offsets = (aim[:, index] - place)[:, ::step, ::step]
        finer = 2 ** (render_steps - 2)
        classes = ((labels > 0).float() * 20 - 10).repeat_interleave(finer, 0).repeat_interleave(finer, 1)
        return {SEMANTIC: classes[None, None], CENTRES: heat[None, None], OFFSETS: offsets[None]}

    @staticmethod
    def _free(heat: torch.Tensor, y: int, x: int) -> tuple[int, int]:
        height, width = heat.shape
        for reach in range(max(height, width)):
            for dy in range(-reach, reach + 1):
                for dx in {-reach, reach} if abs(dy) < reach else range(-reach, reach + 1):
                    a, b = y + dy, x + dx
                    around = heat[max(0, a - 1) : max(0, a + 2), max(0, b - 1) : max(0, b + 2)]
                    if 0 <= a < height and 0 <= b < width and not around.any():
                        return a, b
        return y, x


def _null(n_inputs: int, n_classes: int) -> torch.nn.Module:
    """Logits 0.05 c (x - 100): the probability rises with the intensity."""
    convolution = torch.nn.Conv3d(n_inputs, n_classes, 1)
    with torch.no_grad():
        slopes = torch.arange(n_classes).float() + (n_classes == 1)
        convolution.weight.copy_((0.05 / n_inputs) * slopes[:, None, None, None, None].expand_as(convolution.weight))
        convolution.bias.copy_(-5.0 * slopes)  # type: ignore[union-attr]
    return convolution


def _blur(n_inputs: int, n_classes: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(n_inputs, 4, 3, padding=1),
        torch.nn.InstanceNorm3d(4),
        torch.nn.LeakyReLU(),
        torch.nn.Conv3d(4, n_classes, 3, padding=1),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


class _Kill(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, value: float, file: str) -> None:
        super().__init__()
        self.inner, self.value, self.file = inner, value, file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == self.value).any()) and not (self.file and Path(self.file).exists()):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(x)  # type: ignore[no-any-return]


class _Slow(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, seconds: float) -> None:
        super().__init__()
        self.inner, self.seconds = inner, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.inner(x)  # type: ignore[no-any-return]
