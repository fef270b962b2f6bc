"""Train the small ink network of ``voxweft demo --ink`` on phantoms and write it as a checkpoint.

Usage: python scripts/train_ink_demo.py [--minutes 5] [--threads 1] [--to src/voxweft/backends/demo/ink.ckpt]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from voxweft.nets.timesformer import TimeSformer, TimeSformerSize
from voxweft.testing.surface import make_ink_phantom

HERE = Path(__file__).resolve().parent.parent
SIZE = TimeSformerSize(
    dim=40, image_size=32, patch_size=8, num_frames=12, num_classes=64, depth=2, heads=2, dim_head=16
)
BATCH, N_PAGES, PEAK = 64, 24, 3e-3


def tiles(
    pages: list[tuple[torch.Tensor, torch.Tensor]], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of tiles [B, 12, 1, 32, 32], flipped and transposed at random, and the ink of their blocks [B, 64]."""
    side, block = SIZE.image_size, SIZE.image_size // 8
    batch, truth = [], []
    for _ in range(BATCH):
        layers, ink = pages[rng.integers(len(pages))]
        y, x = (int(rng.integers(n - side)) for n in ink.shape)
        views = [layers[:, y : y + side, x : x + side], ink[None, y : y + side, x : x + side]]
        flips = [a for a in (-1, -2) if rng.random() < 0.5]
        views = [v.flip(flips) for v in views]
        if rng.random() < 0.5:
            views = [v.transpose(-1, -2) for v in views]
        batch.append(views[0][:, None])
        truth.append(torch.nn.functional.avg_pool2d(views[1], block).flatten())
    return torch.stack(batch), torch.stack(truth)


def main() -> None:
    """Train, report the loss, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, default=HERE / "src/voxweft/backends/demo/ink.ckpt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pages = []
    for seed in range(100, 100 + N_PAGES):
        made = make_ink_phantom(seed=seed)
        pages.append((torch.from_numpy(made.layers).float().clamp(0, 200) / 200, torch.from_numpy(made.ink).float()))
    network = TimeSformer(SIZE).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=0.01)
    begun, step, mean = time.time(), 0, 0.7
    while (share := (time.time() - begun) / (60 * options.minutes)) < 1:
        rate = PEAK * min(1.0, step / 100) * 0.5 * (1 + np.cos(np.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = tiles(pages, rng)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step, mean = step + 1, 0.98 * mean + 0.02 * float(loss.detach())
        if step % 100 == 0:
            print(f"step {step}, loss {mean:.4f}", flush=True)
    state = {f"backbone.{k}": v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    size = {k: v for k, v in asdict(SIZE).items() if k != "rotary_emb"}
    torch.save(
        {"state_dict": state, "hyper_parameters": {"backbone": size}, "epoch": 0, "global_step": step}, options.to
    )
    print(f"{options.to}: {options.to.stat().st_size / 1e3:.0f} kB, {step} steps, loss {mean:.4f}")


if __name__ == "__main__":
    main()
