"""From blended logits to what is stored, on an accelerator: :class:`~voxweft.ops.activate.Finish` in torch.

Sums over channels are made one after the other, never by a reduction whose order depends on the shape: each voxel
depends on nothing but its own logits, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.ops.activate import KEPT, OVER_PASSES, SHORTEST, TINY, UNCERTAIN, UNIT, VALUES, Finish

if TYPE_CHECKING:
    import torch

BITS = {"uint16": "int16", "uint32": "int32"}  # what tensors can hardly compute with travels as the bits of these
LARGEST_HALF = 65504


def finished(finish: Finish, x: torch.Tensor) -> torch.Tensor:  # noqa: PLR0911 - one for each kind of output
    """The output [n_channels, Z, Y, X] of accumulated logits float32 [n_accumulated, Z, Y, X], on their device.

    Its dtype is that of the output, or that of ``BITS``; :func:`as_stored` gives the array.
    """
    if finish.channels:
        return finished(finish.own, finish._sliced(x))
    if finish.pass_weights:
        return _of_passes(finish, x)
    if finish.output in VALUES:
        return _values(x, finish.output)
    if finish.output in KEPT:
        return x.clamp(-LARGEST_HALF, LARGEST_HALF).half() if finish.output == "merged" else x
    if finish.output == "probability32" or finish.output in UNCERTAIN:
        p = _probabilities(finish, x)
        if finish.output == "probability32":
            return p
        entropy = _entropy(p, exclusive=finish.activation == "softmax")
        return entropy if finish.output == "entropy" else _rounded(entropy, 255)
    if finish.targets:
        import torch

        return torch.cat([_of_target(finish, x[a:b]) for a, b in finish.targets])
    return _binary(finish, x) if finish.mode == "binary" else _multiclass(finish, x)


def finish_of(finish: Finish, x: torch.Tensor) -> NDArray[Any]:
    """The output as an array, of logits that lie anywhere."""
    return finish(x) if x.device.type == "cpu" else as_stored(finish, finished(finish, x).cpu().numpy())


def as_stored(finish: Finish, values: NDArray[Any]) -> NDArray[Any]:
    """Values that came from a device in the dtype of the output."""
    return values.view(finish.dtype)


def dtype_there(finish: Finish) -> torch.dtype:
    """The dtype of :func:`finished`."""
    import torch

    found: torch.dtype = getattr(torch, BITS.get(finish.dtype, finish.dtype))
    return found


def _binary(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    foreground = x[1:] - x[:1] if finish.whole and finish.activation == "softmax" else x[-1:]
    if finish.output in ("probability", "probability16"):
        return _quantized(_probability(finish, foreground), finish)
    return _mask(foreground > finish.logit_threshold, 255 if finish.output == "mask" else 1)


def _multiclass(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    import torch

    if finish.output in ("probability", "probability16"):
        return _quantized(_probabilities(finish, x), finish)
    over = x > finish.logit_threshold if finish.overlapping else None
    if over is not None and finish.output == "mask":
        return _mask(over, 255)
    labels = _largest(x, finish.differences) if over is None else _last_over(finish, over)
    if finish.output == "mask":
        return _mask(labels != 0, 255)
    labels = _cast(labels, finish.dtype)
    if finish.output == "probability_and_label":
        p = (_probabilities(finish, x).clamp(0, 1) * 255).to(torch.uint8)
        return torch.cat([_cast(p, finish.dtype), labels])
    return labels


def _last_over(finish: Finish, over: torch.Tensor) -> torch.Tensor:
    import torch

    labels = torch.zeros(over.shape[1:], dtype=torch.int64, device=over.device)
    for channel, label in zip(over, finish.ids, strict=True):
        labels.masked_fill_(channel, label)
    return labels[None]


def _of_target(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    if len(x) > 2:
        p = _softmax(x[1:] - x[:1])[1:2]
        return _quantized(p, finish) if finish.output == "probability" else _mask(p > finish.threshold, 255)
    foreground = x[1:] - x[:1] if len(x) == 2 else x
    if finish.output == "probability":
        return _quantized(foreground.sigmoid(), finish)
    return _mask(foreground > finish.logit_threshold, 255)


def _of_passes(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    import torch

    one = replace(finish, pass_weights=(), output="labels" if finish.output in OVER_PASSES else finish.output)
    groups = list(x.reshape(len(finish.pass_weights), -1, *x.shape[1:]))
    weights = finish.pass_weights
    if finish.output not in OVER_PASSES and (finish.average == "logits" or finish.output in (*KEPT, *VALUES)):
        return finished(one, _weighted(groups, weights))
    p = [_probabilities(one, group) for group in groups]
    mean = torch.stack(p).amax(0) if finish.average == "maximum" else _weighted(p, weights)
    if finish.output in OVER_PASSES:
        variance = _weighted([(each - mean).square() for each in p], weights).amax(dim=0, keepdim=True)
        return variance if finish.output == "variance" else _rounded(variance.sqrt(), 510)
    if finish.activation == "none":
        return finished(one, mean)
    logits = mean.clamp(min=float(TINY)).log()
    if finish.activation == "sigmoid":
        logits -= (1 - mean).clamp(min=float(TINY)).log()
    return finished(one, logits[1:] - logits[:1] if one.differences else logits)


def _probabilities(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    if finish.activation != "softmax":
        return _probability(finish, x)
    return _softmax(x if finish.differences else x[1:] - x[:1])


def _probability(finish: Finish, x: torch.Tensor) -> torch.Tensor:
    return x if finish.activation == "none" else x.sigmoid()


def _softmax(differences: torch.Tensor) -> torch.Tensor:
    import torch

    peak = differences.amax(dim=0).clamp(min=0)
    p = torch.cat([-peak[None], differences - peak]).exp_()
    return p.div_(_summed(list(p)))


def _entropy(p: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    parts = [-c * c.clamp(min=float(TINY)).log() for c in p]
    if exclusive:
        return (_summed(parts) / math.log(len(p)))[None]
    parts = [a - (1 - c) * (1 - c).clamp(min=float(TINY)).log() for a, c in zip(parts, p, strict=True)]
    return (_summed(parts) / (math.log(2) * len(p)))[None]


def _values(x: torch.Tensor, output: str) -> torch.Tensor:
    import torch

    if output == "raw":
        return x
    length = (x[0] * x[0] + x[1] * x[1] + x[2] * x[2]).sqrt()
    unit = x / length.masked_fill(length < float(SHORTEST), math.inf)
    return unit.half() if output == "normals16" else (unit * UNIT).round().to(torch.int8)


def _largest(x: torch.Tensor, differences: bool) -> torch.Tensor:
    best = x.argmax(dim=0, keepdim=True)
    return (best + 1) * (x.amax(dim=0, keepdim=True) > 0) if differences else best


def _summed(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _weighted(parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    return _summed([part * float(np.float32(w)) for part, w in zip(parts, weights, strict=True)])


def _quantized(p: torch.Tensor, finish: Finish) -> torch.Tensor:
    top = 65535 if finish.dtype == "uint16" else 255
    return _cast((p.clamp(0, 1) * top).int(), finish.dtype)


def _rounded(x: torch.Tensor, top: int) -> torch.Tensor:
    import torch

    return (x * top).round().clamp(0, 255).to(torch.uint8)


def _mask(chosen: torch.Tensor, value: int) -> torch.Tensor:
    import torch

    return chosen.to(torch.uint8) * value


def _cast(values: torch.Tensor, dtype: str) -> torch.Tensor:
    import torch

    found: torch.Tensor = values.to(getattr(torch, BITS.get(dtype, dtype)))
    return found
