"""Every launcher keeps the contract, also one that another package brings."""

from __future__ import annotations

import marshal
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from voxweft.errors import RequestError
from voxweft.launch import open_executor
from voxweft.launch.executors import SerialExecutor
from voxweft.runner.execution import Execution
from voxweft.testing import LauncherContract


@contextmanager
def opened(name: Any) -> Iterator[Any]:
    with open_executor(name, 2) as (executor, _):
        yield executor


class TestSerial(LauncherContract):
    def make(self) -> Any:
        return SerialExecutor()


class TestProcesses(LauncherContract):
    def make(self) -> Any:
        return opened("processes")


class TestDask(LauncherContract):
    def make(self) -> Any:
        return opened("dask")


class TestThreads(LauncherContract):
    def make(self) -> Any:
        return ThreadPoolExecutor(2)


class TestPoolOfTheStandardLibrary(LauncherContract):
    def make(self) -> Any:
        return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


class TestPlugin(LauncherContract):
    @pytest.fixture(autouse=True)
    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = EntryPoint("threads", "concurrent.futures:ThreadPoolExecutor", "voxweft.launchers")
        monkeypatch.setattr("voxweft.plugins.entry_points", lambda group: [entry] if group == entry.group else [])

    def make(self) -> Any:
        return opened("threads")


def test_two_claims_to_a_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("mine", f"{m}:X", "voxweft.launchers") for m in ("one", "other")]
    monkeypatch.setattr("voxweft.plugins.entry_points", lambda group: entries)
    with pytest.raises(RequestError, match="one:X and other:X both claim 'mine'"):
        Execution("mine")


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RequestError, match="'cloud' is unknown; use auto, serial, processes, dask"):
        Execution("cloud")


def test_an_error_about_the_end_of_a_file_is_no_death_of_the_worker() -> None:
    with opened("processes") as pool:
        assert isinstance(pool.submit(marshal.loads, b"").exception(60), EOFError)
        assert pool.submit(pow, 3, 2).result(60) == 9
