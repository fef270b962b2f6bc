"""What is published: a wheel and a source archive, installed outside the checkout and used there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from voxweft.version import __version__

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_archives_hold_what_a_user_needs(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        told = Parser().parsestr(wheel.read(f"voxweft-{__version__}.dist-info/METADATA").decode())
    for path in ("demo/plans.json", "demo/fold_0/checkpoint_final.pth", "demo/ink.ckpt", "demo/particles.pth"):
        assert f"voxweft/backends/{path}" in names
    for path in [
        *ROOT.glob("src/voxweft/**/*.toml"),
        *ROOT.glob("src/voxweft/**/*.y*ml"),
        ROOT / "src/voxweft/py.typed",
    ]:
        assert str(path.relative_to(ROOT / "src")) in names
    assert told["Author"] == "voxweft developers"
    assert "OME-Zarr" in told["Keywords"]
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        inside = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "README.md", "CITATION.cff", "CHANGELOG.md", "docs/start.md", "scripts/test"} <= inside


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    venv, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/*/site-packages"))  # what voxweft needs comes from here, voxweft itself does not
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        venv / "bin/python",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*pip, next(built.glob("*.whl"))], check=True, env=CLEAN)

    def run(*words: str) -> str:
        command = [venv / "bin/voxweft", *words]
        return subprocess.run(command, cwd=empty, env=CLEAN, check=True, capture_output=True, text=True).stdout

    assert run("--version").strip() == f"voxweft {__version__}"
    assert str(site / "voxweft") in run("doctor", "--json")
    assert "Dice against the truth: 0." in run("demo", "--size", "48", "--quiet")
    assert (empty / "voxweft-demo/membranes.zarr.voxweft/report.html").is_file()
