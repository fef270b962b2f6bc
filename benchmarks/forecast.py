"""What `voxweft plan` says against what `voxweft run` then takes, on three workloads; renews its table in RESULTS.md.

Usage: python benchmarks/forecast.py [--shared ../shared] [--work bench-work]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from results import keep

PAIR = ("forecast", "measured")
HERE = Path(__file__).resolve().parent


def voxweft(*arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-m", "voxweft", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    voxweft("demo", args.work / "demo", "--quiet")
    jobs = {
        "FIB-SEM 250^3, real network": (
            args.shared / "data/em_fibsem_medulla/raw.tif",
            ["--model", args.shared / "models/nnunet_fibsem_membrane"],
        ),
        "FIB-SEM tiled to 512^3, null network": (
            args.work / "tiled512.zarr",
            ["--model", "fake://null?patch=64,64,64"],
        ),
        "phantom 160^3, demo network, 8 flips": (
            args.work / "demo/phantom.zarr",
            ["--model", "demo", "--tta", "mirroring"],
        ),
    }
    columns = ["workload"] + [f"{what}: {which}" for what in ("time, s", "memory, GB", "written, MB") for which in PAIR]
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|---|---|---|---|"]
    for name, (source, flags) in jobs.items():
        told = json.loads(voxweft("plan", source, *flags, "--json"))["forecast"]
        output = args.work / "forecast.zarr"
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(f"{output}.voxweft", ignore_errors=True)
        start = time.perf_counter()
        voxweft("run", source, output, *flags, "--quiet")
        took = time.perf_counter() - start
        found = json.loads(Path(f"{output}.voxweft/report.json").read_text())
        lines.append(
            f"| {name} | {told['seconds']:.1f} | {took:.1f} | {told['memory_bytes'] / 1e9:.2f} | "
            f"{found['peak_memory_bytes'] / 1e9:.2f} | {told['bytes_written'] / 1e6:.0f} | "
            f"{found['totals']['bytes_written'] / 1e6:.0f} |"
        )
    keep("forecast", "\n".join(lines))


if __name__ == "__main__":
    main()
