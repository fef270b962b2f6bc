"""Dask: a cluster of its own on this machine, or the one behind a scheduler's address."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Any

from voxweft.errors import RequestError, RunError, first_line
from voxweft.installed import install_line
from voxweft.launch.processes import ALLOCATOR, TRIES, undisturbed

CONNECT_S = 10
OWN, GPU = "part", "GPU"  # resources: the first is what our own workers offer, the second what GPU workers usually do


@contextmanager
def own_cluster(n_workers: int, n_threads: int) -> Iterator[Executor]:
    """An executor on worker processes of this machine; a dead one is started again, its part tried three times."""
    dask, distributed = _packages()
    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.nanny.pre-spawn-environ": ALLOCATOR,
        "distributed.worker.daemon": False,
        "distributed.worker.profile.enabled": False,  # a sample of all threads every 10 ms
        "distributed.admin.tick.interval": "1s",
    }
    with ExitStack() as opened:
        with undisturbed():  # workers ignore Ctrl-C, which reaches the whole group, too
            opened.enter_context(dask.config.set(settings))
            cluster = distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=n_threads,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                resources={OWN: 1},
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
            client = distributed.Client(cluster)
        try:
            yield client.get_executor(resources={OWN: 1}, retries=TRIES - 1, pure=False)
        finally:
            with undisturbed():
                client.close()
                cluster.close()


@contextmanager
def connected(scheduler: str) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """An executor on the workers of a scheduler, and how many of them there are just now."""
    with _client(scheduler) as client:
        workers = _workers(client)
        resources = {GPU: 1} if any(GPU in w["resources"] for w in workers) else None
        executor = client.get_executor(resources=resources, retries=TRIES - 1, pure=False)
        yield executor, lambda: len(_workers(client))


def count_workers(scheduler: str) -> tuple[int, int]:
    """How many workers a scheduler has, and how many at most share a machine.

    Raises
    ------
    RequestError
        If there is no scheduler at the address.
    """
    with _client(scheduler) as client:
        hosts = Counter(w["host"] for w in _workers(client))
    return sum(hosts.values()), max(hosts.values(), default=1)


def _workers(client: Any) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    _, distributed = _packages()
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError, ImportError) as error:
        raise RequestError(
            f"--scheduler {scheduler} does not answer as a Dask scheduler: {first_line(error)}"
        ) from error
    with client:
        yield client


def plain(error: Exception) -> Exception:
    """An error of Dask's own in our words; others as they are."""
    if type(error).__name__ == "KilledWorker":
        return RunError(
            f"its Dask worker died {getattr(error, 'allowed_failures', 0) + 1} times (killed, out of memory?)"
        )
    if type(error).__name__ in ("FutureCancelledError", "CancelledError"):
        return RunError("the Dask scheduler was lost, or it dropped the part")
    return error


def require_dask() -> None:
    """Refuse to go on without the package.

    Raises
    ------
    RequestError
        With the command that installs it.
    """
    _packages()


def _packages() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise RequestError(f"--executor dask needs {error.name}: {install_line('dask')}") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters comes back as errors of parts
    return dask, distributed


def current_worker() -> Any:
    """The Dask worker that runs the calling thread, or None."""
    if "distributed" not in sys.modules:
        return None
    import distributed

    try:
        return distributed.get_worker()
    except ValueError:
        return None
