"""Objects of slices and of stacks: seconds against empanada's own functions, memory, and components of large volumes.

Usage: python benchmarks/panoptic.py [--peer PYTHON_WITH_EMPANADA_NAPARI] [--only slices,stack,label] [--rounds 3]

    slices    from maps to objects, 2048 x 2048 pixels with 190 and 480 objects: CPU seconds of both, in turn
    stack     voxweft panoptic stack on labels (512^3, and 512 x 512 x 2048): seconds and peak memory of the process
    label     voxweft label on 1024^3 with 100,000 balls, and connected-components-3d on the whole array in memory
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from results import keep

HERE = Path(__file__).resolve().parent
PEER = """
import sys, time, numpy, torch
from empanada.inference import postprocess
torch.set_num_threads(1)
m = numpy.load(sys.argv[1])
sem, heat, off = (torch.from_numpy(m[k]) for k in ("semantic", "heat", "offsets"))
for _ in range(2):  # as in a stack: one slice after the other, the last one counts
    t = time.process_time()
    centres = postprocess.find_instance_center(heat[None, None], 0.1, 3)
    cells = postprocess.group_pixels(centres, off[None], step=4)
    cells = torch.nn.functional.interpolate(cells[None].float(), scale_factor=4, mode="nearest")[0].long()
    made = postprocess.merge_semantic_and_instance(sem[None].long(), cells, 1000, [1], 64, 0)
    seconds = time.process_time() - t
print(seconds, len(torch.unique(made)) - 1)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--peer", default="")
    parser.add_argument("--only", default="slices,stack,label")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only.split(","):
        globals()[name](args)


def slices(args: Any) -> None:
    """From maps to objects."""
    from voxweft.apps.panoptic.slices import SliceRules, objects_of

    rows = ["| objects | empanada-napari 1.2.4, CPU s | voxweft, CPU s | ratio |", "|---|---|---|---|"]
    for n in (60, 120, 190, 480):
        file = args.work / f"maps_{n}.npz"
        maps = maps_of(2048, n)
        np.savez(file, **maps)
        theirs, ours = [], []
        for _ in range(args.rounds):
            if args.peer and n < 480:  # which it does not finish in minutes
                done = subprocess.run([args.peer, "-c", PEER, str(file)], capture_output=True, text=True, check=True)
                theirs.append(float(done.stdout.split()[0]))
            for _ in range(3):
                before = time.process_time()
                objects_of(maps["semantic"], maps["heat"], maps["offsets"], SliceRules(things=(1,)))
                last = time.process_time() - before
            ours.append(last)
        own, peer = statistics.median(ours), statistics.median(theirs) if theirs else 0.0
        rows.append(f"| {n} | {peer:.2f} | {own:.3f} | {peer / own:.0f} |" if peer else f"| {n} | - | {own:.3f} | |")
    keep("panoptic slices", "\n".join(rows))


def maps_of(side: int, n: int) -> dict[str, Any]:
    """Exact maps of ellipses: classes at full size, centres and offsets at a quarter."""
    rng = np.random.default_rng(n)
    labels = np.zeros((side, side), np.int32)
    cells = int(np.ceil(np.sqrt(n)))
    step = side // cells
    y, x = np.indices((step, step))
    for k in range(n):
        a, b = rng.uniform(0.2, 0.45, 2) * step
        inside = ((y - step / 2) / a) ** 2 + ((x - step / 2) / b) ** 2 < 1
        row, column = divmod(k, cells)
        labels[row * step : (row + 1) * step, column * step : (column + 1) * step][inside] = k + 1
    coarse = labels[::4, ::4]
    heat, offsets = np.zeros(coarse.shape, np.float32), np.zeros((2, *coarse.shape), np.float32)
    yy, xx = np.indices(coarse.shape)
    for k in range(1, n + 1):
        inside = coarse == k
        cy, cx = round(float(yy[inside].mean())), round(float(xx[inside].mean()))
        heat[inside] = np.exp(-((yy[inside] - cy) ** 2 + (xx[inside] - cx) ** 2) / 12.5)
        offsets[0][inside], offsets[1][inside] = 4 * (cy - yy[inside]), 4 * (cx - xx[inside])
    return {"semantic": (labels > 0).astype(np.uint8), "heat": heat, "offsets": offsets}


