"""Worker processes of this machine; one that dies is started again."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from voxweft.errors import ReadError, RunError, WriteError

R = TypeVar("R")
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

TRIES = 3
ENDING_S = 5.0  # for a worker to leave its work in order
TRANSIENT = (ReadError, WriteError, OSError)

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

_number = 0


def pool_number() -> int:
    """Which worker of a pool this process is, from 0; 0 also where it is none."""
    return _number


class _WorkerDiedError(Exception):
    """The process ended before it had answered."""


class WorkerPool(Executor):
    """Spawned processes, each with one call at a time.

    A call whose worker dies, or that fails to read or write, is tried again, three times in all; then its future
    raises, and the other calls go on. Workers end with the process that made the pool.
    """

    def __init__(self, n_workers: int) -> None:
        os.environ |= {k: os.environ.get(k, v) for k, v in ALLOCATOR.items()}  # spawned workers inherit it
        self._calls: SimpleQueue[tuple[Future[Any], Call] | None] = SimpleQueue()
        self._workers: list[_Worker | None] = [None] * n_workers
        self._stopped = False
        self._threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(n_workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue a call; function, arguments and result must be picklable."""
        future: Future[R] = Future()
        self._calls.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers: after the calls that are queued, or with ``cancel_futures`` at once."""
        self._stopped = cancel_futures
        with undisturbed():
            if cancel_futures:
                _end_all([w for w in self._workers if w])
            for _ in self._threads:
                self._calls.put(None)
            for thread in self._threads if wait else ():
                thread.join()

    def _serve(self, number: int) -> None:
        """One thread a worker: hand it calls until there are no more."""
        while (item := self._calls.get()) is not None:
            future, call = item
            if self._stopped or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                future.set_result(self._try(number, call))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
        if worker := self._workers[number]:
            worker.end()

    def _try(self, number: int, call: Call) -> Any:
        for left in reversed(range(TRIES)):
            worker = self._workers[number] = self._workers[number] or _Worker(number)
            try:
                return worker.call(call)
            except _WorkerDiedError:
                self._workers[number] = None
                if self._stopped or not left:
                    raise RunError(f"its worker process died {TRIES - left} times, {worker.epitaph()}") from None
            except TRANSIENT:
                if not left:
                    raise
        return None


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, os.getpid(), number))
        self.process.start()
        theirs.close()

    def call(self, call: Call) -> Any:
        """The result of a call, or its error."""
        try:
            self._pipe.send(call)
            good, value = self._pipe.recv()
        except (ConnectionError, EOFError) as error:
            raise _WorkerDiedError from error
        if good:
            return value
        raise value

    def epitaph(self) -> str:
        """How the process ended."""
        self.process.join(ENDING_S)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"at last with exit code {code}"
        return f"at last by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")

    def end(self) -> None:
        """Let the process end."""
        with suppress(OSError):  # it may have ended
            self._pipe.send(None)
        self.process.join()


def _end_all(workers: Sequence[_Worker]) -> None:
    """Make processes end: all of them asked at once, those killed that do not after a while."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(ENDING_S)
        worker.process.kill()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without Ctrl-C: for work that must come to its end, and for starting processes that it is not to reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(calls: Connection, parent: int, number: int) -> None:
    """The life of a worker."""
    global _number  # noqa: PLW0603 - a process is one worker
    _number = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        while (call := calls.recv()) is not None:
            calls.send(_answer(call))
    except (EOFError, KeyboardInterrupt):
        pass
    multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]  # of locks that codecs made
    os._exit(0)  # the threads of an S3 client may crash in the interpreter's own end


def _answer(call: Call) -> tuple[bool, Any]:
    function, args, kwargs = call
    try:
        answer = (True, function(*args, **kwargs))
        pickle.dumps(answer)
    except Exception as error:  # noqa: BLE001 - it is the caller's
        answer = (False, error)
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - errors with arguments of their own often cannot travel
            return False, RunError(f"{type(error).__name__}: {error}")
    return answer


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
