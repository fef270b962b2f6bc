"""``voxweft doctor`` and ``voxweft models``."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Voxweft
from voxweft.backends import BUILT_IN
from voxweft.cli.doctor import GIVES
from voxweft.cli.models import FOR
from voxweft.installed import missing_packages


def test_doctor_tells_what_is_here(voxweft: Voxweft) -> None:
    found = json.loads(voxweft("doctor", "--json").stdout)
    assert found["packages"]["torch"]
    assert set(found["formats"]) == {"bf16", "int8"}
    assert found["extras"]["em"]["missing"] == []
    assert "GB free" in voxweft("doctor").stdout


def test_every_extra_says_what_it_gives() -> None:
    assert set(missing_packages()) - {"all", "dev", "docs"} <= set(GIVES)


def test_models_lists_bundled_known_and_cached_ones(voxweft: Voxweft, tmp_path: Path) -> None:
    weights = tmp_path / "hub/models--owner--net/blobs/1"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(2_000_000))
    found = json.loads(voxweft("models", "--json", HF_HUB_CACHE=str(tmp_path / "hub")).stdout)
    by_name = {one["name"]: one for one in found}
    assert by_name["hf://owner/net"]["n_bytes"] == 2_000_000
    assert by_name["timesformer-scroll5"]["place"].startswith("hf://")
    assert {one["name"] for one in found if one["kind"] == "bundled"} == set(BUILT_IN) == set(FOR)
    text = voxweft("models", HF_HUB_CACHE=str(tmp_path / "hub")).stdout
    assert "demo-ink3d" in text
    assert "(2 MB)" in text
