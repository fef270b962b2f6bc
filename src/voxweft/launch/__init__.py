"""Where parts run: anything that follows ``concurrent.futures.Executor``. Arrays never travel; workers write."""

from __future__ import annotations

from voxweft.launch.executors import (
    open_executor,
    require_executor,
    run_parts,
    worker_number,
    worker_threads,
)

__all__ = ["open_executor", "require_executor", "run_parts", "worker_number", "worker_threads"]
