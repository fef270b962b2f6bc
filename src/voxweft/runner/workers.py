"""Who computes: this process, others of this machine, those of a Dask cluster, or any executor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

from voxweft.engine.fields import option, parse_duration
from voxweft.engine.totals import lanes_for, n_cores
from voxweft.errors import RequestError
from voxweft.launch import open_executor, require_executor
from voxweft.launch.dask import count_workers, require_dask


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Who computes."""

    title: ClassVar[str] = "Where to compute it"

    executor: str | Executor = option(  # noqa: RUF009 - a field
        "auto", "serial, processes, or dask; auto: serial, or processes where several are asked for.", decides=False
    )
    scheduler: str = option("", "Address of a Dask scheduler, tcp://HOST:PORT; default: workers here.", decides=False)

    def __post_init__(self) -> None:
        require_executor(self.executor, self.scheduler)

    def kind(self, n_workers: int) -> str | Executor:
        """The executor, "auto" resolved for a number of workers."""
        if self.executor != "auto":
            return self.executor
        if self.scheduler:
            return "dask"
        return "processes" if n_workers > 1 else "serial"


@dataclass(frozen=True, slots=True)
class WorkerOptions(LaunchOptions):
    """Who computes, and how many of them."""

    workers: int = option(0, "Workers; 0: one a device, or one a core.", decides=False)
    checkpoint_every: str = option(
        "2min", "Keep what a slab has so far this often: a stop loses no more. 0s: never.", decides=False
    )

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        if parse_duration(self.checkpoint_every) is None and self.checkpoint_every not in ("0", "0s"):
            raise RequestError(
                f"--checkpoint-every {self.checkpoint_every!r} is no time; write for example 2min or 30s"
            )
        if self.workers < 0:
            raise RequestError(f"--workers {self.workers} is negative; 0 means one a device, or one a core")


@dataclass(frozen=True, slots=True)
class Workers:
    """Those who compute.

    Attributes
    ----------
    kind
        An executor or its name.
    n
        How many there are.
    n_sharing
        How many of them share the memory and the cores of a machine.
    devices
        The devices that they are spread over.
    scheduler
        Address of a Dask scheduler, or "".
    checkpoint_s
        How often they keep what a slab has so far; 0: never.
    """

    kind: str | Executor
    n: int
    n_sharing: int
    devices: tuple[str, ...]
    scheduler: str = ""
    checkpoint_s: float = 0.0

    @classmethod
    def of(cls, options: WorkerOptions, devices: Sequence[str]) -> Workers:
        """Those that are asked for.

        Raises
        ------
        RequestError
            If the Dask scheduler does not answer, or Dask is not installed.
        """
        kind, every_s = options.kind(options.workers or len(devices)), parse_duration(options.checkpoint_every) or 0.0
        if kind == "serial":
            return cls(kind, 1, 1, tuple(devices[:1]), checkpoint_s=every_s)
        if options.scheduler:
            n, n_sharing = count_workers(options.scheduler)
            return cls(kind, max(1, n), n_sharing, tuple(devices), options.scheduler, every_s)
        if kind == "dask":
            require_dask()
        n = options.workers or (len(devices) if devices[0] != "cpu" else n_cores())
        return cls(kind, n, n, tuple(devices), checkpoint_s=every_s)

    @property
    def n_threads(self) -> int:
        """Forward passes at once in each of them."""
        return lanes_for(self.devices[0], self.n_sharing)

    @contextmanager
    def started(self) -> Iterator[Workers]:
        """The same, whose processes start while the work is still being planned; they end with the context."""
        if self.kind != "processes":
            yield self
            return
        with open_executor(self.kind, self.n) as (pool, _):
            for _ in range(self.n):
                pool.submit(_get_ready)
            yield replace(self, kind=pool)

    def open(self) -> AbstractContextManager[tuple[Executor, Callable[[], int]]]:
        """Their executor, and how many parts it takes at once; see :func:`voxweft.launch.open_executor`."""
        return open_executor(self.kind, self.n, scheduler=self.scheduler, n_threads=self.n_threads)


def _get_ready() -> None:
    """Import what takes long, in a worker."""
    importlib.import_module("torch")
    importlib.import_module("zarr.storage")
