"""Ink in a scroll: time and bytes against the surface and the volume; renews its table in RESULTS.md.

Usage: python benchmarks/ink_volume.py [--work bench-work] [--sides 512,1024,2048] [--rounds 3]

A curved sheet runs through stores of 64^3 chunks, of which only those near the sheet are stored; once a sheet of 448 x
448 voxels in the middle of each volume, once one from side to side. A null network runs over the chunks that the sheet
touches (--chunk-halo 0). Bytes read are those that the sweep decoded of stored chunks, against those of the chunks that
the sheet touches. Every run is a process of its own; the table holds medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from results import keep

from voxweft.stores.segments import open_segment
from voxweft.stores.surface import survey
from voxweft.testing.roll import write_tifxyz

CHUNK, SMALL = 64, 448
MODEL = "fake://null?patch=64,64,64&classes=1"


def sheet(side: int, extent: int) -> np.ndarray:
    """Points [3, rows, columns] every four voxels of a sheet, so wide, in the middle of a cube."""
    first = (side - extent) / 2
    at = first + np.arange(0, extent, 4)
    y, x = np.meshgrid(at, at, indexing="ij")
    return np.stack([side / 2 + 20 * np.sin(x / 150) * np.cos(y / 190), y, x]).astype(np.float32)


def make(work: Path, side: int, extent: int) -> tuple[Path, Path, int]:
    """A sparse store, the sheet as tifxyz, and how many chunks the sheet touches."""
    import zarr

    name = f"scroll-{side}-{extent}"
    store, segment = work / f"{name}.zarr", work / f"{name}-segment"
    write_tifxyz(segment, sheet(side, extent), source=store.name)
    cells = survey(open_segment(str(segment)), 0, (CHUNK,) * 3, (side,) * 3).cells
    if not store.exists():
        array = zarr.create_array(str(store), shape=(side,) * 3, chunks=(CHUNK,) * 3, dtype="uint8", compressors=None)
        noise = np.random.default_rng(0).integers(1, 200, (CHUNK,) * 3, dtype=np.uint8)
        for z, y, x in np.argwhere(cells):
            lo = [int(i) * CHUNK for i in (z, y, x)]
            array[tuple(slice(a, a + CHUNK) for a in lo)] = noise
    return store, segment, int(cells.sum())


def measure(store: Path, segment: Path) -> dict[str, float]:
    """Seconds, decoded bytes and peak memory of one run."""
    output = store.with_name(f"{store.stem}-ink.zarr")
    for path in (output, Path(f"{output}.voxweft")):
        shutil.rmtree(path, ignore_errors=True)
    words = ["ink", "volume", str(store), str(output), "--model", MODEL, "--runtime", "torch", "--quiet"]
    words += ["--surface", str(segment), "--chunk-halo", "0"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "voxweft", *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - started
    report = json.loads(Path(f"{output}.voxweft/report.json").read_text())
    swept = sum(part["totals"]["bytes_read"] for part in report["parts"] if part["stage"] == "sweep")
    return {"seconds": seconds, "bytes": swept, "peak": report["peak_memory_bytes"]}


def main() -> None:
    """Measure every store, interleaved, and keep the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--sides", default="512,1024,2048")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sides = [int(n) for n in options.sides.split(",")]
    jobs = [(side, extent) for side in sides for extent in dict.fromkeys((SMALL, side - CHUNK))]
    made = {job: make(options.work, *job) for job in jobs}
    seen: dict[tuple[int, int], list[dict[str, float]]] = {job: [] for job in jobs}
    for _ in range(options.rounds):
        for job in jobs:
            seen[job].append(measure(*made[job][:2]))
            print(*job, seen[job][-1], flush=True)
    middle = {job: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for job, rows in seen.items()}
    first = middle[jobs[0]]["seconds"]
    lines = ["| volume | sheet | chunks | seconds | ratio | bytes read / chunks touched | peak memory, GB |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (side, extent), row in middle.items():
        n_chunks = made[side, extent][2]
        read = row["bytes"] / (n_chunks * math.prod((CHUNK,) * 3))
        lines.append(
            f"| {side}^3 | {extent}^2 | {n_chunks} of {(side // CHUNK) ** 3} | {row['seconds']:.1f} "
            f"| {row['seconds'] / first:.2f} | {read:.2f} | {row['peak'] / 1e9:.2f} |"
        )
    keep("ink volume", "\n".join(lines))


if __name__ == "__main__":
    main()
