"""Commands in processes that have everything imported: ``python -m voxweft`` as a fork of a process that waits.

Importing torch takes longer than most tests; a fork has it at once, and is otherwise a process of its own, with its
folder, its environment, its output and its exit code.
The settings of the allocator, for which a command starts once more, are there from the beginning.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxweft.launch.processes import ALLOCATOR

IMPORTED = ("torch", "zarr", "voxweft.cli.app", "voxweft.apps.run", "voxweft.apps.scroll", "voxweft.apps.ink")


class WarmProcess:
    """Waits for commands; runs one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATOR},
        )

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: int
    ) -> subprocess.CompletedProcess[str]:
        """Run ``voxweft ARGUMENTS``; a command that takes too long is killed."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder) / name for name in ("out", "err"))
            task = {"arguments": arguments, "cwd": str(cwd), "env": {**env, **ALLOCATOR}, "timeout_s": timeout_s}
            assert self._process.stdin and self._process.stdout
            self._process.stdin.write(json.dumps(task | {"out": str(out), "err": str(err)}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            words = [sys.executable, "-m", "voxweft", *arguments]
            return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def main() -> None:
    """Read tasks, a line of JSON each; answer with the exit code."""
    for name in IMPORTED:
        __import__(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if not pid:
            _command(task)
        signal.signal(signal.SIGALRM, lambda *_, pid=pid: os.kill(pid, signal.SIGKILL))
        signal.alarm(task["timeout_s"])
        _, status = os.waitpid(pid, 0)
        signal.alarm(0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _command(task: Mapping[str, Any]) -> None:
    code: Any = 1
    try:
        os.chdir(task["cwd"])
        os.environ.clear()
        os.environ.update(task["env"])
        for number, path in ((0, os.devnull), (1, task["out"]), (2, task["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = ["voxweft", *task["arguments"]]
        runpy.run_module("voxweft", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
