"""bf16 and int8: the same bits in any division, on any day; what cannot be had is said in a line."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import voxweft as package
from conftest import Voxweft
from e2e.test_same_bits import digest
from voxweft.apps.run import repeat
from voxweft.errors import ModelError, PlanMismatchError, RequestError
from voxweft.processor import lacks

pytestmark = pytest.mark.skipif(
    bool(lacks("bf16") or lacks("int8") or not find_spec("nncf")),
    reason="needs a processor with bf16 and int8, and nncf",
)


@pytest.fixture(scope="module")
def work(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop of the membrane volume, and outputs of it in bf16 and int8."""
    folder = tmp_path_factory.mktemp("precision")
    raw = tifffile.imread(shared / "data/em_fibsem_medulla/raw.tif")[:112, 60:160, 60:160]
    zarr.create_array(str(folder / "in.zarr"), shape=raw.shape, chunks=(32, 64, 64), dtype="uint8")[:] = raw
    for precision in ("bf16", "int8"):
        options = _options(precision)
        package.run(str(folder / "in.zarr"), str(folder / f"{precision}.zarr"), str(_model(shared)), options)
    return folder


def _model(shared: Path) -> Path:
    return shared / "models/nnunet_fibsem_membrane"


def _options(precision: str, **more: Any) -> package.RunOptions:
    return package.RunOptions(precision=precision, chunk="32,64,64", pyramid=False, tolerance=1.0, **more)


def _plan(output: Path) -> Any:
    return json.loads((output.parent / f"{output.name}.voxweft" / "plan.json").read_text())


def _network(output: Path) -> Path:
    (made,) = (output.parent / f"{output.name}.voxweft" / "networks").iterdir()
    return made


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_any_division_gives_the_same_bits(
    voxweft: Voxweft, work: Path, shared: Path, tmp_path: Path, precision: str
) -> None:
    whole = digest(work / f"{precision}.zarr")
    flags = [
        "--model",
        _model(shared),
        "--precision",
        precision,
        "--chunk",
        "32,64,64",
        "--no-pyramid",
        "--tolerance",
        1,
    ]
    for part in (1, 0):
        voxweft("run", work / "in.zarr", "parts.zarr", *flags, "--num-parts", 2, "--part-id", part)
    assert digest(tmp_path / "parts.zarr") == whole
    voxweft("run", "--plan", work / f"{precision}.zarr", "again.zarr")
    assert digest(tmp_path / "again.zarr") == whole
    shutil.rmtree(tmp_path / "again.zarr" / "0" / "c" / "0")
    (slab, *_) = sorted((tmp_path / "again.zarr.voxweft" / "done" / "sweep").glob("*.json"))
    slab.unlink()
    voxweft("run", "--plan", work / f"{precision}.zarr", "again.zarr", VOXWEFT_CACHE=str(tmp_path / "empty"))
    assert digest(tmp_path / "again.zarr") == whole


def test_what_changed_is_in_the_plan_and_the_report(voxweft: Voxweft, work: Path, tmp_path: Path) -> None:
    trial = _plan(work / "int8.zarr")["measured"]["runtimes"][-1]
    assert 0 < trial["agreement"]["flips"] < 0.02
    assert trial["agreement"]["n_voxels"] == 8 * 32**3
    voxweft("report", work / "int8.zarr", "--to", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "int8" in page and "of labels change" in page and "Dice 0.9" in page
    exact, reduced = (zarr.open_array(str(work / f"{name}.zarr" / "0"))[:].astype(int) for name in ("bf16", "int8"))
    assert ((exact > 127) != (reduced > 127)).mean() < 2 * trial["agreement"]["flips"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_machine_without_the_instructions_is_refused(
    monkeypatch: pytest.MonkeyPatch, work: Path, shared: Path, tmp_path: Path, precision: str
) -> None:
    monkeypatch.setattr("voxweft.processor.features", lambda: frozenset({"avx2"}))
    shutil.copytree(work / f"{precision}.zarr", tmp_path / "o.zarr")
    shutil.copytree(work / f"{precision}.zarr.voxweft", tmp_path / "o.zarr.voxweft")
    source, model = str(work / "in.zarr"), str(_model(shared))
    with pytest.raises(PlanMismatchError, match=f"runs in {precision}, and this processor has no instructions for"):
        package.run(source, str(tmp_path / "o.zarr"), model, _options(precision))
    with pytest.raises(ModelError, match=f"--precision {precision}: this processor has no instructions for"):
        package.run(source, str(tmp_path / "new.zarr"), model, _options(precision))
    assert not (tmp_path / "new.zarr").exists()


@pytest.mark.parametrize("state", ["is gone", "is damaged"])
def test_a_network_of_the_plan_that_is_lost(work: Path, tmp_path: Path, state: str) -> None:
    shutil.copytree(work / "int8.zarr.voxweft", tmp_path / "o.zarr.voxweft")
    network = _network(tmp_path / "o.zarr")
    network.unlink() if state == "is gone" else network.write_bytes(b"?" + network.read_bytes())
    with pytest.raises(RequestError, match=state):
        repeat(str(tmp_path / "o.zarr.voxweft" / "plan.json"), str(tmp_path / "new.zarr"))
    assert not list(tmp_path.glob("new*"))


def test_bad_requests(voxweft: Voxweft, work: Path, tmp_path: Path) -> None:
    for flags, said in (
        (["--tolerance", "-0.1"], "--tolerance -0.1 is no share"),
        (["--tolerance", "1.5"], "--tolerance 1.5 is no share"),
        (["--precision", "int8", "--runtime", "torch"], "--precision int8 is not offered for --runtime torch"),
        (["--precision", "int4"], "--precision 'int4' is unknown"),
    ):
        done = voxweft("run", work / "in.zarr", "new.zarr", "--model", "demo", *flags, code=2)
        assert said in done.stderr and len(done.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("new*"))


def test_a_cache_that_cannot_be_used_costs_nothing_but_time(
    voxweft: Voxweft, work: Path, tmp_path: Path, shared: Path
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--model", _model(shared), "--precision", "bf16", "--chunk", "32,64,64", "--no-pyramid", "--tolerance", 1]
    voxweft("run", work / "in.zarr", "o.zarr", *flags, VOXWEFT_CACHE=str(tmp_path / "file"))
    assert np.array_equal(*(zarr.open_array(f"{path}/0")[:] for path in (tmp_path / "o.zarr", work / "bf16.zarr")))
