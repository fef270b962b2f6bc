"""Devices and memory of this machine."""

from __future__ import annotations

from voxweft.engine.budget import Budget
from voxweft.engine.fields import parse_bytes
from voxweft.engine.options import RunOptions
from voxweft.errors import RequestError

USABLE = 0.8  # share of the memory left that buffers may fill; allocators and compression take some


def devices_of(text: str) -> list[str]:
    """Device names from "auto", "cpu", "cuda" or "cuda:0,1".

    Raises
    ------
    RequestError
        If the device is unknown or not here.
    """
    import torch

    name, _, numbers = text.partition(":")
    if name == "auto":
        return ["cuda:0"] if torch.cuda.is_available() else ["cpu"]
    if name == "cpu" and not numbers:
        return ["cpu"]
    if name != "cuda" or not all(n.isdigit() for n in (numbers or "0").split(",")):
        raise RequestError(f"--device {text!r} is unknown; use auto, cpu, cuda or cuda:0,1")
    found = torch.cuda.device_count()
    wanted = [int(n) for n in (numbers or "0").split(",")]
    if max(wanted) >= found:
        raise RequestError(f"--device {text}: this machine has {found} CUDA device(s); use --device cpu or auto")
    return [f"cuda:{n}" for n in wanted]


def n_gpus() -> int:
    """CUDA devices of this machine."""
    import torch

    return int(torch.cuda.device_count())


def budget_for(options: RunOptions, device: str, n_workers: int = 1) -> Budget:
    """What the buffers of one of so many processes may take: of --memory, or of half of what is free."""
    return budget_of(options.memory, device, n_workers)


def budget_of(memory: str, device: str, n_workers: int = 1) -> Budget:
    """The same, of an amount such as "8GB" or "" for half of what is free."""
    import psutil

    own = psutil.Process().memory_info().rss
    asked = parse_bytes(memory) if memory else None
    if asked is not None:
        asked //= n_workers
    if asked is not None and asked <= own:
        each = f" in each of {n_workers} processes" if n_workers > 1 else ""
        raise RequestError(
            f"--memory {memory}: Python, the runtime and the model alone take {own / 1e9:.2f} GB{each}",
            "Allow more.",
        )
    host = round(USABLE * (asked - own)) if asked is not None else psutil.virtual_memory().available // 2 // n_workers
    if device == "cpu":
        return Budget(host, host)
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return Budget(host, min(free // 2, asked or free))
