"""A real SLURM of one node on loopback, for the tests of one process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
Slurm = Callable[..., str]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of the cluster."""
    paths = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [p for p in PROGRAMS if not shutil.which(p, path=paths)]
    if missing:
        pytest.skip(f"SLURM is not installed here (no {', '.join(missing)}); scripts/test installs it where it may")
    if os.geteuid() != 0:
        pytest.skip("a SLURM of the test's own needs root")
    home = tmp_path_factory.mktemp("slurm")
    env = {"PATH": paths, "SLURM_CONF": str(home / "slurm.conf")}
    try:
        subprocess.run([FOLDER / "up.sh", home, str(_two_ports())], check=True, env={**os.environ, **env})
        yield env
    finally:
        subprocess.run([FOLDER / "down.sh", home], check=True, env={**os.environ, **env})


def _two_ports() -> int:
    """A free port whose successor is free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def ask(slurm: dict[str, str], *words: str) -> str:
    """What a program of SLURM prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **slurm}).stdout
