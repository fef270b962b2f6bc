"""Train the small network of ``voxweft demo`` on phantoms and write it as an nnU-Net v2 folder.

Usage: python scripts/train_demo.py [--steps 900] [--threads 2] [--to src/voxweft/backends/demo]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxweft.backends.nnunet import build
from voxweft.testing.phantom import make_phantom

PATCH = 64
HERE = Path(__file__).resolve().parent.parent
CONFIGURATION = {
    "batch_size": 2,
    "patch_size": [PATCH] * 3,
    "spacing": [10.0] * 3,
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [8, 16, 32, 32],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * 3,
            "n_conv_per_stage": [1, 2, 2, 2],
            "n_conv_per_stage_decoder": [1, 1, 1],
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
    "dataset_name": "Dataset001_Phantom",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {},
    "configurations": {"3d_fullres": CONFIGURATION},
}
DATASET = {
    "channel_names": {"0": "phantom"},
    "labels": {"background": 0, "membrane": 1},
    "numTraining": 12,
    "file_ending": ".tif",
}
README = """# The network of `voxweft demo`

PlainConvUNet, {parameters} parameters, patch 64 x 64 x 64, one input, two classes (background, membrane), trained by
`scripts/train_demo.py` ({steps} steps, {minutes:.0f} minutes) on 12 phantoms of `voxweft.testing.phantom` with 160
voxels a side, seeds 100 to 111. Dice on the unseen phantom 99: {dice:.3f} (patches side by side, without overlap).
It knows phantoms only. Licence: that of voxweft.
"""


def samples(rng: np.random.Generator, phantoms: list[Any], count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patches [B, 1, 64, 64, 64] and truths [B, 64, 64, 64], flipped at random."""
    images, truths = [], []
    for _ in range(count):
        phantom, scaled = phantoms[rng.integers(len(phantoms))]
        start = [rng.integers(0, n - PATCH + 1) for n in scaled.shape]
        where = tuple(slice(a, a + PATCH) for a in start)
        axes = [a for a in range(3) if rng.random() < 0.5]
        images.append(np.flip(scaled[where], axes).copy())
        truths.append(np.flip(phantom.membrane[where], axes).copy())
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(truths)).long()


def loss_of(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice."""
    p = logits.softmax(1)[:, 1]
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    return torch.nn.functional.cross_entropy(logits, truth) + 1 - dice


def score(net: torch.nn.Module, seed: int = 99) -> float:
    """Dice on an unseen phantom, patches side by side."""
    phantom = make_phantom((128, 128, 128), seed=seed)
    scaled = standardized(phantom.image)
    found = np.zeros(scaled.shape, bool)
    with torch.inference_mode():
        for z, y, x in np.ndindex(2, 2, 2):
            where = tuple(slice(i * PATCH, (i + 1) * PATCH) for i in (z, y, x))
            found[where] = net(torch.from_numpy(scaled[where])[None, None]).argmax(1)[0].numpy() == 1
    return 2 * float((found & phantom.membrane).sum()) / float(found.sum() + phantom.membrane.sum())


def standardized(image: np.ndarray) -> np.ndarray:
    """Zero mean, unit deviation over the whole volume, float32."""
    return ((image - image.mean()) / image.std()).astype(np.float32)


def main() -> None:
    """Train, score, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--to", type=Path, default=HERE / "src/voxweft/backends/demo")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = build(CONFIGURATION, 1, 2, args.to)
    net.decoder.deep_supervision = False
    phantoms = [(p, standardized(p.image)) for p in (make_phantom((160,) * 3, seed=s) for s in range(100, 112))]
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=args.steps)
    started = time.monotonic()
    for step in range(args.steps):
        images, truth = samples(rng, phantoms)
        loss = loss_of(net(images), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {float(loss):.3f}, {time.monotonic() - started:.0f} s", flush=True)
    net.eval()
    dice = score(net)
    (args.to / "fold_0").mkdir(parents=True, exist_ok=True)
    (args.to / "plans.json").write_text(json.dumps(PLANS, indent=1))
    (args.to / "dataset.json").write_text(json.dumps(DATASET, indent=1))
    state = {
        "network_weights": net.state_dict(),
        "trainer_name": "scripts/train_demo.py",
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(state, args.to / "fold_0" / "checkpoint_final.pth")
    minutes = (time.monotonic() - started) / 60
    n_parameters = sum(p.numel() for p in net.parameters())
    (args.to / "README.md").write_text(
        README.format(parameters=n_parameters, steps=args.steps, minutes=minutes, dice=dice)
    )
    print(f"Dice {dice:.3f}; written to {args.to}")


if __name__ == "__main__":
    main()
