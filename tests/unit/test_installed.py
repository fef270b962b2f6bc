"""The line that installs an extra, for every way in which voxweft may have been installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from voxweft import installed


@pytest.mark.parametrize(
    ("told", "prefix", "wanted"),
    [
        ({}, "/usr", "/bin/python3 -m pip install 'voxweft[em]'"),
        ({"url": "file:///src/vox%20weft", "dir_info": {"editable": True}}, "/usr", "--editable '/src/vox weft[em]'"),
        ({"url": "file:///a/voxweft.whl", "archive_info": {}}, "/usr", "-m pip install '/a/voxweft.whl[em]'"),
        ({}, "/home/a/.local/share/uv/tools/voxweft", "uv tool install --force 'voxweft["),
        ({}, "/home/a/.local/share/pipx/venvs/voxweft", "pipx install --force 'voxweft["),
    ],
)
def test_the_line_suits_the_installation(told: Any, prefix: str, wanted: str, tmp_path: Path, monkeypatch: Any) -> None:
    made = tmp_path / "voxweft-9.dist-info"
    made.mkdir()
    needs = "Requires-Dist: numpy; extra == 's3'\nRequires-Dist: voxweft[s3]; extra == 'all'\n"
    needs += "Requires-Dist: no-such-package>=2; extra == 'em'\n"
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: voxweft\nVersion: 9\n{needs}")
    (made / "direct_url.json").write_text(json.dumps(told))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "executable", "/bin/python3")
    installed._source.cache_clear()
    try:
        line = installed.install_line("em")
        assert installed.missing_packages() == {"s3": [], "all": [], "em": ["no-such-package"]}
    finally:
        installed._source.cache_clear()
    assert wanted in line
    assert "em]'" in line
    assert ("s3" in line) == ("--force" in line)  # a tool's environment is made anew, with what it had
