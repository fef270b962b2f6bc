"""What ``voxweft plan --choices`` says, beside whole runs of every choice; renews its tables in RESULTS.md.

Usage: python benchmarks/choices.py [--shared ../shared] [--work bench-work]

Two volumes: the FIB-SEM one with the membrane network, the T1 image with its tissue network. Each choice of the table
is run whole, and its labels are held against those of the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from results import keep

from voxweft.launch.processes import ALLOCATOR

HERE = Path(__file__).resolve().parent
JOBS = {
    "FIB-SEM, membranes": ("data/em_fibsem_medulla/raw.tif", "models/nnunet_fibsem_membrane"),
    "T1, tissues": ("data/mr_brain_t1/t1.nii.gz", "models/nnunet_t1_tissue"),
}


def voxweft(*words: object) -> tuple[str, float]:
    """What a command says, and the seconds that it takes."""
    begun = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "voxweft", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ALLOCATOR}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - begun


def whole(row: dict[str, Any], job: list[object], work: Path) -> tuple[np.ndarray, float]:
    """Labels of a whole run of a choice, and its seconds."""
    output = work / "choice.zarr"
    runtime, precision = row["name"].rpartition(", ")[2].split()
    options = {**row["options"], "runtime": runtime, "precision": precision}
    flags = [word for name, value in options.items() if value != "" for word in (f"--{name.replace('_', '-')}", value)]
    _, seconds = voxweft("run", *job[:1], output, *job[1:], *flags, "--output", "labels", "--overwrite", "--quiet")
    return np.asarray(zarr.open_array(str(output / "0"), mode="r")[:]), seconds


def table(job: list[object], work: Path) -> str:
    """The rows of one volume."""
    told = json.loads(voxweft("plan", *job, "--choices", "--json")[0])["plan"]["measured"]["choices"]
    rows = [row for row in told["rows"] if row["flips"] is not None]
    reference, _ = whole(next(row for row in rows if row["is_reference"]), job, work)
    lines = [
        "| choice | time: said, s | time: whole run, s | labels that flip: said | whole run | Dice: said | whole run |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        labels, seconds = whole(row, job, work)
        flips = float((labels != reference).mean())
        dice = [
            2 * ((labels == c) & (reference == c)).sum() / max(1, (labels == c).sum() + (reference == c).sum())
            for c in range(1, len(row["dice"]) + 1)
        ]
        said = ", ".join(f"{one:.3f}" for one in row["dice"])
        found = ", ".join(f"{one:.3f}" for one in dice)
        times, shares = f"{row['seconds']:.1f} | {seconds:.1f}", f"{row['flips']:.3%} | {flips:.3%}"
        lines.append(f"| {row['name']} | {times} | {shares} | {said} | {found} |")
        print(lines[-1], flush=True)
    return "\n".join([*lines, "", f"Sampling: {told['n_voxels']} voxels, {told['elapsed_s']} s."])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for n, (image, model) in enumerate(JOBS.values()):
        job = [args.shared / image, "--model", args.shared / model]
        keep(f"choices {n + 1}", table(job, args.work))


if __name__ == "__main__":
    main()
