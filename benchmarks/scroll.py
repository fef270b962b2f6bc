"""voxweft's fused and staged scroll pipeline, and the reference's three commands; renews its tables in RESULTS.md.

Usage: python benchmarks/scroll.py [--reference .venvs/vesuvius/bin/python] [--shared ../shared] [--work bench-work]

Every command runs in a process of its own, rounds are interleaved, and the table holds medians. A command's bytes are
those of its write calls (Linux: /proc/self/io), so what is written twice counts twice; of the reference's, what lies
there in the end.
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
from pathlib import Path

import zarr
from results import keep
from run import prepare

from voxweft.launch.processes import ALLOCATOR

HERE = Path(__file__).resolve().parent
COUNTED = """
import atexit, json, sys
def told():
    io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    json.dump({"written": int(io["wchar"]), "peak": peak}, open(TOLD, "w"))
atexit.register(told)
"""
VOXWEFT = "from voxweft.cli.app import execute; sys.exit(execute(ARGUMENTS))"


def command(python: str, code: str, arguments: list[str], work: Path, tuned: bool) -> dict[str, float]:
    """Run one command; seconds, bytes written, peak memory."""
    told = work / "told.json"
    text = COUNTED.replace("TOLD", repr(str(told))) + code.replace("ARGUMENTS", repr(arguments))
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    env |= {"PYTHONPATH": str(HERE.parent / "src")} if tuned else {"nnUNet_compile": "false"}
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-W", "ignore", "-c", text],
        env=env | (ALLOCATOR if tuned else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return {"seconds": time.perf_counter() - start} | json.loads(told.read_text())


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def fused(job: dict[str, str], work: Path) -> list[dict[str, float]]:
    arguments = ["pipeline", "--input", job["input"], "--model", job["model"], "--output", f"{work}/final.zarr"]
    return [command(sys.executable, VOXWEFT, [*arguments, *job["flags"].split()], work, tuned=True)]


def staged(job: dict[str, str], work: Path) -> list[dict[str, float]]:
    stages = [
        ["predict", "-m", job["model"], "--input_dir", job["input"], "--output_dir", f"{work}/parts"],
        ["blend", f"{work}/parts", f"{work}/merged.zarr"],
        ["finalize", f"{work}/merged.zarr", f"{work}/final.zarr", "--chunk-size", "128,128,128"],
    ]
    stages[0] += job["flags"].split()
    return [command(sys.executable, VOXWEFT, [*stage, "--quiet"], work, tuned=True) for stage in stages]


def reference(job: dict[str, str], work: Path) -> list[dict[str, float]]:
    """vesuvius 0.2.4; its predict cannot run on a CPU as shipped (see vesuvius_predict.py)."""
    script = "import runpy; sys.argv = ARGUMENTS; runpy.run_path(sys.argv[0], run_name='__main__')"
    module = "import importlib; sys.argv = ARGUMENTS; sys.exit(importlib.import_module(sys.argv[0]).main())"
    parts, merged, final = (f"{work}/{name}" for name in ("parts", "merged.zarr", "final.zarr"))
    stages = [
        (script, [str(HERE / "vesuvius_predict.py"), job["model"], job["input"], parts]),
        (module, ["vesuvius.models.run.blending", parts, merged, "--num_workers", "1"]),
        (module, ["vesuvius.models.run.finalize_outputs", merged, final, "--num-workers", "1"]),
    ]
    found = [command(job["python"], code, arguments, work, tuned=False) for code, arguments in stages]
    for stage in found:  # it writes in processes of its own: what lies there in the end is counted
        stage["written"] = 0
    found[-1]["written"] = size_of(work)
    return found


def table(jobs: dict[str, dict[str, str]], rounds: int, work: Path) -> str:
    """Medians of the sums over the commands of a way; the memory is that of the hungriest command."""
    lines = [
        "| workload | way | time, s | peak memory, GB | bytes written, MB | result, MB | written / result |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, job in jobs.items():
        ways = [fused, staged] + ([reference] if job.get("python") else [])
        seen: dict[str, list[tuple[float, ...]]] = {way.__name__: [] for way in ways}
        chance = random.Random(0)
        for _ in range(rounds):
            for way in chance.sample(ways, len(ways)):
                shutil.rmtree(work / "scroll", ignore_errors=True)
                (work / "scroll").mkdir()
                stages = way(job, work / "scroll")
                row = (
                    sum(s["seconds"] for s in stages),
                    max(s["peak"] for s in stages),
                    sum(s["written"] for s in stages),
                    size_of(work / "scroll/final.zarr"),
                )
                print(name, way.__name__, [round(v, 1) for v in row], flush=True)
                seen[way.__name__].append(row)
        for way, rows in seen.items():
            seconds, peak, written, result = (statistics.median(column) for column in zip(*rows, strict=True))
            lines.append(
                f"| {name} | {way} | {seconds:.1f} | {peak / 1e9:.2f} | {written / 1e6:.1f} | {result / 1e6:.1f} | "
                f"{written / result:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", default="", help="python of the environment with vesuvius 0.2.4")
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    prepare(args.shared, args.work)
    for name in ("tiled512", "crop160"):  # zarr v2, which the reference reads too
        voxels = zarr.open_array(f"{args.work}/{name}.zarr", mode="r")[:]
        copy = zarr.create_array(
            f"{args.work}/{name}_v2.zarr",
            shape=voxels.shape,
            chunks=(64,) * 3,
            dtype="uint8",
            zarr_format=2,
            overwrite=True,
        )
        copy[:] = voxels
    flags = "--disable-tta --runtime torch --quiet"
    jobs = {
        "512^3, null network": {
            "input": f"{args.work}/tiled512_v2.zarr",
            "model": "fake://null?patch=64,64,64",
            "flags": flags,
        },
        "160^3, nnunet_fibsem_membrane": {
            "input": f"{args.work}/crop160_v2.zarr",
            "model": str(args.shared / "models/nnunet_fibsem_membrane"),
            "flags": flags,
            "python": args.reference,
        },
    }
    keep("scroll", table(jobs, args.rounds, args.work))


if __name__ == "__main__":
    main()
