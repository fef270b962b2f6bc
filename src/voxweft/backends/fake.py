"""Networks for tests and benchmarks: ``fake://NAME?classes=2&patch=64,64,64``.

=======  ====================================================================================================
null     one 1 x 1 x 1 convolution: the engine's own cost
blur     two 3 x 3 x 3 convolutions with InstanceNorm, fixed random weights: the tiling matters
kill     like null, but the process dies (SIGKILL) when a patch holds ``value`` and FILE does not exist
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

from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard, Normalization


def load(url: str) -> TorchModel:
    """Make the network of an URL."""
    name, query = urlparse(url).netloc, dict(parse_qsl(urlparse(url).query))
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
        ("torch",) if name == "kill" or delay_ms else ("torch", "jit", "openvino", "compile"),
    )


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
