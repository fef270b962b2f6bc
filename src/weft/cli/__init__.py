"""The command line. Nothing else prints."""

from __future__ import annotations

import os
import sys

TUNED = ("run", "demo", "plan", "predict", "pipeline", "inference_pipeline", "ink")


def main() -> None:
    """Entry point of the ``weft`` command."""
    _tune_allocator()
    from weft.cli.app import execute

    sys.exit(execute(sys.argv[1:]))


def _tune_allocator() -> None:
    """Start once more with allocator settings that a process cannot change in itself (see weft.launch.processes)."""
    from weft.launch.processes import ALLOCATOR

    wanted = sys.platform == "linux" and any(a in TUNED for a in sys.argv[1:2])
    if wanted and not any(name in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | ALLOCATOR)
