"""Peak memory of `voxweft run` over 1024 x 1024 x Z with two classes and patch 64; renews its table in RESULTS.md.

Usage: python benchmarks/memory.py [--shared ../shared] [--work bench-work]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr
from results import keep

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    layer = np.random.default_rng(0).integers(1, 255, (64, 1024, 1024), dtype=np.uint8)
    null, real = "fake://null?patch=64,64,64&classes=2", str(args.shared / "models/nnunet_fibsem_membrane")
    jobs = [(512, null, []), (1024, null, []), (256, real, ["--overlap", "0"]), (512, real, ["--overlap", "0"])]
    lines = ["| network | Z | peak memory, GB | time, s |", "|---|---|---|---|"]
    for depth, model, flags in jobs:
        source, output = args.work / f"deep{depth}.zarr", args.work / "deep_out.zarr"
        made = zarr.create_array(
            str(source), shape=(depth, 1024, 1024), chunks=(64, 128, 128), dtype="uint8", overwrite=True
        )
        for z in range(0, depth, 64):
            made[z : z + 64] = layer
        command = [sys.executable, "-m", "voxweft", "run", source, output, "--model", model, "--overwrite", "--quiet"]
        subprocess.run([*map(str, command), "--runtime", "torch", *flags], check=True)
        found = json.loads(Path(f"{output}.voxweft/report.json").read_text())
        name = "null" if model == null else "nnunet_fibsem_membrane, overlap 0"
        lines.append(f"| {name} | {depth} | {found['peak_memory_bytes'] / 1e9:.3f} | {found['elapsed_s']:.0f} |")
        shutil.rmtree(source)
    keep("memory", "\n".join(lines))


if __name__ == "__main__":
    main()
