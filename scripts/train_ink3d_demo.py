"""Train the small 3-D ink network of ``voxweft demo --ink`` on rolled phantoms and write it as an nnU-Net v2 folder.

Usage: python scripts/train_ink3d_demo.py [--steps 900] [--threads 1] [--to src/voxweft/backends/demo/ink3d]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from voxweft.backends.nnunet import build
from voxweft.backends.plans import Configuration
from voxweft.testing.roll import Roll
from voxweft.testing.surface import SHEET, make_ink_phantom

HERE = Path(__file__).resolve().parent.parent
PATCH, BATCH, PEAK, LAYERS = 32, 4, 5e-3, 12
ROWS, COLUMNS = 192, 320
MEAN, STD = 60.0, 30.0
N_STAGES = 3
CONFIGURATION = {
    "batch_size": BATCH,
    "patch_size": [PATCH] * 3,
    "spacing": [1.0] * 3,
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": N_STAGES,
            "features_per_stage": [8, 16, 24],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * N_STAGES,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (N_STAGES - 1),
            "n_conv_per_stage": [1, 2, 2],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}
PLANS = {
    "dataset_name": "Dataset002_Roll",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": MEAN, "std": STD, "percentile_00_5": 0.0, "percentile_99_5": 200.0, "median": MEAN}
    },
    "configurations": {"3d_fullres": CONFIGURATION},
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ink": 1}, "numTraining": 8, "file_ending": ".tif"}
Rolled = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]


def rolled(seed: int, radius: float) -> Rolled:
    """A scroll, where its ink is, and the points of its surface."""
    phantom = make_ink_phantom((LAYERS, ROWS, COLUMNS), seed=seed)
    roll = Roll(ROWS, COLUMNS, LAYERS, radius=radius)
    depth = np.abs(np.arange(LAYERS) - (LAYERS / 2 - SHEET)) <= 2.5
    truth = (depth[:, None, None] & phantom.ink).astype(np.uint8) * 255
    around = Roll(ROWS, COLUMNS, LAYERS, radius=radius).lay(truth) > 127
    return roll.lay(phantom.layers, seed), around.astype(np.uint8), roll.points()


def samples(rng: np.random.Generator, rolls: list[Rolled]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches [B, 1, 32, 32, 32] near the surface and where ink is in them, mirrored at random."""
    images, truths = [], []
    for _ in range(BATCH):
        scroll, ink, points = rolls[rng.integers(len(rolls))]
        centre = points[:, rng.integers(ROWS), rng.integers(COLUMNS)] + rng.integers(-10, 11, 3)
        start = [int(np.clip(c - PATCH / 2, 0, n - PATCH)) for c, n in zip(centre, scroll.shape, strict=True)]
        where = tuple(slice(a, a + PATCH) for a in start)
        axes = [a for a in (0, 2) if rng.random() < 0.5]  # y is the radius, more or less
        images.append(np.flip(scroll[where], axes).astype(np.float32))
        truths.append(np.flip(ink[where], axes).astype(np.int64))
    scaled = (np.stack(images).clip(0, 200) - MEAN) / STD
    return torch.from_numpy(scaled.astype(np.float32))[:, None], torch.from_numpy(np.stack(truths))


def main() -> None:
    """Train, report the loss, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, default=HERE / "src/voxweft/backends/demo/ink3d")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = build(Configuration.model_validate(CONFIGURATION), 1, 2, options.to)
    network.decoder.deep_supervision = False
    rolls = [rolled(seed, 120.0 + 40 * k) for k, seed in enumerate(range(200, 208))]
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=options.steps)
    started, mean = time.monotonic(), 1.0
    for step in range(options.steps):
        images, truth = samples(rng, rolls)
        logits = network(images)
        p = logits.softmax(1)[:, 1]
        dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
        loss = torch.nn.functional.cross_entropy(logits, truth) + 1 - dice
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach())
        if step % 50 == 0:
            print(f"step {step}: loss {mean:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    (options.to / "fold_0").mkdir(parents=True, exist_ok=True)
    (options.to / "plans.json").write_text(json.dumps(PLANS, indent=1))
    (options.to / "dataset.json").write_text(json.dumps(DATASET, indent=1))
    weights = network.state_dict()
    half = {v.data_ptr(): v.half() for v in weights.values()}  # the encoder is there twice, and stored once
    state = {
        "network_weights": {k: half[v.data_ptr()] for k, v in weights.items()},
        "trainer_name": "scripts/train_ink3d_demo.py",
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": (0, 2),
    }
    path = options.to / "fold_0" / "checkpoint_final.pth"
    torch.save(state, path)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {options.steps} steps, loss {mean:.4f}")


if __name__ == "__main__":
    main()
