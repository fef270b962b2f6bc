"""Measure voxweft, its floor and its peers in interleaved rounds and renew their tables in RESULTS.md.

Usage: python benchmarks/run.py --peers .venvs/peers/bin/python --shared ../shared [--rounds 5] [--work /tmp/bench]
       [--against CHECKOUT]

Each engine runs in a fresh process, in random order within a round; the table holds medians over the rounds. CPU
seconds are of the process on one core, wall seconds with all cores. Without ``--peers`` the peers are left out.
With ``--against`` only voxweft is measured, beside an earlier release in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from results import keep

from voxweft.launch.processes import ALLOCATOR

HERE = Path(__file__).resolve().parent
HELD_OUT = slice(186, 250)  # planes that the network was not trained on
OURS, PEERS = ("floor", "voxweft"), ("monai", "nnunet", "three_stage")
NULL = "fake://null?patch=64,64,64"


def engine(python: str, name: str, job: dict[str, Any], work: Path, tuned: bool) -> dict[str, Any]:
    """Run one engine in a process of its own, from the checkout in ``job`` or from this one."""
    checkout = job.get("checkout", HERE.parent)
    flags = [f"--{k}={v}" for k, v in job.items() if k != "checkout"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"PYTHONPATH": str(checkout / "src")}
    script = str(checkout / "benchmarks/contestants.py")
    done = subprocess.run(
        [python, "-W", "ignore", script, name, *flags, f"--output={work / name}.zarr"],
        capture_output=True,
        text=True,
        env=env | (ALLOCATOR if tuned else {}),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def interleaved(
    jobs: dict[str, tuple[str, str, dict[str, Any]]],
    rounds: int,
    work: Path,
    look: Callable[[str], None] = lambda _row: None,
) -> dict[str, dict[str, float]]:
    """Medians by row of ``{row: (python, engine, flags)}``; ``look(row)`` is called after each run."""
    seen: dict[str, list[dict[str, Any]]] = {row: [] for row in jobs}
    chance = random.Random(0)
    for number in range(rounds):
        order = list(jobs)
        chance.shuffle(order)
        for row in order:
            python, name, flags = jobs[row]
            seen[row].append(engine(python, name, flags, work, tuned=name not in PEERS))
            print(f"round {number}: {row}: {seen[row][-1]}", flush=True)
            look(row)
    return {
        row: {k: statistics.median(r[k] for r in runs) for k in runs[0] if isinstance(runs[0][k], (int, float))}
        for row, runs in seen.items()
    }


def prepare(shared: Path, work: Path) -> None:
    """The two inputs: a 160^3 crop, and the volume tiled to 512^3."""
    raw = tifffile.imread(shared / "data/em_fibsem_medulla/raw.tif")
    for name, volume in {
        "crop160": raw[40:200, 40:200, 40:200],
        "whole250": raw,
        "tiled512": np.tile(raw, (3, 3, 3))[:512, :512, :512],
    }.items():
        made = zarr.create_array(
            str(work / f"{name}.zarr"), shape=volume.shape, chunks=(64,) * 3, dtype="uint8", overwrite=True
        )
        made[:] = volume


def null_network(peers: str, rounds: int, work: Path) -> str:
    """The engine's own cost: CPU seconds on one core beyond the floor."""
    job = {"input": work / "tiled512.zarr", "model": NULL, "cores": 1}
    rows = {name: (sys.executable, name, job) for name in OURS}
    rows |= {name: (peers, name, job) for name in PEERS if peers}
    found = interleaved(rows, rounds, work)
    base = found["floor"]["cpu_s"]
    over = found["voxweft"]["cpu_s"] - base
    lines = [
        "| engine | CPU s | beyond the floor, s | ns a voxel | voxweft / this | peak memory, GB | intermediates, GB |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in found.items():
        beyond = row["cpu_s"] - base
        share = f"{over / beyond:.3f}" if name not in OURS else ""
        lines.append(
            f"| {name} | {row['cpu_s']:.2f} | {beyond:.2f} | {beyond / 512**3 * 1e9:.0f} | {share} | "
            f"{row['peak_bytes'] / 1e9:.2f} | {row.get('intermediate_bytes', 0) / 1e9:.2f} |"
        )
    return "\n".join(lines)


def real_network(peers: str, rounds: int, work: Path, model: Path) -> str:
    """Wall seconds with all cores, and the ratio to the floor of the same runtime."""
    job = {"input": work / "crop160.zarr", "model": model, "precision": "fp32"}
    rows = {
        f"{name}, {runtime}": (sys.executable, name, job | {"runtime": runtime})
        for name in OURS
        for runtime in ("torch", "jit", "openvino", "auto")
        if (name, runtime) != ("floor", "auto")
    }
    rows |= {name: (peers, name, job) for name in PEERS if peers}
    found = interleaved(rows, rounds, work)
    auto = found["voxweft, auto"]["wall_s"]
    lines = ["| engine | wall s | CPU s | CPU / floor of the same runtime | this / voxweft auto | peak memory, GB |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in found.items():
        own = found.get(f"floor, {name.partition(', ')[2]}")
        ratio = f"{row['cpu_s'] / own['cpu_s']:.3f}" if own and name.startswith("voxweft") else ""
        lines.append(
            f"| {name} | {row['wall_s']:.2f} | {row['cpu_s']:.2f} | {ratio} | {row['wall_s'] / auto:.2f} | "
            f"{row['peak_bytes'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


PRECISIONS = {
    "floor, torch fp32": ("floor", {"runtime": "torch", "precision": "fp32"}),
    "floor, openvino fp32": ("floor", {"runtime": "openvino", "precision": "fp32"}),
    "floor, openvino bf16": ("floor", {"runtime": "openvino", "precision": "bf16"}),
    "floor, openvino int8": ("floor", {"runtime": "openvino", "precision": "int8"}),
    "voxweft, auto": ("voxweft", {"runtime": "auto"}),
    "voxweft, fp32 exact": ("voxweft", {"runtime": "auto", "tolerance": 0}),
    "voxweft, int8": ("voxweft", {"runtime": "auto", "precision": "int8", "tolerance": 1}),
    "monai": ("monai", {}),
    "nnunet": ("nnunet", {}),
}


def precisions(peers: str, rounds: int, work: Path, model: Path, shared: Path) -> str:
    """A long job in every precision: wall seconds on all cores, ratio to plain torch, Dice on the held-out planes."""
    job = {"input": work / "whole250.zarr", "model": model}
    rows = {
        name: (peers if engine_name in PEERS else sys.executable, engine_name, job | flags)
        for name, (engine_name, flags) in PRECISIONS.items()
        if engine_name not in PEERS or peers
    }
    truth = membranes(tifffile.imread(shared / "data/em_fibsem_medulla/labels.tif"))[HELD_OUT]
    dice: dict[str, float] = {}

    def look(row: str) -> None:
        if not row.startswith("floor"):
            node = zarr.open(str(work / f"{rows[row][1]}.zarr"), mode="r")
            found = (node["0"] if isinstance(node, zarr.Group) else node)[HELD_OUT] > 127
            dice[row] = 2 * (found & truth).sum() / (found.sum() + truth.sum())

    found = interleaved(rows, rounds, work, look)
    base, auto = found["floor, torch fp32"]["wall_s"], found["voxweft, auto"]["wall_s"]
    lines = ["| engine | wall s | CPU s | wall / torch fp32 floor | wall / voxweft auto | peak memory, GB | Dice |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['wall_s']:.2f} | {row['cpu_s']:.2f} | {row['wall_s'] / base:.3f} | "
            f"{row['wall_s'] / auto:.2f} | {row['peak_bytes'] / 1e9:.2f} | "
            + (f"{dice[name]:.4f} |" if name in dice else "|")
        )
    return "\n".join(lines)


def membranes(labels: np.ndarray) -> np.ndarray:
    """Both voxels of every face between two labels, dilated once by the 6-neighbour cross."""
    border = np.zeros(labels.shape, bool)
    pairs = [
        tuple(tuple(slice(*s) if a == axis else slice(None) for a in range(3)) for s in ((None, -1), (1, None)))
        for axis in range(3)
    ]
    for lower, upper in pairs:
        differs = labels[lower] != labels[upper]
        border[lower] |= differs
        border[upper] |= differs
    grown = border.copy()
    for lower, upper in pairs:
        grown[lower] |= border[upper]
        grown[upper] |= border[lower]
    return grown


def exactness(work: Path, model: Path) -> str:
    """The outputs of the last round against a blend in float64 with the stated window."""
    from contestants import PATCH, gaussian, load, read, tiles

    volume = read(str(work / "crop160.zarr"), normalize=True)
    module, _ = load(str(model), "torch", 1)
    window = gaussian()
    total, weight = np.zeros((2, *volume.shape)), np.zeros(volume.shape)
    with torch.inference_mode():
        for z, y, x in tiles(volume.shape):
            where = (slice(z, z + PATCH), slice(y, y + PATCH), slice(x, x + PATCH))
            logits = module(torch.from_numpy(volume[where].copy())[None, None])[0].double().numpy()
            total[(slice(None), *where)] += logits * window
            weight[where] += window
    mean = total / weight
    wanted = np.floor(255 / (1 + np.exp(mean[0] - mean[1]))).astype(int)
    inner = (slice(16, -16),) * 3
    lines = ["| engine | largest difference, levels | voxels off by more than one level | largest 16 voxels inside |"]
    lines += ["|---|---|---|---|"]
    for name in ("voxweft", *PEERS):
        path = work / f"{name}.zarr"
        if not path.exists():
            continue
        node = zarr.open(str(path), mode="r")
        found = (node["0"] if isinstance(node, zarr.Group) else node)[:].astype(int)
        off = np.abs(found - wanted)
        lines.append(f"| {name} | {off.max()} | {100 * (off > 1).mean():.3f} % | {off[inner].max()} |")
    return "\n".join(lines)


def both_releases(checkout: Path, rounds: int, work: Path, model: Path) -> str:
    """This release and an earlier one: CPU seconds on one core (null network) and on all (real network)."""
    package = next(path.parent.name for path in checkout.glob("src/*weft/__init__.py"))
    lines = ["| job | floor, CPU s | earlier, CPU s | now, CPU s | now / earlier | beyond the floor | now / floor |"]
    lines += ["|---|---|---|---|---|---|---|"]
    null = {"input": work / "tiled512.zarr", "model": NULL, "cores": 1}
    real = {"input": work / "crop160.zarr", "model": model}
    jobs = {"null network": null, "real network, torch": real | {"runtime": "torch"}}
    for title, job in (jobs | {"real network, jit": real | {"runtime": "jit"}}).items():
        rows = {
            "floor": (sys.executable, "floor", job),
            "earlier": (sys.executable, package, job | {"checkout": checkout}),
            "now": (sys.executable, "voxweft", job),
        }
        floor, before, now = (row["cpu_s"] for row in interleaved(rows, rounds, work).values())
        beyond = (now - floor) / (before - floor)
        lines.append(
            f"| {title} | {floor:.2f} | {before:.2f} | {now:.2f} | {now / before:.3f} | {beyond:.3f} | "
            f"{now / floor:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="python of the environment with MONAI and nnU-Net")
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--tables", default="", help="some of: null network, real network, precisions, exactness")
    parser.add_argument("--against", type=Path, help="a checkout of an earlier release")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.shared / "models/nnunet_fibsem_membrane"
    prepare(args.shared, args.work)
    if args.against:
        keep("against an earlier release", both_releases(args.against, args.rounds, args.work, model))
        return
    tables = {
        "null network": lambda: null_network(args.peers, max(3, args.rounds - 2), args.work),
        "real network": lambda: real_network(args.peers, args.rounds, args.work, model),
        "exactness": lambda: exactness(args.work, model),
        "precisions": lambda: precisions(args.peers, args.rounds, args.work, model, args.shared),
    }
    for name in args.tables.split(",") if args.tables else tables:
        keep(name, tables[name]())


if __name__ == "__main__":
    main()