def stack(args: Any) -> None:
    """A stack of labels of neurons, end to end."""
    found = zarr.open(args.shared / "data/labels_connectomics/labels.zarr", mode="r")
    labels = (found if hasattr(found, "shape") else found["0"])[:]
    rows = ["| stack | objects | seconds | peak memory of the process |", "|---|---|---|---|"]
    flags = ["--fine-boundaries", "--accept-labels", "--min-size", "0", "--min-extent", "0", "--memory", "1500MB", "-q"]
    flags += ["--merge-ioa-thr", "0.8", "--median", "plain"]
    for times in (1, 4):
        source, target = args.work / f"neurons_{times}.zarr", args.work / f"objects_{times}.zarr"
        if not source.exists():
            array = zarr.create_array(source, shape=(512 * times, 512, 512), chunks=(128, 128, 128), dtype="uint16")
            for k in range(times):
                array[512 * k : 512 * (k + 1)] = labels if k % 2 == 0 else labels[::-1]
        for old in args.work.glob(f"objects_{times}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        command = ["panoptic", "stack", str(source), str(target), "-m", "fake://labels", *flags]
        seconds, peak = measured([sys.executable, "-m", "voxweft", *command])
        n = int(zarr.open(target, mode="r")["0"][:].max())
        rows.append(f"| {512 * times} x 512 x 512 | {n} | {seconds:.0f} | {peak / 1e9:.2f} GB |")
    keep("panoptic stack", "\n".join(rows))


def label(args: Any) -> None:
    """Components of a volume of 1024^3."""
    import cc3d

    source, target = args.work / "balls.zarr", args.work / "balls_out.zarr"
    if not source.exists():
        zarr.create_array(source, data=balls(1024, 115_000), chunks=(128, 128, 128))
    rows = ["| | seconds | peak memory | components |", "|---|---|---|---|"]
    ours, theirs, peak, n = [], [], 0, 0
    for _ in range(args.rounds):
        for old in args.work.glob("balls_out*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        command = ["label", str(source), str(target), "-q", "--no-pyramid"]
        seconds, used = measured([sys.executable, "-m", "voxweft", *command])
        peak = max(peak, used)
        ours.append(seconds)
        values = zarr.open(source, mode="r")[:]
        before = time.perf_counter()
        n = int(cc3d.connected_components(values, connectivity=26).max())
        theirs.append(time.perf_counter() - before)
        del values
    rows.append(f"| cc3d, array in memory (5 GB), nothing read or written | {statistics.median(theirs):.1f} | | {n} |")
    rows.append(f"| voxweft label, file to file | {statistics.median(ours):.1f} | {peak / 1e9:.2f} GB | {n} |")
    keep("panoptic label", "\n".join(rows))


def balls(side: int, n: int) -> Any:
    rng = np.random.default_rng(0)
    volume = np.zeros((side,) * 3, np.uint8)
    for (z, y, x), r in zip(rng.integers(8, side - 8, (n, 3)), rng.integers(3, 8, n), strict=True):
        inside = ((np.indices((2 * r + 1,) * 3) - r) ** 2).sum(axis=0) <= r * r
        volume[z - r : z + r + 1, y - r : y + r + 1, x - r : x + r + 1] |= inside
    return volume


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the peak of the memory of its processes together, asked for every 50 ms."""
    before, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as run:
        while run.poll() is None:
            try:
                own = psutil.Process(run.pid)
                peak = max(peak, sum(p.memory_info().rss for p in [own, *own.children(recursive=True)]))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {run.returncode}")
    return time.perf_counter() - before, peak


if __name__ == "__main__":
    main()
