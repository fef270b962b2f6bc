"""The same job done in the plainest way, in float64, with the whole volume in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from voxweft.engine.plan import Plan
from voxweft.geometry.box import Box
from voxweft.geometry.window import WINDOWS
from voxweft.image.protocols import Volume
from voxweft.model.protocols import ForwardSetting, Model
from voxweft.ops.augment import views


def blended_logits(plan: Plan, volume: Volume, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """sum(w l) / sum(w) [C, Z, Y, X] in float64 and where any patch ran [Z, Y, X]."""
    stage = plan.sweep
    shape, grid = stage.info.shape_zyx, stage.grid
    patch = grid.patch
    image = np.nan_to_num(volume.read(Box.of(shape)).astype(np.float64), posinf=0, neginf=0)
    pads = [(-min(0, o), max(0, p + o - n)) for o, p, n in zip(grid.origin, patch, shape, strict=True)]
    z, y, x = (WINDOWS[stage.window](p, stage.sigma_scale) for p in patch)
    window = z[:, None, None] * y[:, None] * x
    predictor = model.open(ForwardSetting("torch", "cpu", "fp32", 1, patch))
    padded = np.pad(image, [(0, 0), *pads])
    real = np.pad(np.ones(shape, bool), pads)
    total = np.zeros((stage.finish.n_classes, *padded.shape[1:]))
    weight = np.zeros(padded.shape[1:])
    for index in np.ndindex(*(a.count for a in grid.axes)):
        start = [a.start(i) for a, i in zip(grid.axes, index, strict=True)]
        where = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        voxels, inside = padded[(slice(None), *where)], real[where]
        if stage.skip_empty and all(np.ptp(c[inside]) == 0 for c in voxels):
            continue
        total[(slice(None), *where)] += forward(plan, predictor, voxels, inside) * window
        weight[where] += window
    crop = tuple(slice(before, before + n) for (before, _), n in zip(pads, shape, strict=True))
    ran = weight[crop] > 0
    return total[(slice(None), *crop)] / np.where(ran, weight[crop], 1), ran


def forward(plan: Plan, predictor: Any, voxels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Normalise the real voxels, run all views, undo them, average."""
    (one,), scaled = plan.sweep.passes, np.zeros(voxels.shape)
    for c, channel in enumerate(voxels):
        scheme = one.normalization[c % len(one.normalization)]
        values = channel[inside]
        match scheme.scheme:
            case "instance_zscore":
                values = (values - values.mean()) / max(values.std(), 1e-8)
            case "instance_minmax":
                values = (values - values.min()) / max(np.ptp(values), 1e-8)
            case "robust_mad":
                clipped = values.clip(*np.percentile(values, (1, 99)))
                distance = 1.4826 * np.median(np.abs(clipped - np.median(clipped)))
                spread = (distance, values.std(), np.ptp(clipped) / 2, 1.0)
                values = (clipped - np.median(clipped)) / next(s for s in spread if s >= 1e-6)
            case "global_zscore":
                values = (values - scheme.mean) / max(scheme.std, 1e-8)
        scaled[c][inside] = values
    tensor = torch.from_numpy(scaled.astype(np.float32))[None]
    seen = [v(predictor(v(tensor).contiguous())) for v in views(one.tta, plan.models[one.model].card.mirror_axes)]
    return torch.stack([s.detach().double() for s in seen]).mean(0)[0].numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over axis 0."""
    p = np.exp(logits - logits.max(0))
    return p / p.sum(0)
