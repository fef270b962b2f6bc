"""Fill all GPU rows of RESULTS.md: one command on a machine with a CUDA device.

Usage: python benchmarks/gpu.py [--peers PYTHON] [--cases NAME ...] [--rounds 3] [--peak-tflops N] [--work /tmp/bench]
       python benchmarks/gpu.py --rehearse        tiny shapes on the CPU, printed and not kept: does it run at all?

Every engine runs in a fresh process, in random order within a round; the tables hold medians. All predict the same
zarr (uint8) with overlap 0.5 and Gaussian weights of sigma P/8 and give uint8 labels; opening, imports, warming up and
voxweft's calibration are not timed.

    forward   the network alone on resident patches, in the setting that voxweft chose
    plain     a torch loop: volume, sums and weights resident, fp16 autocast
    voxweft   voxweft.run from zarr to zarr
    monai     sliding_window_inference, everything on the device, fp16 autocast
    nnunet    nnUNetPredictor, everything on the device
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import zarr

HERE = Path(__file__).resolve().parent
OURS, PEERS = ("forward", "plain", "voxweft"), ("monai", "nnunet")
PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165, "V100": 125}
"""Dense bf16 (V100: fp16) peaks of the makers' data sheets."""
PUBLISHED = "MLPerf Inference, 3D-UNet on one H100 in int8: 6.45 cases (of several patches) a second."
UNET, RESENC = "PlainConvUNet", "ResidualEncoderUNet"


@dataclass(frozen=True)
class Case:
    """A network, its patch and a volume, side in voxels."""

    network: str
    patch: int
    volume: int
    n_classes: int = 2
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    precision: str = "auto"


CASES = {
    "PlainConvUNet 64": Case(UNET, 64, 512, features=(32, 64, 128, 256, 320)),
    "ResEnc-L 128": Case(RESENC, 128, 512),
    "ResEnc-L 160": Case(RESENC, 160, 512),
    "ResEnc-L 192": Case(RESENC, 192, 512),
    "MLPerf 3D-UNet 128": Case(UNET, 128, 512, n_classes=3),
}
BLOCKS = (1, 3, 4, 6, 6, 6)


def case_of(name: str, rehearse: bool) -> Case:
    found = CASES[name]
    return replace(found, patch=16, volume=40, features=(4, 8), precision="fp32") if rehearse else found


def network_of(case: Case) -> torch.nn.Module:
    """The architecture with random weights."""
    from dynamic_network_architectures.architectures import unet

    n = len(case.features)
    shared: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": n,
        "features_per_stage": case.features,
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": 3,
        "strides": (1, *(2,) * (n - 1)),
        "num_classes": case.n_classes,
        "n_conv_per_stage_decoder": (2,) * (n - 1) if case.network == UNET else (1,) * (n - 1),
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    shared |= {"n_conv_per_stage": (2,) * n} if case.network == UNET else {"n_blocks_per_stage": BLOCKS[:n]}
    torch.manual_seed(0)
    return getattr(unet, case.network)(**shared).eval().requires_grad_(False)


def model_of(case: Case) -> Any:
    from voxweft.backends.runtime import TorchModel
    from voxweft.model.card import ModelCard, Normalization

    card = ModelCard(
        path=f"{case.network}-{case.patch}",
        format="benchmark",
        digest="0" * 64,
        patch_zyx=(case.patch,) * 3,
        n_classes=case.n_classes,
        activation="softmax",
        normalization=(Normalization("global_zscore", mean=127.0, std=73.0),),
    )
    return TorchModel(card, [network_of(case)])


def starts(extent: int, patch: int) -> list[int]:
    count = math.ceil((extent - patch) / (patch / 2)) + 1
    return [round(i * (extent - patch) / max(1, count - 1)) for i in range(count)]


def waited(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def resident(job: SimpleNamespace) -> torch.Tensor:
    return (torch.from_numpy(zarr.open_array(job.input, mode="r")[:]).to(job.device).float() - 127) / 73


def autocast(job: SimpleNamespace) -> Any:
    kind = job.device.partition(":")[0]
    return torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16, enabled=kind == "cuda")


def write(job: SimpleNamespace, labels: torch.Tensor) -> None:
    chunk = min(128, job.case.volume)
    out = zarr.create_array(job.output, shape=labels.shape, chunks=(chunk,) * 3, dtype="uint8", overwrite=True)
    out[:] = labels.to(torch.uint8).cpu().numpy()


def forward(job: SimpleNamespace) -> dict[str, Any]:
    from voxweft.model.protocols import ForwardSetting

    setting = ForwardSetting(**{**job.setting, "device": job.device, "patch_zyx": (job.case.patch,) * 3})
    predictor, n = job.model.open(setting), len(starts(job.case.volume, job.case.patch)) ** 3
    batch = torch.randn((setting.batch_size, 1, *setting.patch_zyx), device=job.device)
    for _ in range(3):
        predictor(batch)
    start = waited(job.device)
    for _ in range(math.ceil(n / setting.batch_size)):
        predictor(batch)
    return {"wall_s": waited(job.device) - start}


