"""Executors by name, and the loop that runs parts on any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from voxweft.errors import RequestError
from voxweft.launch import dask
from voxweft.launch.processes import WorkerPool, pool_number
from voxweft.plugins import find_plugin

T = TypeVar("T")
R = TypeVar("R")

EXECUTORS = ("auto", "serial", "processes", "dask")
TICK_S = 2.0


class SerialExecutor(Executor):
    """Runs each call at once, in this process."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Call ``fn`` and return its finished future."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


def require_executor(where: str | Executor, scheduler: str = "") -> None:
    """Refuse a name that is no executor, before anything is opened.

    Raises
    ------
    RequestError
        Naming those that are.
    """
    if where == "slurm":
        raise RequestError("--executor slurm: jobs are submitted whole: voxweft submit slurm -- COMMAND")
    if isinstance(where, str) and where not in EXECUTORS and not _plugin(where):
        raise RequestError(f"--executor {where!r} is unknown; use {', '.join(EXECUTORS)}, or voxweft submit slurm")
    if scheduler and where not in ("auto", "dask"):
        raise RequestError(f"--scheduler {scheduler} needs --executor dask")


@contextmanager
def open_executor(
    where: str | Executor, n_workers: int, *, scheduler: str = "", n_threads: int = 1
) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """An executor and how many calls it runs at once.

    Parameters
    ----------
    where
        "serial", "processes", "dask", the name of a plug-in (group ``voxweft.launchers``: called with the number of
        workers, it gives a context with an executor), or any :class:`concurrent.futures.Executor`, which is left open.
    n_workers
        Worker processes to start; with an executor of the caller's: how many calls it takes at once.
    scheduler
        Address of a Dask scheduler; without it "dask" starts workers on this machine.
    n_threads
        Threads of each Dask worker that is started.
    """
    if isinstance(where, Executor):
        yield where, lambda: n_workers
    elif plugin := _plugin(where):
        with plugin(n_workers) as theirs:
            yield theirs, lambda: n_workers
    elif where == "serial":
        yield SerialExecutor(), lambda: 1
    elif where == "dask" and scheduler:
        with dask.connected(scheduler) as executor:
            yield executor
    elif where == "dask":
        with dask.own_cluster(n_workers, n_threads) as cluster:
            yield cluster, lambda: n_workers
    else:
        pool = WorkerPool(n_workers)
        try:
            yield pool, lambda: n_workers
        except BaseException:  # an interrupt too: what waits is not begun
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()


def _plugin(name: str) -> Callable[[int], AbstractContextManager[Executor]] | None:
    """The launcher that another package brings: for a number of workers a context with an executor."""
    found: Any = find_plugin("voxweft.launchers", name, name.__eq__) if name not in EXECUTORS else None
    return found  # type: ignore[no-any-return]


def worker_number() -> int:
    """Which of several workers this process is, from 0: chooses its device."""
    worker = dask.current_worker()
    name = worker.name if worker else pool_number()
    return name if isinstance(name, int) else 0


def worker_threads() -> int:
    """How many threads this worker was given; 0 where nobody said."""
    worker = dask.current_worker()
    return int(worker.state.nthreads) if worker else 0


def run_parts(
    executor: Executor,
    function: Callable[[T], R],
    tasks: Sequence[T],
    at_once: Callable[[], int] = lambda: 1,
    tick: Callable[[], None] = lambda: None,
    more: Callable[[Collection[T]], T | None] = lambda _running: None,
) -> Iterator[tuple[T, R | Exception]]:
    """Run every task and give each with its result, or its error, in the order in which they end.

    No more than ``at_once()`` are handed over at a time, so that a worker that dies takes one part with it and not
    those that wait behind it. ``tick`` is called every two seconds. Where a worker is free and no task is left,
    ``more(running tasks)`` may give a further one.
    """
    left, running = deque(tasks), dict[Future[R], T]()
    try:
        while left or running:
            while left and len(running) < max(1, at_once()):
                task = left.popleft()
                running[_submit(executor, function, task)] = task
            while not left and 0 < len(running) < at_once() and (further := more(running.values())) is not None:
                running[_submit(executor, function, further)] = further
            ended, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
            tick()
            for future in ended:
                yield running.pop(future), _outcome(future)
    finally:
        for future in running:
            future.cancel()


def _submit(executor: Executor, function: Callable[[T], R], task: T) -> Future[R]:
    """A call handed over; where the executor takes none any more, a call that failed."""
    try:
        return executor.submit(function, task)
    except Exception as error:  # noqa: BLE001 - an executor of the caller's may have broken
        refused: Future[R] = Future()
        refused.set_exception(error)
        return refused


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a part that failed must not stop the others
        return dask.plain(error)
