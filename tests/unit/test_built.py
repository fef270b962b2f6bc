"""What is built once: by one of many processes, never broken, never more than the bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from voxweft.built import _opened, built, keep, kept, named
from voxweft.disk_cache import DiskCache

MAKER = """
import os, sys, time
from voxweft.built import built
def make():
    with open(sys.argv[1], "a") as made:
        made.write("x")
    time.sleep(0.5)
    return os.urandom(1 << 20)
import hashlib
print(hashlib.sha256(built("one", make)).hexdigest())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOXWEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def _start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path / "made")], stdout=subprocess.PIPE, text=True)


def test_eight_processes_at_once_make_it_once(tmp_path: Path) -> None:
    found = {process.communicate(timeout=60)[0] for process in [_start(tmp_path) for _ in range(8)]}
    assert len(found) == 1
    assert (tmp_path / "made").read_text() == "x"


def test_a_process_that_is_killed_while_it_makes_something_leaves_nothing(tmp_path: Path) -> None:
    first = _start(tmp_path)
    while not (tmp_path / "made").exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=10)
    assert kept("one") is None
    assert len(_start(tmp_path).communicate(timeout=60)[0]) == 65
    assert (tmp_path / "made").read_text() == "xx"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + b"?" + b[41:]])
def test_a_damaged_entry_is_made_again(folder: Path, damage: Any) -> None:
    assert built("one", lambda: b"a" * 100) == b"a" * 100
    (path,) = folder.glob("??/*")
    path.write_bytes(damage(path.read_bytes()))
    assert built("one", lambda: b"b" * 100) == b"b" * 100
    assert built("one", lambda: b"c" * 100) == b"b" * 100


def test_a_folder_that_cannot_be_used_costs_time_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOXWEFT_CACHE", str(tmp_path / "file"))
    assert [built("one", lambda: b"a"), built("one", lambda: b"b")] == [b"a", b"b"]


def test_what_was_used_longest_ago_goes_first(folder: Path) -> None:
    store = DiskCache(folder, 1000)
    for n in range(8):
        store.put(str(n), bytes(200))
        os.utime(next(p for p in folder.glob("??/*") if p.stat().st_mtime > time.time() - 2), (n, n))
    assert store.held_bytes() <= 1000
    assert store.get("7") is not None and store.get("0") is None


def test_the_name_holds_what_decides() -> None:
    assert named("network", "numpy", patch=(8, 8, 8)) != named("network", "numpy", patch=(8, 8, 9))
    assert "nothing-of-the-kind" in named("network", "nothing-of-the-kind")


def test_nothing_larger_than_is_sensible_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _opened.cache_clear()
    monkeypatch.setattr("voxweft.built.LARGEST_BYTES", 10)
    keep("one", bytes(11))
    assert kept("one") is None