def plain(job: SimpleNamespace) -> dict[str, Any]:
    net, patch, places = network_of(job.case).to(job.device), job.case.patch, starts(job.case.volume, job.case.patch)
    one = torch.exp(-0.5 * ((torch.arange(patch) - patch // 2) / (patch / 8)) ** 2).to(job.device)
    window = one[:, None, None] * one[:, None] * one
    with torch.inference_mode(), autocast(job):
        net(torch.zeros((1, 1, *(patch,) * 3), device=job.device))
        start = waited(job.device)
        volume = resident(job)
        total = torch.zeros((job.case.n_classes, *volume.shape), device=job.device)
        weight = torch.zeros(volume.shape, device=job.device)
        for z in places:
            for y in places:
                for x in places:
                    at = (slice(z, z + patch), slice(y, y + patch), slice(x, x + patch))
                    total[(slice(None), *at)] += net(volume[at][None, None])[0].float() * window
                    weight[at] += window
        write(job, (total / weight).argmax(0))
        return {"wall_s": waited(job.device) - start}


def voxweft(job: SimpleNamespace) -> dict[str, Any]:
    import voxweft

    options = voxweft.RunOptions(
        output="labels",
        mode="multiclass",
        device=job.device.partition(":")[0],
        precision=job.case.precision,
        pyramid=False,
        chunk=",".join([str(min(128, job.case.volume))] * 3),
        accept_labels=True,
    )
    start = time.perf_counter()
    report = voxweft.run(job.input, job.output, job.model, options)
    plan = json.loads((Path(f"{job.output}.voxweft") / "plan.json").read_text())
    return {
        "wall_s": report.elapsed_s,
        "with_calibration_s": time.perf_counter() - start,
        "setting": plan["stages"][0]["passes"][0]["setting"],
        "stages": report.totals["seconds"],
    }


def monai(job: SimpleNamespace) -> dict[str, Any]:
    from monai.inferers import sliding_window_inference

    net, size = network_of(job.case).to(job.device), (job.case.patch,) * 3
    with torch.inference_mode(), autocast(job):
        net(torch.zeros((1, 1, *size), device=job.device))
        start = waited(job.device)
        logits = sliding_window_inference(
            resident(job)[None, None], size, job.batch, net, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )
        write(job, logits[0].argmax(0))
        return {"wall_s": waited(job.device) - start}


def nnunet(job: SimpleNamespace) -> dict[str, Any]:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=job.device != "cpu",
        device=torch.device(job.device),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.network = network_of(job.case).to(job.device)
    predictor.configuration_manager = SimpleNamespace(patch_size=(job.case.patch,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=job.case.n_classes)
    predictor.allowed_mirroring_axes = None
    with torch.inference_mode(), autocast(job):
        predictor.network(torch.zeros((1, 1, *(job.case.patch,) * 3), device=job.device))
        start = waited(job.device)
        write(job, predictor.predict_sliding_window_return_logits(resident(job).cpu()[None]).argmax(0))
        return {"wall_s": waited(job.device) - start}


ENGINES: dict[str, Callable[[SimpleNamespace], dict[str, Any]]] = {
    f.__name__: f for f in (forward, plain, voxweft, monai, nnunet)
}


def one_engine(args: argparse.Namespace) -> None:
    """In a process of its own: run one engine and print what it took."""
    case = case_of(args.case, args.rehearse)
    job = SimpleNamespace(case=case, device=args.device, input=args.input, output=args.output, batch=args.batch)
    job.setting = json.loads(args.setting) if args.setting else {}
    if args.one in ("forward", "voxweft"):
        job.model = model_of(case)
    for path in (args.output, f"{args.output}.voxweft"):
        shutil.rmtree(path, ignore_errors=True)
    found = ENGINES[args.one](job)
    on_gpu = args.device != "cpu"
    found["memory_bytes"] = torch.cuda.max_memory_reserved() if on_gpu else 0
    print(json.dumps(found))


def asked(args: argparse.Namespace, engine: str, case: str, **flags: Any) -> dict[str, Any] | None:
    """What an engine took; None, with its reason printed, where it failed."""
    python = args.peers if engine in PEERS and args.peers else sys.executable
    given = {"one": engine, "case": case, "device": args.device, "input": args.work / f"{case}.zarr", **flags}
    command = [python, "-W", "ignore", __file__, *(f"--{k}={v}" for k, v in given.items())]
    command += [f"--output={args.work / engine}.zarr", *(["--rehearse"] if args.rehearse else [])]
    env = os.environ | {"PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        print(f"{case}, {engine} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def flops(case: Case) -> float:
    """Of one patch, multiplications and additions counted apart."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode(), torch.device("meta"):
        network_of(case)(torch.zeros((1, 1, *(case.patch,) * 3)))
    return float(counter.get_total_flops())


def peak(args: argparse.Namespace) -> tuple[float, str]:
    """FLOP a second in bf16, and where the figure is from."""
    name = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    if args.peak_tflops:
        return args.peak_tflops * 1e12, f"{name}, {args.peak_tflops:g} TFLOPS bf16 as given"
    for card, tflops in PEAK_TFLOPS.items():
        if card in name:
            return tflops * 1e12, f"{name}, {tflops} TFLOPS bf16 by its data sheet"
    n = 8192 if args.device != "cpu" else 256
    a = torch.randn((n, n), device=args.device, dtype=torch.bfloat16)
    rates = []
    for _ in range(5):
        start = waited(args.device)
        a @ a
        rates.append(2 * n**3 / (waited(args.device) - start))
    return max(rates), f"{name}, {max(rates) / 1e12:.3g} TFLOPS bf16 by a measured matrix product"


def engines_table(args: argparse.Namespace, names: list[str]) -> str:
    """Every case by every engine."""
    top, card = peak(args)
    lines = ["| case | engine | s | Mvoxel/s | of forward alone | of the bf16 peak | memory, GB | setting |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    peers = PEERS if args.peers else [p for p, m in zip(PEERS, ("monai", "nnunetv2"), strict=True) if find_spec(m)]
    for name in names:
        case = case_of(name, args.rehearse)
        chosen = (asked(args, "voxweft", name) or {}).get("setting")  # also warms the caches of files
        if chosen is None:
            continue
        batch = chosen["batch_size"]
        seen: dict[str, list[dict[str, Any]]] = {engine: [] for engine in (*OURS, *peers)}
        for number in range(args.rounds):
            order = list(seen)
            random.Random(number).shuffle(order)
            for engine in order:
                found = asked(args, engine, name, batch=batch, setting=json.dumps(chosen))
                if found:
                    seen[engine].append(found)
                    print(f"{name}, round {number}, {engine}: {found}", flush=True)
        work = flops(case) * len(starts(case.volume, case.patch)) ** 3
        median = {e: statistics.median(run["wall_s"] for run in runs) for e, runs in seen.items() if runs}
        for engine, seconds in median.items():
            memory = max(run["memory_bytes"] for run in seen[engine]) / 1e9
            words = (
                f"{chosen['runtime']}, {chosen['precision']}, batch {batch}" if engine in ("forward", "voxweft") else ""
            )
            words += ", channels last" if words and chosen.get("channels_last") else ""
            share = median.get("forward", math.nan) / seconds
            lines.append(
                f"| {name} | {engine} | {seconds:.2f} | {case.volume**3 / seconds / 1e6:.1f} | "
                f"{share:.3f} | {work / seconds / top:.3f} | {memory:.1f} | {words} |"
            )
    return "\n".join([*lines, "", f"Card: {card}. {PUBLISHED}"])


def settings_table(args: argparse.Namespace, names: list[str]) -> str:
    """The network alone in every setting: what each choice buys."""
    lines = ["| case | runtime | precision | channels last | batch | patches/s |", "|---|---|---|---|---|---|"]
    on_gpu = args.device != "cpu"
    for name in names:
        n = len(starts(case_of(name, args.rehearse).volume, case_of(name, args.rehearse).patch)) ** 3
        for runtime in ("torch", "graph", "compile") if on_gpu else ("torch",):
            for precision in ("fp32", "tf32", "fp16", "bf16") if on_gpu else ("fp32", "bf16"):
                for last, batch in ((False, 1), (True, 1), (False, 4), (True, 4)):
                    if runtime != "torch" and precision not in ("fp16", "bf16"):
                        continue
                    setting = {"runtime": runtime, "precision": precision, "batch_size": batch, "channels_last": last}
                    found = asked(args, "forward", name, setting=json.dumps(setting))
                    rate = f"{n / found['wall_s']:.1f}" if found else "failed"
                    lines.append(f"| {name} | {runtime} | {precision} | {'yes' if last else 'no'} | {batch} | {rate} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="python of the environment with MONAI and nnU-Net")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU, nothing is kept")
    for name in ("one", "case", "input", "output", "setting"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_engine(args)
        return
    if args.rehearse:
        args.device, args.rounds = "cpu", 1
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; --rehearse shows that the benchmark runs")
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.cases:
        n = case_of(name, args.rehearse).volume
        with suppress(FileExistsError):
            made = zarr.create_array(
                str(args.work / f"{name}.zarr"), shape=(n,) * 3, chunks=(min(128, n),) * 3, dtype="u1"
            )
            made[:] = np.random.default_rng(0).integers(0, 255, (n,) * 3, np.uint8)
    tables = {"gpu": engines_table(args, args.cases), "gpu settings": settings_table(args, args.cases)}
    for section, table in tables.items():
        if args.rehearse:
            print(table)
        else:
            from results import keep

            keep(section, table)


if __name__ == "__main__":
    main()
