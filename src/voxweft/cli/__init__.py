"""The command line. Nothing else prints."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from contextlib import suppress

from voxweft import INTERRUPTED

TUNED = ("run", "demo", "plan", "predict", "pipeline", "inference_pipeline", "ink")


def main() -> None:
    """Entry point of the ``voxweft`` command."""
    _tune_allocator()
    for stream in (sys.stdout, sys.stderr):  # a terminal of ASCII shows what it cannot as \\xe4
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")
    if "--verbose" not in sys.argv:  # what libraries say of odd files is in our own words, or nobody's matter
        logging.getLogger().addHandler(logging.NullHandler())
        warnings.simplefilter("ignore")
    from voxweft.cli.app import execute

    _leave(execute(sys.argv[1:]))


def _leave(code: int) -> None:
    """End the process; after Ctrl-C or S3 without the interpreter's own end, in which threads that still work crash."""
    if code != INTERRUPTED and "obstore" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _tune_allocator() -> None:
    """Start once more with allocator settings that a process cannot change in itself (see voxweft.launch.processes)."""
    from voxweft.launch.processes import ALLOCATOR

    wanted = sys.platform == "linux" and any(a in TUNED for a in sys.argv[1:2])
    if wanted and not any(name in os.environ for name in ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | ALLOCATOR)
