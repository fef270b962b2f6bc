"""Commands in processes that have everything imported: ``python -m voxweft`` as a fork of a process that waits.

Importing torch takes longer than most tests; a fork has it at once, and is otherwise a process of its own, with its
folder, its environment, its output and its exit code; it may be killed.
The settings of the allocator, for which a command starts once more, are there from the beginning.

    WarmProcess --fork--> one a call (answers with the number of the process, then with its exit code) --fork--> command
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voxweft.launch.processes import ALLOCATOR

IMPORTED = ("torch", "zarr", "voxweft.cli.app", "voxweft.apps.run", "voxweft.apps.scroll", "voxweft.apps.ink")
SCRIPT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
task = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(server, [json.dumps(task).encode() + b"\\n"], [0, 1, 2])
server.recv(4, socket.MSG_WAITALL)
sys.exit(int.from_bytes(server.recv(4), "little", signed=True))
"""
_NUMBER = struct.Struct("<i")


class Command:
    """A command that runs; like :class:`subprocess.Popen`."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.pid: int = _NUMBER.unpack(server.recv(_NUMBER.size, socket.MSG_WAITALL))[0]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        try:
            return self.wait(0.0001)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative if a signal ended it."""
        if self.returncode is None:
            self._server.settimeout(timeout)
            try:
                self.returncode = _NUMBER.unpack(self._server.recv(_NUMBER.size))[0]
            except TimeoutError:
                raise subprocess.TimeoutExpired("voxweft", timeout or 0) from None
            self._server.close()
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class WarmProcess:
    """Waits for commands.

    Attributes
    ----------
    folder
        Holds ``voxweft``, for the PATH of a shell.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self._path = str(self.folder / "socket")
        script = self.folder / "voxweft"
        script.write_text(SCRIPT.format(python=os.path.realpath(sys.executable), path=self._path))
        script.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path], stdout=subprocess.PIPE, env={**os.environ, **ALLOCATOR}
        )
        assert self._process.stdout and self._process.stdout.readline() == b"ready\n"

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        out: int | None = None,
        err: int | None = None,
    ) -> Command:
        """Start ``voxweft ARGUMENTS``, or code as ``python -c`` does; without ``out`` and ``err`` it is silent."""
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        task = {"arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        with Path(os.devnull).open("r+b", buffering=0) as nobody:
            files = [nobody.fileno() if file is None else file for file in (None, out, err)]
            socket.send_fds(server, [json.dumps(task).encode() + b"\n"], files)
            return Command(server)

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: int
    ) -> subprocess.CompletedProcess[str]:
        """Run ``voxweft ARGUMENTS``; a command that takes too long is killed."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            command = self.start(arguments, cwd, env, out.fileno(), err.fileno())
            try:
                code = command.wait(timeout_s)
            except subprocess.TimeoutExpired:
                command.kill()
                code = command.wait()
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode())
        return subprocess.CompletedProcess([sys.executable, "-m", "voxweft", *arguments], code, *said)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        shutil.rmtree(self.folder)


def main(path: str) -> None:
    """Take calls and fork for each."""
    for name in IMPORTED:
        __import__(name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    os.write(1, b"ready\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for those that answered
    while True:
        client, _ = server.accept()
        if not os.fork():
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(client)
            os._exit(0)
        client.close()


def _answer(client: socket.socket) -> None:
    text, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while not text.endswith(b"\n"):
        text += client.recv(1 << 20)
    pid = os.fork()
    if not pid:
        client.close()
        _command(json.loads(text), files)
    for file in files:
        os.close(file)
    client.sendall(_NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    client.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _command(task: Mapping[str, Any], files: Sequence[int]) -> None:
    code: Any = 1
    try:
        os.chdir(task["cwd"])
        os.environ.clear()
        os.environ.update(task["env"])
        os.environ.update(ALLOCATOR)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.argv = ["voxweft", *task["arguments"]]
        if sys.argv[1] == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(sys.argv[2], vars(main))
        else:
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
    main(sys.argv[1])
