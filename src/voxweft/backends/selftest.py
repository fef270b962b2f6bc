"""A network is run on a new device only after one convolution gave there what it should."""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

from voxweft.backends.torch_runtime import HALF, LAST, arithmetic
from voxweft.errors import ModelError

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 3e-2}
"""Largest difference / largest value: some ten times the rounding of the precision, far below what a fault gives."""
SHAPES = ((1, 32, 24), (32, 32, 32), (64, 128, 16))  # channels in, channels out, side


@functools.cache
def check_convolution(device: str, precision: str) -> None:
    """Compare Conv3d of realistic widths with float32 on the CPU, in both layouts; asked once a process.

    cuDNN 9.8 to 9.10 gave wrong values in bf16 without an error.

    Raises
    ------
    ModelError
        Naming the library's version and what to do.
    """
    generator = torch.Generator().manual_seed(17)
    half = HALF.get(precision, torch.float32)
    for n_in, n_out, side in SHAPES:
        x = torch.randn((2, n_in, side, side, side), generator=generator).to(half)
        weight = (torch.randn((n_out, n_in, 3, 3, 3), generator=generator) / (27 * n_in) ** 0.5).to(half)
        wanted = functional.conv3d(x.float(), weight.float(), padding=1)
        for layout in (torch.contiguous_format, LAST[5]):
            here = (one.to(device).contiguous(memory_format=layout) for one in (x, weight))
            with torch.inference_mode(), arithmetic(device, precision):
                found = _convolved(*here).float().cpu()
            off = float((found - wanted).abs().max() / wanted.abs().max())
            if not off <= TOLERANCE.get(precision, TOLERANCE["fp32"]):  # NaN is wrong too
                raise ModelError(
                    f"Conv3d in {precision} on {device} is wrong by {off:.1e} of the largest value, with torch "
                    f"{torch.__version__}{_cudnn(device)}",
                    "Use --precision fp32, or install another torch; cuDNN 9.8 to 9.10 are known for this in bf16.",
                )


def _convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.conv3d(x, weight, padding=1)


def _cudnn(device: str) -> str:
    version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f", cuDNN {version}" if device != "cpu" else ""
