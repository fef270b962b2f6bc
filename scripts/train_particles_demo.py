"""Train the small network of ``voxweft demo --particles`` on simulated tomograms.

Usage: python scripts/train_particles_demo.py [--steps 700] [--to src/voxweft/backends/demo]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.networks.nets import UNet

from voxweft.testing.tomogram import LABELS, make_tomogram, sphere_targets

PATCH = 48
HERE = Path(__file__).resolve().parent.parent
MODEL = {
    "architecture": "Unet",
    "num_classes": len(LABELS) + 1,
    "channels": [8, 16, 24],
    "strides": [2, 2],
    "num_res_units": 1,
    "dropout": 0.0,
    "dim_in": PATCH,
}


def samples(n: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tomograms, each scaled as a whole, and their labels."""
    found = []
    for k in range(n):
        made = make_tomogram((56, 112, 112), n=9, seed=seed + k)
        image = (made.image - made.image.mean()) / made.image.std()
        found.append((torch.from_numpy(image), torch.from_numpy(sphere_targets(made).astype(np.int64))))
    return found


def crops(data: list[tuple[torch.Tensor, torch.Tensor]], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two patches, each flipped at random."""
    pairs = []
    for _ in range(2):
        image, labels = data[rng.integers(len(data))]
        z, y, x = (int(rng.integers(0, s - PATCH + 1)) for s in image.shape)
        place = (slice(z, z + PATCH), slice(y, y + PATCH), slice(x, x + PATCH))
        flips = [axis for axis in range(3) if rng.random() < 0.5]
        pairs.append((image[place].flip(flips)[None], labels[place].flip(flips)))
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy and soft Dice."""
    weights = torch.tensor([0.4] + [1.5] * len(LABELS))
    entropy = torch.nn.functional.cross_entropy(logits, labels, weights)
    p = logits.softmax(1)
    truth = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    both, sizes = (p * truth).sum((0, 2, 3, 4)), (p + truth).sum((0, 2, 3, 4))
    return entropy + 1 - (2 * both[1:] / (sizes[1:] + 1)).mean()


def main() -> None:
    """Train and write the weights and what describes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--to", type=Path, default=HERE / "src/voxweft/backends/demo")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=MODEL["num_classes"],
        **{k: MODEL[k] for k in ("channels", "strides", "num_res_units", "dropout")},
    )
    data, began = samples(16, 1000), time.time()
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, arguments.steps)
    for step in range(arguments.steps):
        image, labels = crops(data, rng)
        loss = loss_of(network(image), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"{step} {float(loss):.3f} {time.time() - began:.0f} s", flush=True)
    arguments.to.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.half() for k, v in network.state_dict().items()}, arguments.to / "particles.pth")
    text = yaml.safe_dump({"model": MODEL, "labels": dict(LABELS)}, sort_keys=False)
    (arguments.to / "particles_config.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
