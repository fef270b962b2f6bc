"""Executors by name, and the ten lines that run parts on any of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from weft.errors import RunError

T = TypeVar("T")
R = TypeVar("R")

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
}
"""glibc settings that keep large activations from being returned to the kernel and faulted in again at every call.

They must be set before a process starts; measured at 1.4 to 2 times the speed of a 3-D network on a CPU. One arena
for all threads keeps what they free usable for each other.
"""


class SerialExecutor(Executor):
    """Runs each call at once, in this process."""

    def submit(self, fn: Callable[..., R], /, *args: object, **kwargs: object) -> Future[R]:
        """Call ``fn`` and return its finished future; errors are raised here."""
        future: Future[R] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


EXECUTORS = ("serial", "processes")


@contextmanager
def open_executor(name: str, n_workers: int) -> Iterator[Executor]:
    """The executor "serial" or "processes" (spawned, each with the allocator settings)."""
    if name == "serial":
        yield SerialExecutor()
    else:
        import multiprocessing

        os.environ |= {k: os.environ.get(k, v) for k, v in ALLOCATOR.items()}  # spawned workers inherit it
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(n_workers, context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
            yield pool


def _end_with(parent: int) -> None:
    """End this worker soon after the process that started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_parts(
    executor: Executor, function: Callable[[T], R], tasks: Sequence[T], tick: Callable[[], None] = lambda: None
) -> Iterator[R]:
    """Run every task; results come in the order in which they end, ``tick`` is called every two seconds.

    Raises
    ------
    RunError
        If a worker died; what was finished stays, and a rerun continues.
    """
    waiting = {executor.submit(function, task) for task in tasks}
    try:
        while waiting:
            ended, waiting = wait(waiting, timeout=2.0, return_when=FIRST_COMPLETED)
            tick()
            yield from (future.result() for future in ended)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died (killed, or out of memory). Run the same command again: finished slabs are kept."
        ) from error
    finally:
        for future in waiting:
            future.cancel()
