"""Short measurements before a run: which runtime, how fast, and how much the tiling itself decides."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from voxweft.engine.forward import one_core_each
from voxweft.engine.options import RunOptions
from voxweft.engine.totals import lanes_for
from voxweft.errors import ModelError, VoxweftError, first_line
from voxweft.geometry.box import Box, Zyx
from voxweft.image.protocols import Volume
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import FIELDS, channel_ranges
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.ops.normalize import normalize

if TYPE_CHECKING:
    import torch

AGREE = 1e-3
WORTH_S = {"torch": 10.0, "jit": 2.0, "openvino": 20.0, "onnx": 8.0, "compile": 600.0}
"""Seconds that the rest of a job must take before a candidate is opened and tried."""
LONG_S = 20.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One measured candidate.

    Attributes
    ----------
    runtime, precision, batch_size
        What was tried.
    patch_s
        Seconds of a patch in one lane; None where it was not measured.
    difference
        Largest difference in probability from plain torch in fp32.
    remark
        Why it was not taken, or "".
    """

    runtime: str
    precision: str
    batch_size: int
    patch_s: float | None = None
    difference: float = 0.0
    remark: str = ""


def central_patch(volume: Volume, patch: Zyx) -> tuple[Box, Any]:
    """The patch in the middle of the volume (clipped at its faces): its box and its voxels [C, Z, Y, X]."""
    shape = volume.info.shape_zyx
    start = tuple(max(0, (n - p) // 2) for n, p in zip(shape, patch, strict=True))
    stop = tuple(min(n, a + p) for n, a, p in zip(shape, start, patch, strict=True))
    box = Box(start, stop)  # type: ignore[arg-type]
    return box, volume.read(box)


def as_input(voxels: Any, patch: Zyx, schemes: tuple[Normalization, ...], device: str) -> torch.Tensor:
    """A normalised float32 patch [1, C, *patch] on the device, padded with zeros at the far faces."""
    import numpy as np
    import torch

    out = torch.zeros((1, len(voxels), *patch))
    z, y, x = voxels.shape[1:]
    inner = out[0, :, :z, :y, :x]
    inner.copy_(torch.from_numpy(np.nan_to_num(voxels.astype(np.float32), posinf=0.0, neginf=0.0)))
    normalize(inner, schemes)
    return out.to(device)


def probability(logits: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """Probabilities of logits [B, C, Z, Y, X]; where heads are outputs of their own, of those that have classes."""
    import torch

    if not card.separate:
        return _activated(logits, card.activation)
    pairs = zip(card.heads, channel_ranges(card.heads), strict=True)
    found = [_activated(logits[:, a:b], head.activation) for head, (a, b) in pairs if head.activation not in FIELDS]
    return torch.cat(found, 1) if found else logits


def _activated(logits: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "softmax":
        return logits.softmax(dim=1)
    return logits.sigmoid() if activation == "sigmoid" else logits


def choose_setting(
    model: Model, sample: torch.Tensor, options: RunOptions, n_patches: int, device: str
) -> tuple[ForwardSetting, Predictor, list[dict[str, Any]]]:
    """The fastest runtime, precision and batch size that agree with plain torch within 1e-3 in probability.

    Nothing is compared where the user left no choice, or where the whole job is shorter than the comparison.

    Returns
    -------
    ForwardSetting, Predictor, list of dict
        The choice, made ready, and the trials as plain JSON values.
    """
    import torch

    patch: Zyx = tuple(sample.shape[2:])  # type: ignore[assignment]
    kind = device.partition(":")[0]
    offered = model.runtimes(kind)
    if options.runtime != "auto" and options.runtime not in offered:
        raise ModelError(
            f"--runtime {options.runtime} cannot run this {model.card.format} model on {kind}; "
            f"offered here: {', '.join(offered)}"
        )
    runtimes = offered if options.runtime == "auto" else (options.runtime,)
    precisions = (options.precision,) if options.precision != "auto" else {"cpu": ("fp32",)}.get(kind, ("fp32", "fp16"))
    batches = (model.card.batch_size,) if model.card.batch_size else options.batches(kind)
    lanes = lanes_for(device)
    base = ForwardSetting(runtimes[0], device, precisions[0], batches[0], patch, lanes, options.compile_mode)
    with torch.inference_mode(), one_core_each(device):
        contest = _Contest(model, sample, base, n_patches)
        for precision, batch_size in product(precisions, batches):
            contest.try_one(replace(base, precision=precision, batch_size=batch_size), WORTH_S["torch"])
        for runtime in runtimes[1:]:
            contest.try_one(replace(contest.best[0], runtime=runtime), WORTH_S[runtime])
    return *contest.best, [asdict(t) for t in contest.trials]


class _Contest:
    """The best setting so far. Candidates are only tried where the whole job is long enough to pay for it."""

    def __init__(self, model: Model, sample: torch.Tensor, base: ForwardSetting, n_patches: int) -> None:
        self._model, self._sample, self._base = model, sample, base
        self._share = n_patches / base.n_lanes
        self.best = (base, model.open(base))
        self.trials = [Trial(base.runtime, base.precision, base.batch_size)]
        self._reference: torch.Tensor | None = None
        self._best_s = 0.0

    def try_one(self, setting: ForwardSetting, worth_s: float) -> None:
        """Measure a candidate and keep it if it is faster and agrees."""
        if setting == self._base:
            return
        if self._reference is None:
            self._reference, self._best_s = self._measure(self.best[1], self._base)
            self.trials[0] = replace(self.trials[0], patch_s=self._best_s)
        if self._best_s * self._share < worth_s:
            return
        trial, predictor = Trial(setting.runtime, setting.precision, setting.batch_size), None
        try:
            predictor = self._model.open(setting)
            result, patch_s = self._measure(predictor, setting)
        except (
            VoxweftError,
            RuntimeError,
        ) as error:  # RuntimeError: out of memory, or an operator that a runtime lacks
            self.trials.append(replace(trial, remark=first_line(error)))
            return
        difference = float((result - self._reference).abs().max())
        agrees = difference <= AGREE
        remark = "" if agrees else f"differs by {difference:.1e} in probability, more than {AGREE:.0e}"
        self.trials.append(replace(trial, patch_s=patch_s, difference=difference, remark=remark))
        if agrees and patch_s < self._best_s:
            self.best, self._best_s = (setting, predictor), patch_s

    def _measure(self, predictor: Predictor, setting: ForwardSetting) -> tuple[torch.Tensor, float]:
        """Probabilities of the sample, and seconds per patch: the best of as many calls as the job has to spare."""
        import torch

        batch, best_s = self._sample.expand(setting.batch_size, *self._sample.shape[1:]).contiguous(), math.inf
        calls = 1 if not self._best_s or self._best_s * self._share < LONG_S else 3
        for _ in range(calls):
            start = time.perf_counter()
            logits = predictor(batch)
            if setting.device != "cpu":
                torch.cuda.synchronize()
            best_s = min(best_s, (time.perf_counter() - start) / setting.batch_size)
        return probability(logits[:1], self._model.card).clone(), best_s


def tiling_probe(
    predictor: Predictor, volume: Volume, setting: ForwardSetting, card: ModelCard, schemes: tuple[Normalization, ...]
) -> dict[str, float] | None:
    """How far the answer depends on where the window lies: two windows a quarter apart, compared in their common core.

    Networks with InstanceNorm or a small context give different answers for the same voxels; overlap averages this out
    but cannot remove it.

    Returns
    -------
    dict or None
        "mean" and "max" absolute difference in probability over the core; None if the volume is too small to tell.
    """
    import torch

    patch = setting.patch_zyx
    shift = patch[2] // 4
    shape = volume.info.shape_zyx
    if any(n < p for n, p in zip(shape, patch, strict=True)) or shape[2] < patch[2] + shift:
        return None
    z, y, x = ((n - p) // 2 for n, p in zip(shape, patch, strict=True))
    x = min(x, shape[2] - patch[2] - shift)
    with torch.inference_mode():
        views = [_predict_at(predictor, volume, setting, card, (schemes, (z, y, start))) for start in (x, x + shift)]
    core = tuple(slice(n // 4, n - n // 4) for n in patch[:2])
    left = views[0][(slice(None), slice(None), *core, slice(shift + shift // 2, patch[2] - shift // 2))]
    right = views[1][(slice(None), slice(None), *core, slice(shift // 2, patch[2] - shift - shift // 2))]
    difference = (left - right).abs()
    return {"mean": float(difference.mean()), "max": float(difference.max())}


def _predict_at(
    predictor: Predictor,
    volume: Volume,
    setting: ForwardSetting,
    card: ModelCard,
    where: tuple[tuple[Normalization, ...], Zyx],
) -> torch.Tensor:
    schemes, start = where
    z, y, x = (a + p for a, p in zip(start, setting.patch_zyx, strict=True))
    sample = as_input(volume.read(Box(start, (z, y, x))), setting.patch_zyx, schemes, setting.device)
    batch = sample.expand(setting.batch_size, *sample.shape[1:]).contiguous()
    return probability(predictor(batch)[:1], card)


def block_of_chunks(shape: Zyx, chunk: Zyx, max_voxels: int = 1 << 25) -> Zyx:
    """Size of a block for reading all of a volume: whole rows of chunks, ``max_voxels`` where one row allows it."""
    z = chunk[0] * max(1, 16 // chunk[0])
    return z, max(chunk[1], max_voxels // (z * shape[2]) // chunk[1] * chunk[1]), shape[2]
