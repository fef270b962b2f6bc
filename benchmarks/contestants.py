"""One engine on one job, in a process of its own: prints seconds, memory and bytes as JSON.

Each reads a zarr (uint8), predicts with patch 64^3, overlap 0.5, Gaussian sigma P/8, and writes uint8 probabilities of
class 1 as zarr. Imports and the reading of weights are not timed; everything from the first voxel read to the last
voxel written is.

    floor        forward passes of all patches on one resident tensor, one read of the input, one write of the output
    voxweft         voxweft.run
    monai        monai.inferers.sliding_window_inference
    nnunet       nnunetv2 nnUNetPredictor.predict_sliding_window_return_logits
    three_stage  per-patch logits to disk, blend, finalize
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import zarr

PATCH = 64
CHUNK = (128, 128, 128)


def starts(extent: int) -> list[int]:
    """Evenly spread patch starts at half a patch, as nnU-Net places them."""
    count = math.ceil((extent - PATCH) / (PATCH / 2)) + 1
    return [round(i * (extent - PATCH) / max(1, count - 1)) for i in range(count)]


def tiles(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(z, y, x) for z in starts(shape[0]) for y in starts(shape[1]) for x in starts(shape[2])]


def gaussian() -> np.ndarray:
    """sigma = P / 8, centre P // 2, maximum 1."""
    one = np.exp(-0.5 * ((np.arange(PATCH) - PATCH // 2) / (PATCH / 8)) ** 2)
    return one[:, None, None] * one[:, None] * one


def load(
    model: str, runtime: str, n_lanes: int, precision: str = "fp32", source: str = ""
) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """The network as a plain module (for the peers) and through voxweft's runtime (for the floor)."""
    import voxweft
    from voxweft.model import ForwardSetting

    found = voxweft.load_model(model)
    module = found.model._modules[0]
    setting = ForwardSetting(runtime, "cpu", precision, 1, (PATCH,) * 3, n_lanes)
    if precision == "int8":
        voxels = torch.from_numpy(read(source, normalize=True))[None, None]
        places = tiles(tuple(voxels.shape[2:]))[:: len(tiles(tuple(voxels.shape[2:]))) // 15]
        patches = [voxels[:, :, z : z + PATCH, y : y + PATCH, x : x + PATCH].contiguous() for z, y, x in places]
        return module, found.open_network(setting, found.quantized(setting, patches))
    return module, found.open(setting)


def read(path: str, normalize: bool) -> np.ndarray:
    volume = zarr.open(path, mode="r")[:].astype(np.float32)
    if normalize:
        volume -= volume.mean(dtype=np.float64)
        volume /= max(float(volume.std(dtype=np.float64)), 1e-8)
    return volume


def write(path: str, probability: np.ndarray) -> None:
    out = zarr.create_array(path, shape=probability.shape, chunks=CHUNK, dtype="uint8", overwrite=True)
    out[:] = probability


def to_uint8(logits: torch.Tensor) -> np.ndarray:
    """floor(255 p) of class 1 of [2, Z, Y, X], slab by slab."""
    out = np.empty(logits.shape[1:], np.uint8)
    for z in range(0, out.shape[0], 32):
        p = torch.softmax(logits[:, z : z + 32].float(), 0)[1]
        out[z : z + 32] = (p * 255).to(torch.uint8).numpy()
    return out


def floor(job: SimpleNamespace) -> None:
    from concurrent.futures import ThreadPoolExecutor

    volume = zarr.open(job.input, mode="r")[:]
    patch = torch.randn(1, 1, PATCH, PATCH, PATCH)
    n = len(tiles(volume.shape))

    def forward(_: int) -> None:
        with torch.inference_mode():
            job.predictor(patch)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(job.lanes) as lanes:
        list(lanes.map(forward, range(n)))
    torch.set_num_threads(before)
    write(job.output, volume)


def voxweft(job: SimpleNamespace) -> None:
    import voxweft

    options = voxweft.RunOptions(
        runtime=job.runtime,
        precision=job.precision,
        tolerance=job.tolerance,
        pyramid=False,
        normalization="auto" if job.normalize else "none",
    )
    report = voxweft.run(job.input, job.output, job.loaded, options)
    job.extra = {"stages": report.totals["seconds"], "runs_in": _setting(job.output)}


def _setting(output: str) -> str:
    """What the plan runs in."""
    plan = Path(f"{output}.voxweft/plan.json").read_text()
    return "/".join(json.loads(plan)["stages"][0]["passes"][0]["setting"][name] for name in ("runtime", "precision"))


def monai(job: SimpleNamespace) -> None:
    from monai.inferers import sliding_window_inference

    volume = torch.from_numpy(read(job.input, job.normalize))[None, None]
    with torch.inference_mode():
        logits = sliding_window_inference(
            volume, (PATCH,) * 3, 1, job.module, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )
    write(job.output, to_uint8(logits[0]))


def nnunet(job: SimpleNamespace) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.network = job.module
    predictor.configuration_manager = SimpleNamespace(patch_size=(PATCH,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    predictor.allowed_mirroring_axes = None
    volume = torch.from_numpy(read(job.input, job.normalize))[None]
    write(job.output, to_uint8(predictor.predict_sliding_window_return_logits(volume)))


def three_stage(job: SimpleNamespace) -> None:
    """Predict, blend and finalize as three passes with files between them."""
    volume = read(job.input, job.normalize)
    places, folder = tiles(volume.shape), Path(job.output + ".parts")
    shutil.rmtree(folder, ignore_errors=True)
    logits = zarr.create_array(
        str(folder / "logits.zarr"),
        shape=(len(places), 2, PATCH, PATCH, PATCH),
        chunks=(1, 2, PATCH, PATCH, PATCH),
        dtype="float16",
    )
    with torch.inference_mode():
        for i, (z, y, x) in enumerate(places):
            patch = torch.from_numpy(volume[z : z + PATCH, y : y + PATCH, x : x + PATCH].copy())[None, None]
            logits[i] = job.module(patch)[0].numpy().astype(np.float16)
    shape, window = volume.shape, gaussian().astype(np.float32)
    del volume
    merged = zarr.create_array(
        str(folder / "merged.zarr"), shape=(2, *shape), chunks=(2, PATCH, PATCH, PATCH), dtype="float16"
    )
    for corner in np.ndindex(*(-(-n // PATCH) for n in shape)):
        lo = [c * PATCH for c in corner]
        hi = [min(a + PATCH, n) for a, n in zip(lo, shape, strict=True)]
        size = [b - a for a, b in zip(lo, hi, strict=True)]
        total, weight = np.zeros((2, *size), np.float32), np.zeros(size, np.float32)
        for i, start in enumerate(places):
            inner = [(max(a, s), min(b, s + PATCH)) for a, b, s in zip(lo, hi, start, strict=True)]
            if any(a >= b for a, b in inner):
                continue
            here = tuple(slice(a - c, b - c) for (a, b), c in zip(inner, lo, strict=True))
            there = tuple(slice(a - s, b - s) for (a, b), s in zip(inner, start, strict=True))
            total[(slice(None), *here)] += logits[i].astype(np.float32)[(slice(None), *there)] * window[there]
            weight[here] += window[there]
        where = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        merged[(slice(None), *where)] = (total / (weight + 1e-8)).astype(np.float16)
    out = zarr.create_array(job.output, shape=shape, chunks=CHUNK, dtype="uint8", overwrite=True)
    for z in range(0, shape[0], CHUNK[0]):
        out[z : z + CHUNK[0]] = to_uint8(torch.from_numpy(merged[:, z : z + CHUNK[0]]))
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    job.extra = {"intermediate_bytes": sum(sizes)}
    shutil.rmtree(folder)


CONTESTANTS = {f.__name__: f for f in (floor, voxweft, monai, nnunet, three_stage)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--input")
    parser.add_argument("--output")
    parser.add_argument("--model")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tolerance", type=float, default=0.001)
    parser.add_argument("--cores", type=int, default=0)
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-args.cores :]))
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    shutil.rmtree(args.output, ignore_errors=True)
    shutil.rmtree(args.output + ".voxweft", ignore_errors=True)
    job = SimpleNamespace(**vars(args), normalize=not args.model.startswith("fake://"), lanes=cores, extra={})
    if args.name == "voxweft":
        import voxweft.apps.run
        import voxweft.stores.ome_zarr
        import voxweft.stores.zarr

        job.loaded = voxweft.apps.run.load_model(args.model)
    elif args.name != "floor":
        __import__(
            {"monai": "monai.inferers", "nnunet": "nnunetv2.inference.predict_from_raw_data"}.get(args.name, "json")
        )
    if args.name != "voxweft":
        precision = "fp32" if args.precision == "auto" else args.precision
        job.module, job.predictor = load(args.model, args.runtime, cores, precision, args.input)
    from voxweft.engine.report import peak_memory_bytes

    wall, cpu = time.perf_counter(), time.process_time()
    CONTESTANTS[args.name](job)
    print(
        json.dumps(
            {
                "wall_s": time.perf_counter() - wall,
                "cpu_s": time.process_time() - cpu,
                "peak_bytes": peak_memory_bytes(),
                **job.extra,
            }
        )
    )


if __name__ == "__main__":
    main()
