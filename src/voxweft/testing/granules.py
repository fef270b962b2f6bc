"""A stack of round granules with a known truth, and a small panoptic network that finds them; nothing was trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from voxweft.geometry.box import Zyx

CYTOSOL, GRANULE, NOISE = 150.0, 70.0, 14.0
MEAN, STD = CYTOSOL / 255, 0.15
FEWEST, LARGEST = 7, 12  # radius in voxels
DESCRIPTION = """\
class_names:
  1: granule
labels: [1]
thing_list: [1]
model: granules.pth
model_quantized: null
padding_factor: 16
norms:
  mean: {mean:.5f}
  std: {std:.5f}
description: Finds dark round granules by their grey value alone; made for the demo, not trained.
"""


@dataclass(frozen=True, slots=True)
class Granules:
    """A simulated image and what is truly there.

    Attributes
    ----------
    image
        uint8 [Z, Y, X]: dark granules in a brighter cytosol, noise.
    labels
        uint16 [Z, Y, X]: the number of each granule, from 1.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]


def make_granules(shape: Zyx = (64, 192, 192), n: int = 40, seed: int = 0) -> Granules:
    """Make a stack; the same numbers give the same voxels. Granules do not touch.

    Examples
    --------
    >>> made = make_granules((32, 64, 64), n=5)
    >>> made.image.shape, int(made.labels.max())
    ((32, 64, 64), 5)
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    z, y, x = np.indices(shape, dtype=np.float32)
    centres: list[tuple[NDArray[np.float64], float]] = []
    for _ in range(200 * n):
        radius = float(rng.uniform(FEWEST, LARGEST))
        centre = rng.uniform([0] * 3, shape)
        if all(np.linalg.norm(centre - c) > radius + r + 4 for c, r in centres):
            centres.append((centre, radius))
            inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius * radius
            labels[inside] = len(centres)
        if len(centres) == n:
            break
    grey = np.where(labels > 0, GRANULE, CYTOSOL) + rng.normal(0, NOISE, shape)
    return Granules(np.clip(grey, 0, 255).astype(np.uint8), labels)


class _Network(torch.nn.Module):
    """Classes by the smoothed grey value, centres by how much of the neighbourhood is of a granule."""

    def forward(
        self, image: torch.Tensor, render_steps: int = 2, interpolate_ins: bool = False
    ) -> dict[str, torch.Tensor]:
        smooth = torch.nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
        logits = (-1.05 - smooth) * 8.0
        for _ in range(render_steps - 2):
            logits = torch.nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear")
        heat = torch.nn.functional.avg_pool2d(torch.sigmoid((-1.05 - smooth) * 8.0), 4)
        for _ in range(3):
            heat = torch.nn.functional.avg_pool2d(heat, 3, 1, 1)
        if interpolate_ins:
            heat = torch.nn.functional.interpolate(heat, scale_factor=4.0, mode="bilinear", align_corners=True)
        return {"sem_logits": logits, "ctr_hmp": heat, "offsets": torch.zeros_like(torch.cat([heat, heat], dim=1))}


def write_granule_model(folder: Path) -> Path:
    """Write ``granules.pth`` and ``granules.yaml`` as empanada exports its networks; the yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        script = torch.jit.script(_Network().eval())
        torch.jit.save(script, str(folder / "granules.pth"))
    place = folder / "granules.yaml"
    place.write_text(DESCRIPTION.format(mean=MEAN, std=STD), encoding="utf-8")
    return place
