"""Digests of the outputs of many small jobs: made before a change of structure and compared after it.

    python scripts/digests.py VOXWEFT SHARED WORK > before.json     (VOXWEFT: the command; SHARED: the reference data)

One sha256 for all chunk files of an output. Networks give other bits on other processors, so both sides of a comparison
are made on one machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

BIN, S, W = str(Path(sys.argv[1]).absolute()), Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
shutil.rmtree(W, ignore_errors=True)
W.mkdir(parents=True)
rng = np.random.default_rng(5)
z, y, x = np.meshgrid(*(np.arange(n) for n in (50, 61, 72)), indexing="ij")
img = np.clip(
    110 + 50 * np.sin(z / 5) * np.cos(y / 7) + 40 * np.sin(x / 6) + rng.normal(0, 12, z.shape), 0, 255
).astype(np.uint8)
img[:, :26, :26] = 0


def put(name: str, a: np.ndarray, chunks: tuple[int, int, int]) -> None:
    """Write an input."""
    zarr.create_array(str(W / name), shape=a.shape, chunks=chunks, dtype=a.dtype)[:] = a


big = np.tile(img, (2, 2, 2))
put("in.zarr", img, (16, 32, 32))
put("big.zarr", big, (16, 32, 32))
put("deep.zarr", np.tile(img, (6, 5, 5))[:280], (32, 64, 64))
put("float.zarr", (img.astype(np.float32) - 100) / 7, (16, 32, 32))
m = np.zeros((25, 31, 36), np.uint8)
m[5:20, 5:25, 8:30] = 1
put("mask.zarr", m, (8, 16, 16))
raw = tifffile.imread(S / "data/em_fibsem_medulla/raw.tif")[:100, :120, :110]
put("em.zarr", raw, (32, 64, 64))
BLUR = "fake://blur?patch=24,24,24&normalization=instance_zscore"
B3 = "fake://blur?patch=24,24,24&normalization=global_zscore&classes=3"
N1 = "fake://null?patch=16,24,20&classes=1"
NN = str(S / "models/nnunet_fibsem_membrane")
C2 = str(next((S / "golden/scroll").glob("model_c2_p32")))
RUN = {
    "prob": ["big.zarr", "--model", BLUR, "--chunk", "16,32,32", "--runtime", "torch"],
    "prob_mirror": ["in.zarr", "--model", BLUR, "--chunk", "16,32,32", "--tta", "mirroring", "--runtime", "torch"],
    "prob_rot": [
        "in.zarr",
        "--model",
        BLUR,
        "--chunk",
        "16,32,32",
        "--tta",
        "rotation",
        "--runtime",
        "torch",
        "--batch-size",
        "2",
    ],
    "labels3": ["in.zarr", "--model", B3, "--chunk", "16,32,32", "--output", "labels", "--runtime", "torch"],
    "multi3": [
        "in.zarr",
        "--model",
        B3,
        "--chunk",
        "16,32,32",
        "--runtime",
        "torch",
        "--fit",
        "snap",
        "--overlap",
        "0.3",
        "--window",
        "hann",
    ],
    "logits": ["float.zarr", "--model", BLUR, "--chunk", "16,32,32", "--output", "logits", "--runtime", "torch"],
    "mask1": [
        "in.zarr",
        "--model",
        N1,
        "--chunk",
        "16,32,32",
        "--output",
        "mask",
        "--threshold",
        "0.7",
        "--mask",
        "mask.zarr",
    ],
    "bbox": [
        "big.zarr",
        "--model",
        BLUR,
        "--chunk",
        "16,32,32",
        "--bbox",
        "10:60,:,20:90",
        "--runtime",
        "torch",
        "--normalization",
        "percentile_minmax",
    ],
    "deep_probability": [
        "deep.zarr",
        "--model",
        "fake://null?patch=32,64,64",
        "--chunk",
        "32,64,64",
        "--runtime",
        "torch",
    ],
    "deeplabels": [
        "deep.zarr",
        "--model",
        "fake://null?patch=32,64,64",
        "--chunk",
        "32,64,64",
        "--output",
        "labels",
        "--executor",
        "processes",
        "--workers",
        "2",
        "--runtime",
        "torch",
        "--compressor",
        "lz4",
    ],
    "em_torch": ["em.zarr", "--model", NN, "--runtime", "torch"],
    "emjit": ["em.zarr", "--model", NN, "--runtime", "jit", "--chunk", "32,64,64", "--no-skip-empty"],
    "emopenvino": ["em.zarr", "--model", NN, "--runtime", "openvino", "--chunk", "32,64,64"],
}


def voxweft(*a: object) -> None:
    """Run the command; say what failed."""
    d = subprocess.run([BIN, *map(str, a)], cwd=W, capture_output=True, text=True, check=False)
    if d.returncode:
        print("FAILED", a, d.stderr[-800:], file=sys.stderr)


for name, words in RUN.items():
    voxweft("run", words[0], f"{name}.zarr", *words[1:], "--quiet")
vol = S / "golden/scroll/input"
src = "big.zarr"
P = ["--model", C2, "--tta_type", "rotation", "--runtime", "torch", "--quiet"]
for i in range(2):
    voxweft(
        "predict", "--input_dir", src, "--output_dir", "parts", *P, "--num_parts", 2, "--part_id", i, "--disable_tta"
    )
voxweft("blend", "parts", "merged.zarr", "--quiet", "--num-workers", 1)
voxweft("finalize", "merged.zarr", "final.zarr", "--quiet", "--num-workers", 1, "--chunk_size", "32,64,64")
voxweft("finalize", "merged.zarr", "final_mask.zarr", "--threshold", "--quiet", "--num-workers", 2)
voxweft("finalize", "merged.zarr", "final_multi.zarr", "--mode", "multiclass", "--quiet")
voxweft(
    "blend",
    "parts",
    "merged_c.zarr",
    "--quiet",
    "--num-workers",
    1,
    "--compat",
    "vesuvius-0.2.4",
    "--chunk_size",
    "32,32,32",
)
voxweft("finalize", "merged_c.zarr", "final_c.zarr", "--quiet", "--num-workers", 1, "--compat", "vesuvius-0.2.4")
voxweft("pipeline", "--input", src, "--output", "fused.zarr", *P)
voxweft(
    "pipeline",
    "--input",
    src,
    "--output",
    "staged.zarr",
    *P,
    "--staged",
    "--disable_tta",
    "--bbox",
    "10:80,:,20:130",
    "--keep-intermediates",
)
voxweft("pipeline", "--input", src, "--output", "stagedc.zarr", *P, "--disable_tta", "--compat", "vesuvius-0.2.4")
voxweft("demo", "d", "--ink", "--quiet")
voxweft(
    "ink",
    "run",
    "d/segment",
    "ink2.png",
    "--model",
    "demo-ink",
    "--start-layer",
    0,
    "--end-layer",
    12,
    "--stride",
    16,
    "--tile-size",
    "0",
    "--runtime",
    "torch",
    "--zarr-output-dir",
    "zz",
    "--runtime-dir",
    ".",
    "--bits",
    16,
    "--reverse",
    "--quiet",
)
voxweft(
    "ink", "prepare", "d/segment", "surf.zarr", "--start-layer", 0, "--end-layer", 12, "--runtime-dir", ".", "--quiet"
)
voxweft(
    "ink",
    "run",
    "surf.zarr",
    "ink3.zarr",
    "--model",
    "demo-ink",
    "--start-layer",
    0,
    "--end-layer",
    12,
    "--stride",
    16,
    "--runtime",
    "torch",
    "--zarr-output-dir",
    "zz",
    "--runtime-dir",
    ".",
    "--tta",
    "mirroring",
    "--roi",
    "5,7,300,200",
    "--window",
    "gaussian",
    "--quiet",
)
INPUTS = ("in.zarr", "big.zarr", "deep.zarr", "float.zarr", "mask.zarr", "em.zarr")
found: defaultdict[str, Any] = defaultdict(hashlib.sha256)
for p in sorted(W.rglob("*")):
    name = str(p.relative_to(W))
    other = "weft" in name or p.name.startswith(".z") or p.suffix in (".json", ".html", ".txt")
    if p.is_file() and not other and name.split("/")[0] not in INPUTS:
        name = re.sub(r"-[0-9a-f]{8}\.zarr", "-X.zarr", name)
        found[name.split("/")[0]].update(name.encode() + p.read_bytes())
print(json.dumps({k: d.hexdigest() for k, d in sorted(found.items())}, indent=1))
