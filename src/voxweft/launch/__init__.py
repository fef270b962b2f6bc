"""Where parts run: anything that follows ``concurrent.futures.Executor``. Arrays never travel; workers write."""

from __future__ import annotations

from voxweft.launch.executors import (
    TICK_S,
    open_executor,
    require_executor,
    run_parts,
    worker_number,
    worker_threads,
)

__all__ = ["TICK_S", "open_executor", "require_executor", "run_parts", "worker_number", "worker_threads"]
