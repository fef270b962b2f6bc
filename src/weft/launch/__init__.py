"""Where parts run: anything that follows ``concurrent.futures.Executor``. Arrays never travel; workers write."""

from __future__ import annotations

from weft.launch.executors import check_executor, open_executor, run_parts

__all__ = ["check_executor", "open_executor", "run_parts"]
