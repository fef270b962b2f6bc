"""The weaver's arithmetic in one kernel for CUDA: each logit is read once, each sum read and written once.

    sum[c, z, y, x] += ((l[c + 1] - l[0]) * (wy[y] * wx[x])) * wz[z]         of differences to class 0
    sum[c, z, y, x] += (l[c] * (wy[y] * wx[x])) * wz[z]                      of the logits themselves

These are the roundings of :meth:`voxweft.engine.weave.Weights.products`, one by one and in that order, so that the bits
are the same; the compiler is told not to contract a product and a sum into one rounding.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

with suppress(ImportError):
    import triton
    import triton.language as tl

if TYPE_CHECKING:
    import torch

BLOCK = 1024  # voxels of one program


def add_weighted(
    total: torch.Tensor,
    logits: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    differences: bool,
) -> None:
    """Add weighted logits to sums, in place.

    Parameters
    ----------
    total
        float32 [C', Z, Y, X], of any strides along c, z and y; C' is one less than C for differences.
    logits
        float32 [C, Z, Y, X], of any strides along c, z and y.
    weights
        float32 [Z], [Y], [X].
    differences
        Whether differences to class 0 are added.
    """
    n_channels, depth, height, width = total.shape
    if not total.numel():
        return
    wz, wy, wx = weights
    n = depth * height * width
    import torch

    with torch.cuda.device_of(total):  # type: ignore[no-untyped-call]  # Triton launches on the current one
        _kernel()[(-(-n // BLOCK), n_channels)](
            total,
            logits,
            wz,
            wy,
            wx,
            *total.stride()[:3],
            *logits.stride()[:3],
            n,
            height,
            width,
            DIFFERENCES=differences,
            BLOCK=BLOCK,
            enable_fp_fusion=False,
        )


@functools.cache
def _kernel() -> Any:
    return triton.jit(_weave)


def _weave(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - a kernel has pointers and strides
    total, logits, wz, wy, wx, tc, tz, ty, lc, lz, ly, n, height, width,
    DIFFERENCES: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1).to(tl.int64)
    inside = at < n
    x = at % width
    y = (at // width) % height
    z = (at // (width * height)).to(tl.int64)
    here = logits + z * lz + y * ly + x
    plane = tl.load(wy + y, mask=inside) * tl.load(wx + x, mask=inside)
    if DIFFERENCES:
        value = tl.load(here + (c + 1) * lc, mask=inside) - tl.load(here, mask=inside)
    else:
        value = tl.load(here + c * lc, mask=inside)
    product = (value * plane) * tl.load(wz + z, mask=inside)
    there = total + c * tc + z * tz + y * ty + x
    tl.store(there, tl.load(there, mask=inside) + product, mask=inside)


def gives_the_plain_bits(device: str) -> bool:
    """Whether the kernel can be built on a device and rounds there as the plain products and sums do."""
    import torch

    generator = torch.Generator().manual_seed(5)
    logits, total, *weights = (
        torch.randn(n, generator=generator).to(device) for n in ((3, 4, 5, 70), (2, 4, 5, 70), (4,), (5,), (70,))
    )
    total[:, 2:] *= 1e-39  # as small as float32 can barely hold
    logits[:, 2:] *= 1e-38
    wz, wy, wx = weights
    wanted = total + (logits[1:] - logits[:1]) * (wy[:, None] * wx) * wz[:, None, None]
    with suppress(Exception):  # no compiler is here, or Triton is of another time
        add_weighted(total, logits, (wz, wy, wx), differences=True)
        return bool(torch.equal(total, wanted))
    return False
