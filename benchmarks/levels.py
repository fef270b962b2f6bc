"""The resolution levels of an output by one worker and by two; renews its table in RESULTS.md.

Usage: python benchmarks/levels.py [--work bench-work] [--rounds 3] [--shape 1024,1024,1024]

A null network writes the finest level; then the same workers make the others, each with a core of its own. Measured is
the time from the last slab of the finest level to the last block of the coarsest, as the ledger holds them. Medians of
interleaved rounds.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from launch import asked, interleaved
from results import keep

WORKERS = (1, 2)


def measure(n_workers: int, volume: Path) -> tuple[float, int]:
    """Seconds for the levels, and how many blocks they have."""
    output = volume.parent / "levels.zarr"
    for path in (output, Path(f"{output}.voxweft")):
        shutil.rmtree(path, ignore_errors=True)
    words = ["run", str(volume), str(output), "--model", "fake://null", "--runtime", "torch", "--quiet"]
    who = ["--executor", "processes", "--workers", str(n_workers)]
    cores = ["taskset", "-c", f"0-{n_workers - 1}"]
    subprocess.run([*cores, sys.executable, "-m", "voxweft", *words, *who], check=True)
    done = Path(f"{output}.voxweft") / "done"
    times = {
        stage.name: [json.loads(path.read_text())["at"] for path in stage.glob("*.json")] for stage in done.iterdir()
    }
    levels = [at for name, stage in times.items() if name.startswith("level") for at in stage]
    return max(levels) - max(times["sweep"]), len(levels)


def main() -> None:
    volume, rounds, size = asked(rounds=3, shape="1024,1024,1024")
    seen = interleaved(WORKERS, rounds, lambda n: measure(n, volume))
    middle = {n: statistics.median(s for s, _ in runs) for n, runs in seen.items()}
    rows = [
        f"| {n} | {middle[n]:.1f} | {middle[n] / middle[1]:.2f} | {', '.join(f'{s:.1f}' for s, _ in runs)} | "
        f"{runs[0][1]} |"
        for n, runs in seen.items()
    ]
    head = ["| workers | seconds | ratio | all rounds | blocks |", "|---|---|---|---|---|"]
    keep("levels", f"Levels of {size}.\n\n" + "\n".join([*head, *rows]))


if __name__ == "__main__":
    main()
