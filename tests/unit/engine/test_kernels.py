"""The fused kernel gives the bits of the plain products and sums; without a GPU, by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

CODE = """
import torch
from voxweft.engine.kernels import add_weighted, gives_the_plain_bits

for differences in (False, True):
    for n_channels in (2, 4):
        g = torch.Generator().manual_seed(n_channels)
        rand = lambda *n: torch.randn(n, generator=g)
        logits, held = rand(n_channels, 6, 9, 11), rand(n_channels, 8, 20, 30)
        wz, wy, wx = rand(6).exp(), rand(9).exp(), rand(11).exp()
        part = (slice(None), slice(0, 6), slice(3, 10), slice(20, 30))
        total = held[: n_channels - differences].clone()
        wanted = total.clone()
        for c in range(len(total)):
            product = torch.sub(logits[c + 1], logits[0]) if differences else logits[c].clone()
            product.mul_(wy[:, None] * wx).mul_(wz[:, None, None])
            wanted[c][part[1:]].add_(product[:, 1:8, :10])
        add_weighted(total[part], logits[:, :, 1:8, :10], (wz, wy[1:8], wx[:10]), differences=differences)
        assert torch.equal(total, wanted), (differences, n_channels)
assert gives_the_plain_bits('cpu')
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_gives_the_bits_of_the_plain_sums() -> None:
    env = os.environ | {"TRITON_INTERPRET": "1"}  # to be set before triton is imported
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
