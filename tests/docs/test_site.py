"""The site: built strictly from the pages and the code, drawings from the geometry, nothing fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import voxweft

ROOT = Path(__file__).resolve().parents[2]
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_tells_all_commands_and_names(site: Path) -> None:
    commands = (site / "reference/commands.html").read_text()
    for word in ("voxweft run", "voxweft ink threshold apply", "--sigma-scale", "--cache-size"):
        assert word in commands
    names = (site / "reference/names.html").read_text()
    for name in voxweft.__all__:
        assert name.startswith("__") or f'.{name}"' in names, name


def test_tables_are_those_of_the_measurements(site: Path) -> None:
    page = (site / "compared.html").read_text()
    assert page.count("<table>") >= 8
    assert "<!-- table" not in page


class Loaded(HTMLParser):
    """What a browser would fetch for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if LOADS.get(tag) == name]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert [url for url in loaded.urls if re.match(r"(https?:)?//", url)] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style.name


def test_drawings_are_those_of_the_geometry(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/drawings.py", tmp_path], check=True)
    for drawing in tmp_path.glob("*.svg"):
        assert (ROOT / "docs/concepts" / drawing.name).read_text() == drawing.read_text(), drawing.name
    assert len([*tmp_path.glob("*.svg")]) == 8
