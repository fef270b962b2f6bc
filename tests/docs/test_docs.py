"""What README and docs show runs, block by block, as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from conftest import Voxweft
from voxweft.processor import lacks
from warm import WarmProcess

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = ("console",)  # what installs, or needs other programs


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block that runs."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [(language, text) for language, text in found if language not in NOT_RUN]


def commands(text: str) -> list[str]:
    """The commands of a block, without what is said of them."""
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line]


def told_elsewhere(page: Path, text: str) -> bool:
    """Whether all commands of a block of README stand in another page too, which runs them."""
    others = {
        line for p in PAGES if p.name != "README.md" for kind, b in blocks(p) if kind == "bash" for line in commands(b)
    }
    return page.name == "README.md" and set(commands(text)) <= others


def lacks_processor(text: str) -> bool:
    """Whether a block asks for a precision that this processor has no instructions for."""
    return any(lacks(precision) for precision in re.findall(r"--precision (int8|bf16)", text))


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what each ``voxweft demo example ...`` makes lies, made once for all pages and all workers of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demos"
    folder.mkdir(exist_ok=True)
    return folder


def with_demos(text: str, demos: Path, bash: Any) -> str:
    """A block without its demos, whose files are copied. A copick project names its place: it is made there."""
    for line in text.splitlines():
        words = commands(line)
        if words and words[0].startswith("voxweft demo example") and "--particles" not in words[0]:
            made = demos / words[0].replace(" ", "_")
            with FileLock(f"{made}.lock"):
                if not made.exists():
                    (begun := Path(f"{made}.begun")).mkdir(exist_ok=True)
                    done = subprocess.run(["bash", "-eu", "-c", words[0]], check=False, **(bash | {"cwd": begun}))
                    assert done.returncode == 0, f"{words[0]}\n{done.stdout}\n{done.stderr}"
                    begun.rename(made)
            shutil.copytree(made, bash["cwd"], dirs_exist_ok=True)
            text = text.replace(line, "")
    return text


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_every_block_of_a_page_runs(page: Any, warm: WarmProcess, tmp_path: Path, demos: Path) -> None:
    env = {**os.environ, "PATH": f"{warm.folder}:{os.environ['PATH']}"}
    bash = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True}
    ran = 0
    for language, text in blocks(page):
        if language == "json":
            json.loads(text)
        elif not (text.startswith("scripts/") or lacks_processor(text)):
            if language == "python":
                done = warm.run(["-c", text], tmp_path, env, timeout_s=500)
            else:
                left = with_demos(text, demos, bash)
                if told_elsewhere(page, text):
                    continue
                done = subprocess.run(["bash", "-eu", "-c", left], check=False, **bash)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran


def test_links_and_pictures_of_a_page_are_there() -> None:
    for page in [*PAGES, ROOT / "design/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target} is not there"


@pytest.mark.slow
def test_the_demo_script_segments_a_phantom(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/demo", tmp_path / "out", "--size", "96"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"Dice against the truth: ([\d.]+)", done.stdout)[1]) > 0.88
    page = (tmp_path / "out/membranes.zarr.voxweft/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 15  # three planes of image, result, overlay, truth, comparison
    assert "could not be shown" not in page
    assert (tmp_path / "out/membranes.png").exists()


@pytest.mark.slow
def test_the_ink_demo_finds_the_text(voxweft: Voxweft, tmp_path: Path) -> None:
    done = voxweft("demo", "out", "--ink", "--seed", 7)
    assert float(re.search(r"Dice against the truth: ([\d.]+)", done.stdout)[1]) > 0.75
    assert (tmp_path / "out/ink_report.html").read_text().count("data:image/png;base64,") >= 4


def test_the_demo_needs_no_network(tmp_path: Path) -> None:
    """In a network namespace without interfaces, as on a compute node."""
    command = ["unshare", "--net", "--map-root-user", sys.executable, "-m", "voxweft", "demo", "out", "--size", "80"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("network namespaces are not allowed here")
    assert done.returncode == 0, done.stderr
    assert "Dice" in done.stdout
