"""Defects of 0.1.0 that must not come back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

import voxweft as package
from conftest import Voxweft
from voxweft.apps import scroll
from voxweft.apps.scroll.options import ClassOptions, NetworkOptions, PartOptions, PipelineOptions, SourceOptions
from voxweft.engine.events import Event

NULL = "fake://null?patch=16,16,16"
FAST = ("--chunk", "16,32,32", "--runtime", "torch")


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return tmp_path / "in.zarr"


def values(place: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(str(place / "0"), mode="r")[:])


def test_a_model_is_not_changed_by_what_uses_it(tmp_path: Path, volume: Any) -> None:
    model = package.load_model("fake://blur?patch=16,16,16&normalization=global_zscore")
    card = model.card
    package.run(str(volume), str(tmp_path / "a.zarr"), model)
    network = NetworkOptions(disable_tta=True, runtime="torch")
    options = (SourceOptions(), network, ClassOptions(), PipelineOptions(), PartOptions())
    scroll.pipeline(str(volume), str(tmp_path / "s.zarr"), model, options)
    package.run(str(volume), str(tmp_path / "b.zarr"), model)
    assert model.card == card
    assert np.array_equal(values(tmp_path / "a.zarr"), values(tmp_path / "b.zarr"))
    assert not np.array_equal(values(tmp_path / "a.zarr"), values(tmp_path / "s.zarr"))  # by case, and by patch


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalization", "instance_zscore"),
        ("activation", "sigmoid"),
        ("class_names", ["a", "c"]),
        ("spacing", [2, 1, 1]),
    ],
)
def test_parts_with_another_card_are_refused(
    voxweft: Voxweft, tmp_path: Path, volume: Any, key: Any, value: Any
) -> None:
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Conv3d(1, 2, 1)).save(str(tmp_path / "net.pt"))
    said = {"patch_size": [16, 16, 16], "normalization": "none", "class_names": ["a", "b"], "num_classes": 2}
    (tmp_path / "net.json").write_text(json.dumps(said))
    words = ("run", volume, "o.zarr", "--model", "net.pt", "--mode", "multiclass", *FAST, "--num-parts", 3, "--part-id")
    voxweft(*words, 0)
    (tmp_path / "net.json").write_text(json.dumps(said | {key: value}))
    assert key in voxweft(*words, 1, code=2).stderr
    assert key in voxweft("run", "--plan", "o.zarr", "again.zarr", code=2).stderr
    assert not (tmp_path / "again.zarr").exists()
    (tmp_path / "net.json").write_text(json.dumps(said))
    voxweft(*words, 1)
    voxweft(*words, 2)
    voxweft("verify", "o.zarr")


def test_parts_with_another_mask_are_refused(
    voxweft: Voxweft, tmp_path: Path, volume: Any, image: NDArray[Any]
) -> None:
    mask = zarr.create_array(str(tmp_path / "m.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")
    mask[10:20] = 1
    words = ("run", volume, "o.zarr", "--model", NULL, *FAST, "--mask", "m.zarr", "--num-parts", 2, "--part-id")
    voxweft(*words, 0)
    mask[49, 60, 71] = 1
    assert "the voxels of m.zarr are not those" in voxweft(*words, 1, code=2).stderr
    assert "the mask at" in voxweft("run", "--plan", "o.zarr", "again.zarr", code=2).stderr
    assert not (tmp_path / "again.zarr").exists()


def test_a_plan_cannot_ask_for_trust(voxweft: Voxweft, tmp_path: Path, volume: Any) -> None:
    voxweft("run", volume, "o.zarr", "--model", NULL, *FAST)
    path = tmp_path / "o.zarr.voxweft/plan.json"
    plan = json.loads(path.read_text())
    plan["models"][0]["arguments"] = {"trust_code": True}
    path.write_text(json.dumps(plan))
    assert "--trust-code" in voxweft("run", "--plan", "o.zarr", "again.zarr", code=2).stderr
    assert not (tmp_path / "again.zarr").exists()


def test_a_folder_does_not_hide_a_bundled_model(voxweft: Voxweft, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert "nnU-Net" in voxweft("info", "demo").stdout
    told = voxweft("demo", "demo", "--size", 64).stdout
    assert "Dice" in told


@pytest.mark.parametrize("staged", [False, True])
def test_the_scroll_pipeline_takes_an_array(tmp_path: Path, image: NDArray[Any], staged: Any) -> None:
    network = NetworkOptions(disable_tta=True, runtime="torch")
    how = PipelineOptions(staged=staged, num_workers=1)
    options = (SourceOptions(), network, ClassOptions(hard=True, threshold=0.7), how, PartOptions())
    done = scroll.pipeline(image, str(tmp_path / "o.zarr"), NULL, options)
    assert done.status == "complete"
    assert set(np.unique(values(tmp_path / "o.zarr"))) == {0, 255}
    stored = json.loads((tmp_path / "o.zarr.voxweft/plan.json").read_text())
    assert stored["request"]["options"]["threshold"] == 0.7


def test_another_table_of_volumes_is_another_request(voxweft: Voxweft, tmp_path: Path, volume: Any) -> None:
    shutil.copytree(volume, tmp_path / "copy.zarr")
    words = (
        "predict",
        "-m",
        NULL,
        "--input-format",
        "volume",
        "--scroll-id",
        "1",
        "--volumes",
        "t.toml",
        "--disable-tta",
    )
    words = (*words, "--output-dir", "p", "--num-parts", 2, "--part-id")
    table = tmp_path / "t.toml"
    table.write_text(f'[[volume]]\nscroll = "1"\nurl = "{volume}"\n')
    voxweft(*words, 0)
    table.write_text(f'[[volume]]\nscroll = "1"\nurl = "{tmp_path / "copy.zarr"}"\n')
    assert "listed_volume" in voxweft(*words, 1, code=2).stderr


def test_a_power_cut_loses_no_unit_that_the_ledger_has(
    tmp_path: Path, volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that forgets what was not synced: records survive, whatever they speak of must have survived too."""
    output, synced = tmp_path / "o.zarr", set[str]()
    forward = os.fsync

    def fsync(handle: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{handle}").readlink()))
        forward(handle)

    class PowerCutError(Exception):
        pass

    def cut(event: Event) -> None:
        if event.kind == "unit" and event.data["unit"] == 1:
            raise PowerCutError

    options = package.RunOptions(chunk="16,32,32", runtime="torch")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PowerCutError):
        package.run(str(volume), str(output), NULL, options, emit=cut)
    files = [p for p in output.rglob("*") if p.is_file()]
    assert any("/c/" in str(p) for p in files)
    for path in files:
        named = all(str(p) in synced for p in (*path.parents,) if output.parent in (p, *p.parents))
        if str(path) not in synced or not named:
            path.unlink()
    with pytest.raises(package.VoxweftError) as told:
        package.verify(str(output))
    assert "missing" in str(told.value)
    assert "not what was written" not in str(told.value)
    package.run(str(volume), str(output), NULL, options)
    package.run(str(volume), str(tmp_path / "whole.zarr"), NULL, options)
    assert np.array_equal(values(output), values(tmp_path / "whole.zarr"))
