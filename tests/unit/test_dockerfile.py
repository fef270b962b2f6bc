"""The Dockerfile, checked without a container engine: every path, command, extra and argument in it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = {"python", "pip", "rm", "useradd"}  # in python:3.11-slim, which is Debian


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions and what follows them, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def sources(steps: list[tuple[str, str]]) -> list[str]:
    return [word for name, rest in steps if name == "COPY" for word in rest.split()[:-1]]


def commands(line: str) -> list[list[str]]:
    return [shlex.split(part) for part in re.split(r"&&|;|\|", line)]


def test_what_is_copied_is_there_and_reaches_the_build(steps: Any) -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[0] == "*"
    for path in sources(steps):
        assert (ROOT / path).exists()
        assert f"!{path}" in allowed, f".dockerignore keeps {path} away"
        tracked = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True, check=False)
        if tracked.returncode == 0:  # a release without .git has nothing to compare with
            assert tracked.stdout


def test_every_command_is_in_the_base_image_or_was_installed_before(steps: Any) -> None:
    known = set(BASE)
    for name, line in steps:
        if name != "RUN":
            continue
        for words in commands(line):
            assert words[0] in known, words
            if "install" in words:
                known |= {w for w in words[words.index("install") + 1 :] if re.fullmatch(r"[\w-]+", w)}
    assert known > BASE, "something was installed"


def test_arguments_extras_user_and_entry_point(steps: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [f"{name} {rest}" for name, rest in steps]
    declared = set[str]()
    from_at = next(n for n, line in enumerate(lines) if line.startswith("FROM"))
    for n, line in enumerate(lines):
        if n == from_at:
            assert set(re.findall(r"\$\{?(\w+)", line)) <= declared
            declared = set()  # arguments before FROM are FROM's alone
        elif line.startswith(("ARG", "ENV")):
            declared.add(re.match(r"\w+ (\w+)=.", line)[1])
        else:
            assert set(re.findall(r"\$\{?(\w+)", line)) <= declared, line
    extras = set(re.search(r"\.\[([\w,]+)\]", " ".join(lines))[1].split(","))
    assert extras <= set(project["optional-dependencies"])
    assert extras == {"all"}
    users = [rest for name, rest in steps if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert any(rest.endswith(f" {users[-1]}") for name, rest in steps if name == "RUN" and "useradd" in rest)
    entry = json.loads(next(rest for name, rest in steps if name == "ENTRYPOINT"))
    assert entry == [*project["scripts"]][:1]
    assert not re.search(r"https?://|/work|/home/(?!voxweft)", "\n".join(lines))


@pytest.mark.slow
def test_what_is_copied_is_enough_to_install_and_run(steps: Any, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")
    build, site = tmp_path / "build", tmp_path / "site"
    build.mkdir()
    for path in sources(steps):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, build / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, build / path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, "."], cwd=build, check=True)
    entry = json.loads(next(rest for name, rest in steps if name == "ENTRYPOINT"))
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [site / "bin" / entry[0], "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"voxweft \d+\.\d+\.\d+\S*", done.stdout.strip())
    where = [sys.executable, "-c", "import voxweft; print(voxweft.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found).is_relative_to(site)
    for data in ("apps/ink/models.toml", "backends/demo/ink.ckpt"):
        assert (site / "voxweft" / data).exists()
