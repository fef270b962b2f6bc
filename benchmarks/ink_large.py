"""Ink by the 152-layer network with a 3-D decoder: memory of a large picture, CPU time against a plain loop.

Usage: python benchmarks/ink_large.py [--work bench-work] [--rounds 1] [--side 3]

The network has its published width and random weights. Memory: a picture of 8000 x 4000 pixels with 62 layers, of which
a square of SIDE x SIDE tiles holds something (a tile takes 20 seconds of a core); columns and buffers are those of the
whole picture. CPU time: a surface of that square alone, against a plain loop that has it in memory and runs the same
tiles through the same network in the same runtime, two at once. Every run is a process of its own, from its start;
rounds are interleaved, and the table holds medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from results import keep

from voxweft.launch.processes import ALLOCATOR

LAYERS, TILE, STRIDE, LANES = 62, 256, 128, 2


def make(work: Path, side: int) -> tuple[Path, Path, Path]:
    """The checkpoint, the large surface and the one of the square alone."""
    import zarr

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from inknets2026 import save

    model, large, small = work / "r152.ckpt", work / "large.zarr", work / f"small-{side}.zarr"
    if not model.exists():
        save(model, "resnet3d-3d-decoder", 64)
    pixels = TILE + (side - 1) * STRIDE
    noise = np.random.default_rng(0).integers(1, 255, (LAYERS, pixels, pixels), dtype=np.uint8)
    for path, shape, (y, x) in ((large, (4000, 8000), (1024, 2048)), (small, (pixels, pixels), (0, 0))):
        array = zarr.create_array(str(path), shape=(LAYERS, *shape), chunks=(1, 256, 1024), dtype="u1", overwrite=True)
        array[:, y : y + pixels, x : x + pixels] = noise
    return model, large, small


def floor(model: Path, surface: Path) -> None:
    """The plain loop, in this process."""
    import torch
    import zarr

    from voxweft.backends import load_model
    from voxweft.model.protocols import ForwardSetting

    torch.set_num_threads(1)
    opened = load_model(str(model)).open(ForwardSetting("torch", "cpu", "fp32", 1, (TILE, 1, TILE), LANES))
    layers = zarr.open(str(surface), mode="r")[:]
    starts = range(0, layers.shape[1] - TILE + 1, STRIDE)
    total, weight, window = np.zeros(layers.shape[1:]), np.zeros(layers.shape[1:]), np.hanning(TILE + 2)[1:-1]

    def tile(y: int, x: int) -> tuple[int, int, np.ndarray]:
        values = np.minimum(layers[:, y : y + TILE, x : x + TILE], 200).astype(np.float32) / 200
        with torch.inference_mode():
            found = opened(torch.from_numpy(values[None, :, :, None]))
        return y, x, found[0, 0, :, 0].numpy()

    with ThreadPoolExecutor(LANES) as pool:
        for y, x, found in pool.map(lambda at: tile(*at), [(y, x) for y in starts for x in starts]):
            total[y : y + TILE, x : x + TILE] += found * window[:, None] * window
            weight[y : y + TILE, x : x + TILE] += window[:, None] * window
    np.save(surface.with_suffix(".npy"), total / weight)


def cpu_and_peak(words: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and peak memory (GB) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["/usr/bin/env", "time", "-f", "%M", *words], check=True, env=env, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stderr.decode().split()[-1]) * 1024 / 1e9


def main() -> None:
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", type=int, default=3)
    parser.add_argument("--floor", nargs=2, type=Path)
    options = parser.parse_args()
    if options.floor:
        floor(*options.floor)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    model, large, small = make(options.work, options.side)
    ink = [sys.executable, "-m", "voxweft", "ink", "infer"]
    more = ["--model", str(model), "--runtime-dir", str(options.work), "--quiet", "--overwrite"]
    more += ["--zarr-output-dir", str(options.work / "parts")]
    jobs = {
        "plain loop, the square": [sys.executable, __file__, "--floor", str(model), str(small)],
        "voxweft, the square": [*ink, str(small), str(options.work / "small.png"), *more],
        "voxweft, 8000 x 4000": [*ink, str(large), str(options.work / "large.png"), *more],
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, words in jobs.items():
            seen[name].append(cpu_and_peak(words))
            print(name, seen[name][-1], flush=True)
    first = statistics.median(cpu for cpu, _ in seen["plain loop, the square"])
    lines = [
        f"| run (a square of {options.side**2} tiles) | CPU, s | ratio | peak memory, GB |",
        "|---|---|---|---|",
    ]
    for name, rows in seen.items():
        cpu, peak = statistics.median(c for c, _ in rows), max(p for _, p in rows)
        ratio = f"{cpu / first:.2f}" if "square" in name else "-"  # the large picture has more tiles that meet it
        lines.append(f"| {name} | {cpu:.0f} | {ratio} | {peak:.2f} |")
    keep("ink large", "\n".join(lines))


if __name__ == "__main__":
    main()
