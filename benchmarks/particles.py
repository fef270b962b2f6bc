"""Particles: seconds against octopi's own command, memory of large volumes, many small tomograms, what methods find.

Usage: python benchmarks/particles.py [--peer OCTOPI] [--only localize,large,segment,many,methods] [--rounds 3]

    localize   the golden project, two runs: the command of octopi 1.7 (an environment of its own) and ours, in turn
    large      512 x 1024 x 1024 labels with 500 particles: seconds and peak memory
    segment    184 x 630 x 630 voxels, 7 classes, patches of 96: peak memory beyond that of one patch
    many       100 tomograms of 48 x 64 x 64 voxels
    methods    F4 of every method on cryoet_sim
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from panoptic import measured
from results import keep

from voxweft.apps.particles import evaluate, localize, segment
from voxweft.apps.particles.options import EvaluateOptions, LocalizeOptions, SegmentOptions, Work
from voxweft.stores.copick import create_project
from voxweft.stores.ngff04 import write_group
from voxweft.testing.tomogram import make_tomogram

HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "voxweft", "particles"]
RADII = {"a": 60, "b": 75, "c": 150, "d": 130, "e": 135, "f": 90}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--peer", default="")
    parser.add_argument("--only", default="localize,large,segment,many,methods")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only.split(","):
        globals()[f"bench_{name}"](args)


def project_in(folder: Path) -> Path:
    """The config of a new project."""
    shutil.rmtree(folder, ignore_errors=True)
    objects = [
        {"name": name, "is_particle": True, "label": n, "radius": radius, "color": [40 * n, 200, 90, 255]}
        for n, (name, radius) in enumerate(RADII.items(), start=1)
    ]
    create_project(folder / "config.json", folder, objects)
    return folder / "config.json"


def write(place: Path, values: Any) -> None:
    write_group(
        str(place),
        lambda box: values[box.slices][None],
        shape_zyx=values.shape,
        dtype=values.dtype.name,
        voxel_size=10.0,
    )


def bench_localize(args: Any) -> None:
    folder = args.work / "golden"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(args.shared / "golden/particles", folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("local://PROJECT", f"local://{folder}/project"))
    ours, theirs = [], []
    for n in range(args.rounds):
        ours.append(measured([*COMMAND, "localize", "-c", str(config), "-psid", f"v{n}", "-q"])[0])
        if args.peer:
            theirs.append(measured([args.peer, "localize", "-c", str(config), "-psid", f"o{n}"])[0])
    own, peer = statistics.median(ours), statistics.median(theirs) if theirs else 0.0
    rows = ["| octopi 1.7.0 localize, s | voxweft particles localize, s | ratio |", "|---|---|---|"]
    keep("particles localize", "\n".join([*rows, f"| {peer:.1f} | {own:.2f} | {peer / own:.1f} |"]))


def bench_large(args: Any) -> None:
    config = project_in(args.work / "large")
    rng, labels = np.random.default_rng(0), np.zeros((512, 1024, 1024), np.uint8)
    radii = [0.07 * r for r in RADII.values()][:5]
    for k in range(500):
        r = radii[k % 5]
        c = rng.uniform(r + 2, np.array(labels.shape) - r - 3)
        lo, hi = np.floor(c - r - 1).astype(int), np.ceil(c + r + 2).astype(int)
        z, y, x = np.ogrid[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]]
        inside = (z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 <= r * r
        labels[lo[0] : hi[0], lo[1] : hi[1], lo[2] : hi[2]][inside] = 1 + k % 5
    write(config.parent / "ExperimentRuns/R1/Segmentations/10.000_octopi_1_predict-multilabel.zarr", labels)
    del labels
    rows = ["| method | workers | seconds | peak memory of all processes |", "|---|---|---|---|"]
    for method, n in (("watershed", 1), ("watershed", 2), ("com", 1)):
        words = ["localize", "-c", str(config), "-m", method, "--workers", str(n), "-psid", f"{method}{n}", "-q"]
        seconds, peak = measured([*COMMAND, *words])
        rows.append(f"| {method} | {n} | {seconds:.0f} | {peak / 1e9:.2f} GB |")
    keep("particles large", "\n".join(rows))


def bench_segment(args: Any) -> None:
    from monai.networks.nets import UNet

    config = project_in(args.work / "segment")
    runs, rng = config.parent / "ExperimentRuns", np.random.default_rng(0)
    for run, shape in (("patch", (96, 96, 96)), ("whole", (184, 630, 630))):
        write(runs / f"{run}/VoxelSpacing10.000/wbp.zarr", rng.normal(size=shape).astype(np.float32))
    torch.manual_seed(0)
    model: dict[str, Any] = {"channels": [8, 12, 16], "strides": [2, 2], "num_res_units": 1}
    network = UNet(spatial_dims=3, in_channels=1, out_channels=7, **model)
    torch.save(network.state_dict(), config.parent / "net.pth")
    about = {"architecture": "Unet", "num_classes": 7, "dim_in": 96, **model}
    text = yaml.safe_dump({"model": about, "labels": {name: n for n, name in enumerate(RADII, start=1)}})
    (config.parent / "net_config.yaml").write_text(text)
    rows, peaks = ["| tomogram | seconds | peak memory |", "|---|---|---|"], []
    for run, shape in (("patch", "one patch, 96^3"), ("whole", "184 x 630 x 630")):
        words = ["-c", str(config), "-mw", str(config.parent / "net.pth"), "-ntta", "1", "--run-ids", run, "-q"]
        seconds, peak = measured([*COMMAND, "segment", *words])
        peaks.append(peak)
        rows.append(f"| {shape} | {seconds:.0f} | {peak / 1e9:.2f} GB |")
    rows.append(f"| difference | | {(peaks[1] - peaks[0]) / 1e9:.2f} GB |")
    keep("particles segment", "\n".join(rows))


def bench_many(args: Any) -> None:
    rows = ["| tomograms | workers | seconds |", "|---|---|---|"]
    for n, workers in ((1, 1), (100, 1), (100, 2)):
        config = project_in(args.work / "many")
        for k in range(n):
            image = make_tomogram((48, 64, 64), n=2, seed=k).image
            write(config.parent / f"ExperimentRuns/R{k:03d}/VoxelSpacing10.000/wbp.zarr", image)
        words = ["-c", str(config), "-mw", "demo-particles", "-ntta", "1", "--workers", str(workers), "-q"]
        rows.append(f"| {n} | {workers} | {measured([*COMMAND, 'segment', *words])[0]:.1f} |")
    keep("particles many", "\n".join(rows))


def bench_methods(args: Any) -> None:
    folder = args.work / "sim"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(args.shared / "data/cryoet_sim", folder)
    config, model = str(folder / "config.json"), str(args.shared / "models/octopi_cryoet/best_model.pth")
    segment(SegmentOptions(config=config, model_weights=model, save_probabilities=True))
    rows = ["| method | matching | F4 | precision | recall |", "|---|---|---|---|---|"]
    for method in ("watershed", "com", "peaks"):
        localize(LocalizeOptions(config=config, method=method), work=Work(overwrite=True))
        for matching in ("nearest", "one-to-one"):
            options = EvaluateOptions(
                config=config, ground_truth_user_id="simulator", matching=matching, output=str(args.work / "scores")
            )
            found = evaluate(options)
            p, r = (np.mean([getattr(c, name) for c in found.counts.values()]) for name in ("precision", "recall"))
            rows.append(f"| {method} | {matching} | {found.score:.3f} | {p:.3f} | {r:.3f} |")
    keep("particles methods", "\n".join(rows))


if __name__ == "__main__":
    main()
