"""Surface volumes for tests: the degraded phantom of ../shared, and a small one of waves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from inknets import backbone, lightning, small_timesformer

ENLARGED, OFFSET, LOCAL, BLUR = 8, 20, 161, 0.7


def enlarge(plane: NDArray[np.generic]) -> NDArray[np.float32]:
    """A plane [Y, X], eight times as large in both directions, bilinear."""
    values = torch.from_numpy(plane.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(values, scale_factor=ENLARGED, mode="bilinear").numpy()[0, 0]


def degraded_phantom(shared: Path, contrast: float = 0.35, noise: float = 12.0) -> NDArray[np.uint8]:
    """The ink phantom [11, 1464, 2400] as the README of ink_timesformer_tiny makes it harder."""
    rng = np.random.default_rng(3)
    layers = []
    for file in sorted((shared / "data/ink_phantom/layers").glob("*.tif")):
        layer = enlarge(tifffile.imread(file) / 256)
        mean = uniform_filter(layer, LOCAL)
        grain = gaussian_filter(rng.normal(size=layer.shape), BLUR)
        values = mean + contrast * (layer - mean) + OFFSET + grain * (noise / grain.std())
        layers.append(np.clip(np.round(values), 0, 200).astype(np.uint8))
    return np.stack(layers)


def ink_of_phantom(shared: Path) -> NDArray[np.bool_]:
    """Where ink is [1464, 2400]."""
    return enlarge(np.asarray(Image.open(shared / "data/ink_phantom/inklabels.png").convert("L"))) > 127


def waves(depth: int = 11, height: int = 200, width: int = 230) -> NDArray[np.uint8]:
    """A surface volume [layer, row, column] with structure, and a corner without any."""
    rng = np.random.default_rng(5)
    z, y, x = np.meshgrid(*(np.arange(n) for n in (depth, height, width)), indexing="ij")
    values = 100 + 50 * np.sin(y / 9 + z / 3) * np.cos(x / 11) + rng.normal(0, 8, z.shape)
    volume = np.clip(values, 0, 255).astype(np.uint8)
    volume[:, :80, :90] = 0
    return volume


def write_layers(folder: Path, volume: NDArray[np.generic], first: int = 0, suffix: str = "tif") -> Path:
    """``folder/layers/NN.tif`` of a volume; the folder."""
    (folder / "layers").mkdir(parents=True)
    for n, layer in enumerate(volume, first):
        path = folder / "layers" / f"{n:02d}.{suffix}"
        if suffix == "tif":
            tifffile.imwrite(path, layer, rowsperstrip=16, compression="zlib")
        else:
            Image.fromarray(layer).save(path)
    return folder


def auc(scores: NDArray[np.generic], truth: NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic, ties counted half."""
    counts = [np.bincount(scores[t].ravel(), minlength=1 << 16).astype(float) for t in (truth, ~truth)]
    below = np.cumsum(counts[1]) - counts[1]
    return float((counts[0] * (below + counts[1] / 2)).sum() / (counts[0].sum() * counts[1].sum()))


def small_checkpoint(path: Path) -> Path:
    """A TimeSformer for 5 layers and tiles of 32, with random weights that answer to what they see."""
    network = small_timesformer(seed=1, depth=1)
    network.to_patch_embedding.weight.mul_(4)
    network.to_out[1].weight.mul_(6)
    size = {"num_frames": 5, "image_size": 32, "dim_head": 8}
    return lightning(path, backbone(network.state_dict()), backbone=size)
