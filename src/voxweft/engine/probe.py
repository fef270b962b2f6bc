"""How much the tiling itself decides of an answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from voxweft.engine.bench import probability
from voxweft.engine.forward import cores_each
from voxweft.engine.samples import as_input
from voxweft.geometry.box import Box, Zyx
from voxweft.image.protocols import Volume
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.protocols import ForwardSetting, Predictor

if TYPE_CHECKING:
    import torch


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
    patch = setting.patch_zyx
    shift = patch[2] // 4
    shape = volume.info.shape_zyx
    if any(n < p for n, p in zip(shape, patch, strict=True)) or shape[2] < patch[2] + shift:
        return None
    z, y, x = ((n - p) // 2 for n, p in zip(shape, patch, strict=True))
    x = min(x, shape[2] - patch[2] - shift)
    with cores_each(setting.device, setting.n_threads), ThreadPoolExecutor(min(2, setting.n_lanes)) as lanes:
        views = list(
            lanes.map(
                lambda start: _predict_at(predictor, volume, setting, card, (schemes, (z, y, start))), (x, x + shift)
            )
        )
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
    import torch

    schemes, start = where
    z, y, x = (a + p for a, p in zip(start, setting.patch_zyx, strict=True))
    sample = as_input(volume.read(Box(start, (z, y, x))), setting.patch_zyx, schemes, setting.device)
    batch = sample.expand(setting.batch_size, *sample.shape[1:]).contiguous()
    with torch.inference_mode():
        return probability(predictor(batch)[:1], card)
