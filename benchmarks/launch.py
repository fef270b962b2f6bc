"""What handing parts to workers costs; renews its table in RESULTS.md.

Usage: python benchmarks/launch.py [--work bench-work] [--rounds 2] [--shape 4096,1024,1024]

A null network, so that nothing hides the launcher. The floor are two serial runs side by side, each with one part of
two and one core. Every way is measured from the start of the command to its end, start of workers included; rounds are
interleaved, the order within a round is shuffled, and the table holds medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import zarr
from results import keep

N = 2
Way = TypeVar("Way", str, int)
WAYS = {
    "two serial runs side by side": [],
    "processes": ["--executor", "processes", "--workers", str(N)],
    "dask": ["--executor", "dask", "--workers", str(N)],
}


def make(work: Path, shape: tuple[int, ...]) -> Path:
    """A volume of noise, written once."""
    place = work / f"noise-{'x'.join(map(str, shape))}.zarr"
    if not place.exists():
        work.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 255, (128, *shape[1:]), dtype=np.uint8)
        array = zarr.create_array(str(place), shape=shape, chunks=(128, 128, 128), dtype="uint8", compressors=None)
        for z in range(0, shape[0], 128):
            array[z : z + 128] = noise[: shape[0] - z]
    return place


def measure(way: str, volume: Path) -> tuple[float, int]:
    """Seconds of one run, and the patches that it computed."""
    output = volume.parent / "launch.zarr"
    for path in (output, Path(f"{output}.voxweft")):
        shutil.rmtree(path, ignore_errors=True)
    base = [sys.executable, "-m", "voxweft", "run", str(volume), str(output), "--model", "fake://null"]
    base += ["--runtime", "torch", "--quiet"]
    start = time.perf_counter()
    if WAYS[way]:
        subprocess.run([*base, *WAYS[way]], check=True)
    else:
        parts = [["--num-parts", str(N), "--part-id", str(i)] for i in range(N)]
        runs = [subprocess.Popen(["taskset", "-c", str(i), *base, *part]) for i, part in enumerate(parts)]
        codes = [run.wait() for run in runs]
        if any(codes):
            raise SystemExit(f"{way} failed")
    seconds = time.perf_counter() - start
    report = json.loads((Path(f"{output}.voxweft") / "report.json").read_text())
    return seconds, report["totals"]["n_patches"]


def asked(rounds: int, shape: str) -> tuple[Path, int, str]:
    """The volume of noise, the number of rounds and the shape that a command line asks for, or these defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--shape", default=shape)
    options = parser.parse_args()
    volume = make(options.work, tuple(map(int, options.shape.split(","))))
    return volume, options.rounds, options.shape.replace(",", " x ")


def interleaved(
    ways: Iterable[Way], rounds: int, measured: Callable[[Way], tuple[float, int]]
) -> dict[Way, list[tuple[float, int]]]:
    """What was measured of each way, the order within a round shuffled."""
    seen: dict[Way, list[tuple[float, int]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in random.sample([*seen], len(seen)):
            seen[way].append(measured(way))
            print(way, seen[way][-1], flush=True)
    return seen


def main() -> None:
    if (os.cpu_count() or 1) < N:
        raise SystemExit(f"this measurement needs {N} cores")
    volume, rounds, size = asked(rounds=2, shape="4096,1024,1024")
    seen = interleaved(WAYS, rounds, lambda way: measure(way, volume))
    middle = {way: statistics.median(s for s, _ in runs) for way, runs in seen.items()}
    floor = middle[next(iter(WAYS))]
    rows = [
        f"| {way} | {middle[way]:.1f} | {middle[way] / floor:.3f} | "
        f"{', '.join(f'{s:.1f}' for s, _ in runs)} | {runs[0][1]} |"
        for way, runs in seen.items()
    ]
    head = ["| way | seconds | ratio | all rounds | patches computed |", "|---|---|---|---|---|"]
    keep("launch", f"Volume {size}, null network, {N} workers.\n\n" + "\n".join([*head, *rows]))


if __name__ == "__main__":
    main()
