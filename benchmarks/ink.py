"""Ink: voxweft against a plain loop, and its memory against the height of the canvas; renews its tables in RESULTS.md.

Usage: python benchmarks/ink.py [--work bench-work] [--rounds 3] [--side 2048]

A surface volume [26, side, side] of the ink phantom of ``voxweft.testing``, tile 64, stride 16, a TimeSformer (dim 64,
depth 3, 4 heads) with random weights. The plain loop is what a careful script does: the whole volume in memory, tiles
in batches through the same network in the same runtime, a Hann window, sums and weights as float32 canvases, one
division, one PNG. Every run is a process of its own, from its start to the written PNG, rounds are interleaved, and the
tables hold medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from results import keep

from voxweft.launch.processes import ALLOCATOR
from voxweft.nets.timesformer import TimeSformer, TimeSformerSize
from voxweft.testing.surface import make_ink_phantom

DEPTH, TILE, STRIDE = 26, 64, 16
SIZE = TimeSformerSize(
    dim=64, image_size=TILE, patch_size=16, num_frames=DEPTH, num_classes=16, depth=3, heads=4, dim_head=16
)


def make(work: Path, height: int, side: int) -> tuple[Path, Path]:
    """The prepared surface volume and the checkpoint."""
    work.mkdir(parents=True, exist_ok=True)
    net, volume = work / "ink.ckpt", work / f"surface-{height}.zarr"
    if not net.exists():
        torch.manual_seed(0)
        state = {f"backbone.{k}": v for k, v in TimeSformer(SIZE).state_dict().items()}
        torch.save({"state_dict": state, "hyper_parameters": {"backbone": asdict(SIZE)}}, net)
    if not volume.exists():
        import zarr

        page = make_ink_phantom((DEPTH, 512, 512)).layers
        array = zarr.create_array(
            str(volume), shape=(DEPTH, height, side), chunks=(1, 256, 1024), dtype="uint8", compressors=None
        )
        for row in range(0, height, 512):
            rows = min(512, height - row)
            array[:, row : row + rows] = np.tile(page, (1, 1, -(-side // 512)))[:, :rows, :side]
    return volume, net


def network(checkpoint: str, runtime: str, batch: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network on all cores, as a script would run it."""
    from voxweft.backends import load_model

    module = load_model(checkpoint).model._modules[0]
    if runtime == "torch":
        return module
    import openvino

    example = torch.zeros(batch, DEPTH, TILE, 1, TILE)
    compiled = openvino.compile_model(openvino.convert_model(torch.export.export(module, (example,))), "CPU")
    return lambda x: torch.from_numpy(compiled(x.contiguous().numpy())[0])


def loop(volume: str, checkpoint: str, out: str, runtime: str, batch: int) -> None:
    """The plain loop, in this process."""
    import zarr
    from PIL import Image

    net = network(checkpoint, runtime, batch)
    data = zarr.open_array(volume, mode="r")[:]
    height, width = data.shape[1:]
    window = torch.hann_window(TILE + 2, periodic=False)[1:-1]
    window = window[:, None] * window
    total, weight = torch.zeros(height, width), torch.zeros(height, width)
    starts = [sorted({*range(0, n - TILE + 1, STRIDE), n - TILE}) for n in (height, width)]
    places = [(y, x) for y in starts[0] for x in starts[1]]
    with torch.inference_mode():
        for at in range(0, len(places), batch):
            some = places[at : at + batch]
            tiles = np.stack([data[:, y : y + TILE, x : x + TILE] for y, x in some])
            tiles = np.concatenate([tiles, np.zeros((batch - len(some), *tiles.shape[1:]), np.uint8)])
            inputs = torch.from_numpy(tiles).float().clamp_(0, 200).div_(200)
            for (y, x), found in zip(some, net(inputs[:, :, :, None])[:, 0, :, 0], strict=False):
                total[y : y + TILE, x : x + TILE] += found * window
                weight[y : y + TILE, x : x + TILE] += window
    result = (total / weight.clamp(min=1e-6)).clamp_(0, 1).mul_(255).to(torch.uint8)
    Image.fromarray(result.numpy()).save(out)


def voxweft(volume: str, checkpoint: str, out: str, runtime: str, batch: int) -> None:
    """The command, in this process."""
    from voxweft.cli.app import execute

    arguments = ["ink", "infer", volume, out, "--model", checkpoint, "--start-layer", "0", "--end-layer", str(DEPTH)]
    arguments += ["--stride", str(STRIDE), "--quiet", "--overwrite", "--runtime-dir", str(Path(out).parent)]
    arguments += ["--zarr-output-dir", str(Path(out).parent), "--batch-size", str(batch)]
    if runtime != "auto":
        arguments += ["--runtime", runtime]
    if code := execute(arguments):
        raise SystemExit(code)


def measure(way: str, volume: Path, net: Path, runtime: str, batch: int) -> dict[str, float]:
    """Seconds and peak memory of one run in a process of its own."""
    told, out = volume.parent / "told.json", volume.parent / f"{way}.png"
    words = [sys.executable, __file__, "--way", way, str(volume), str(net), str(out), runtime, str(batch), str(told)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | ALLOCATOR
    start = time.perf_counter()
    subprocess.run(words, env=env, check=True, capture_output=True)
    return {"seconds": time.perf_counter() - start, "peak": json.loads(told.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--way", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way, volume, net, out, runtime, batch, told = options.way
        {"loop": loop, "voxweft": voxweft}[way](volume, net, out, runtime, int(batch))
        status = Path("/proc/self/status").read_text()
        Path(told).write_text(str(int(status.partition("VmHWM:")[2].split()[0]) * 1024))
        return
    volume, net = make(options.work, options.side, options.side)
    jobs = [("loop", "torch", 16), ("voxweft", "torch", 16), ("loop", "openvino", 16), ("voxweft", "openvino", 16)]
    jobs += [("voxweft", "auto", 256)]
    seen: dict[tuple[str, str, int], list[dict[str, float]]] = {job: [] for job in jobs}
    chance = random.Random(0)
    for _ in range(options.rounds):
        for job in chance.sample(jobs, len(jobs)):
            seen[job].append(measure(job[0], volume, net, *job[1:]))
            print(*job, seen[job][-1], flush=True)
    middle = {j: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for j, rows in seen.items()}
    lines = ["| way | runtime | time, s | voxweft / plain loop | peak memory, GB |", "|---|---|---|---|---|"]
    for job, row in middle.items():
        plain = middle.get(("loop", job[1], job[2])) if job[0] == "voxweft" else None
        ratio = f"{row['seconds'] / plain['seconds']:.2f}" if plain else ""
        lines.append(f"| {job[0]} | {job[1]} | {row['seconds']:.1f} | {ratio} | {row['peak'] / 1e9:.2f} |")
    keep("ink", "\n".join(lines))
    rows = ["| rows of the canvas | plain loop, GB | voxweft, GB |", "|---|---|---|"]
    for height in (1024, 4096, 16384):
        tall, net = make(options.work, height, 512)
        peaks = [measure(way, tall, net, "openvino", 16)["peak"] / 1e9 for way in ("loop", "voxweft")]
        rows.append(f"| {height} | {peaks[0]:.2f} | {peaks[1]:.2f} |")
        print(rows[-1], flush=True)
    keep("ink memory", "\n".join(rows))


if __name__ == "__main__":
    main()
