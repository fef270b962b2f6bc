"""Paths and ways to run that several tests use."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from servers import s3  # noqa: F401 - a fixture
from slurm_cluster import slurm  # noqa: F401 - a fixture
from warm import WarmProcess

# The same examples every time, so that a test passes or fails for what changed; VOXWEFT_EXPLORE=1 tries others.
settings.register_profile(
    "voxweft",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="VOXWEFT_EXPLORE" not in os.environ,
)
settings.load_profile("voxweft")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell starts what runs in the background; commands inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for all tests of a session, and none of what the user has
    _cache = tempfile.TemporaryDirectory(prefix="voxweft-cache-")
    os.environ["VOXWEFT_CACHE"] = _cache.name

SHARED = Path(__file__).resolve().parents[2] / "shared"
Voxweft = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the project; a test without it skips and says so."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with reference data is not here")
    return SHARED


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmProcess]:
    """Runs commands without importing everything anew."""
    process = WarmProcess()
    yield process
    process.close()


@pytest.fixture
def voxweft(tmp_path: Path, warm: WarmProcess) -> Voxweft:
    """The installed command, run in a folder of its own; fails on another exit code than the one expected."""

    def call(*arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = warm.run([*map(str, arguments)], tmp_path, {**os.environ, **env}, timeout_s=500)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """uint8 [50, 61, 72]: smooth blobs with noise, an empty corner."""
    rng = np.random.default_rng(5)
    z, y, x = np.meshgrid(*(np.arange(n) for n in (50, 61, 72)), indexing="ij")
    waves = 110 + 50 * np.sin(z / 5) * np.cos(y / 7) + 40 * np.sin(x / 6)
    noisy = np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    noisy[:, :26, :26] = 0
    return noisy
