"""Folders of medical images against nnU-Net, from files to files; renews tables in RESULTS.md.

Usage: python benchmarks/medical.py [--peer PYTHON_WITH_NNUNETV2] [--only case,small,classes,resampling] [--rounds 3]

    case         one T1 image, mirroring, the model nnunet_t1_tissue: seconds and peak memory of both, in turn
    small        20 small images in one folder: seconds of both
    classes      many classes on large grids: peak memory of voxweft alone (nnU-Net's does not fit)
    resampling   seconds of resampling logits to labels, apart from all else
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from results import keep

from voxweft.geometry.box import Box
from voxweft.geometry.regrid import Regrid

HERE = Path(__file__).resolve().parent
NNUNET = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--peer", default="")
    parser.add_argument("--only", default="case,small,classes,resampling")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only.split(","):
        globals()[name](args)


def case(args: Any) -> None:
    """One image end to end."""
    folder = fresh(args.work / "one")
    shutil.copy(args.shared / "data/mr_brain_t1/t1.nii.gz", folder / "t1_0000.nii.gz")
    keep("medical case", contest(args, folder, "one T1 image, 215 x 256 x 207 at 0.74 mm, 8 mirrored passes"))


def small(args: Any) -> None:
    """Twenty images of about 80^3."""
    import nibabel

    folder, image = fresh(args.work / "twenty"), nibabel.load(args.shared / "data/mr_brain_t1/t1.nii.gz")
    voxels = np.asarray(image.dataobj)
    for n in range(20):
        x, y, z = (20 + 3 * n, 60 + 2 * n, 40 + 2 * n)
        part = nibabel.Nifti1Image(voxels[x : x + 80, y : y + 80, z : z + 80], image.affine)
        nibabel.save(part, folder / f"c{n:02d}_0000.nii.gz")
    mirrored = contest(args, folder, "20 images of 80^3 voxels, 8 mirrored passes")
    keep("medical small", f"{mirrored}\n\n{contest(args, folder, 'the same without mirroring', '--disable_tta')}")


def contest(args: Any, folder: Path, what: str, *flags: str) -> str:
    """Both programs in turn, in fresh folders; the table."""
    model = args.shared / "models/nnunet_t1_tissue"
    ours = [sys.executable, "-m", "voxweft", "batch", "-i", folder, "-m", model, "-q", *flags]
    contestants: dict[str, list[Any]] = {"voxweft": ours}
    if args.peer:
        how = ["-f", "0", "-device", "cpu", "--disable_progress_bar", *flags]
        contestants["nnU-Net 2.8.1"] = [args.peer, "-c", NNUNET, "-i", folder, "-m", model, *how]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, command in contestants.items():
            found[name].append(measured([*command, "-o", fresh(args.work / "out")]))
    lines = [
        f"{what}:",
        "",
        "| program | seconds, median (all) | peak memory of all its processes, GB |",
        "|---|---|---|",
    ]
    for name, runs in found.items():
        seconds, peaks = zip(*runs, strict=True)
        listed = ", ".join(f"{s:.1f}" for s in seconds)
        lines.append(f"| {name} | {statistics.median(seconds):.1f} ({listed}) | {max(peaks):.2f} |")
    return "\n".join(lines)


def classes(args: Any) -> None:
    """Peak memory with many classes, resampled to the grid of the image."""
    import nibabel

    lines = ["| classes | grid | plan | --memory | peak memory, GB | seconds |", "|---|---|---|---|---|---|"]
    jobs = [(100, (384, 384, 384), "2GB"), (120, (384, 384, 384), "2GB"), (42, (512, 512, 600), "2GB")]
    for n, shape, memory in jobs:
        model = many_classes(args.shared / "models/nnunet_t1_tissue", fresh(args.work / "many"), n)
        folder = fresh(args.work / "large")
        rng = np.random.default_rng(0)
        coarse = rng.integers(1, 100, [s // 8 for s in shape], dtype=np.int16)
        voxels = np.kron(coarse, np.ones((8, 8, 8), np.int16))
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.75, 0.75, 0.75, 1])), folder / "c_0000.nii")
        command = [sys.executable, "-m", "voxweft", "batch", "-i", folder, "-m", model, "-q", "--disable-tta"]
        seconds, peak = measured([*command, "-o", fresh(args.work / "out"), "--memory", memory, "--runtime", "torch"])
        half = " x ".join(str(round(s / 2)) for s in shape)
        lines.append(f"| {n} | {' x '.join(map(str, shape))} | {half} | {memory} | {peak:.2f} | {seconds:.0f} |")
    keep("medical classes", "\n".join(lines))


def resampling(args: Any) -> None:
    """A case to the voxel size of the plan (order 3), apart from all else; nnU-Net's way is scikit-image's resize."""
    from scipy.ndimage import zoom

    voxels = np.random.default_rng(0).normal(size=(1, 215, 256, 207)).astype(np.float32)
    regrid = Regrid.of((215, 256, 207), (106, 126, 102), 3)
    ours, theirs = [], []
    for _ in range(args.rounds):
        began = time.perf_counter()
        made = regrid.resample(voxels, Box.of((106, 126, 102)))
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        factors = [b / a for a, b in zip(voxels.shape[1:], made.shape[1:], strict=True)]
        other = zoom(voxels[0], factors, order=3, mode="nearest", grid_mode=True)
        theirs.append(time.perf_counter() - began)
    off = float(np.abs(made[0] - other).max())
    keep(
        "medical resampling",
        f"215 x 256 x 207 to 106 x 126 x 102, cubic: {statistics.median(ours):.2f} s; scipy's zoom, as in nnU-Net: "
        f"{statistics.median(theirs):.2f} s; largest difference {off:.1e} of values with spread 1",
    )


def many_classes(source: Path, target: Path, n: int) -> Path:
    """The same network with more classes, whose weights are random."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    labels = {"background": 0} | {f"organ{k}": k for k in range(1, n)}
    dataset = json.loads((target / "dataset.json").read_text()) | {"labels": labels}
    (target / "dataset.json").write_text(json.dumps(dataset))
    file = target / "fold_0/checkpoint_final.pth"
    state = torch.load(file, weights_only=True)
    torch.manual_seed(0)
    for key, value in state["network_weights"].items():
        if "seg_layers" in key:
            state["network_weights"][key] = torch.randn(n, *value.shape[1:])
    torch.save(state, file)
    return target


def measured(command: list[Any]) -> tuple[float, float]:
    """Seconds of a command, and the peak memory of it and all its children together, in GB."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, env=os.environ | {"nnUNet_compile": "0"}
    )
    family = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for member in [family, *children(family)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - began, peak / 1e9


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
