"""A sweep that is stopped within a slab goes on from what was kept, with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from voxweft.engine import checkpoint
from voxweft.errors import WriteError
from voxweft.stores.ome_zarr import OmeZarrSink

MODEL = "fake://blur?patch=24,24,24"


class _StopError(Exception):
    """As if somebody had pulled the plug."""


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tta": "mirroring", "tta_of": "volume"},
        {"output": "labels", "chunk": "16,32,32"},
        {"chunk": "32,64,64", "uncertainty": "entropy", "bbox": "10:45,5:48,0:52"},
    ],
    ids=["plain", "passes", "slabs", "beside"],
)
def test_a_stop_within_a_slab_changes_no_bit(more: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 48, 52), np.uint8)
    image[:, :30, :30] = 7  # patches that are skipped
    options = voxweft.RunOptions(pyramid=False, runtime="torch", accept_labels=True, **more)
    zarr.save_array(tmp_path / "in.zarr", image)

    def run(name: str, every: str) -> voxweft.Report:
        execution = voxweft.Execution(checkpoint_every=every)
        return voxweft.run(str(tmp_path / "in.zarr"), str(tmp_path / name), MODEL, options, execution=execution)

    whole, keep, n_kept = run("whole.zarr", "0s"), checkpoint.Checkpoints._keep, 0

    def stops(self: Any, *state: Any) -> None:
        nonlocal n_kept
        n_kept += 1
        if n_kept in (17, 18):
            keep(self, *state)
            raise _StopError

    monkeypatch.setattr(checkpoint.Checkpoints, "_keep", stops)
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    for _ in range(2):
        with pytest.raises(_StopError):
            run("o.zarr", "0.000001s")
    done = run("o.zarr", "0.000001s")
    assert done.totals["n_patches"] < whole.totals["n_patches"]
    for store in tmp_path.glob("whole*.zarr"):
        other = tmp_path / store.name.replace("whole", "o")
        np.testing.assert_array_equal(zarr.open(store)["0"][:], zarr.open(other)["0"][:])
    left = [p for p in (tmp_path / "o.zarr.voxweft/checkpoints").rglob("*") if p.is_file()]
    assert not left


def _stopped(run: Any, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Stop a run when something has been kept so many times."""
    keep, n_kept = checkpoint.Checkpoints._keep, 0

    def stops(self: Any, *state: Any) -> None:
        nonlocal n_kept
        keep(self, *state)
        n_kept += 1
        if n_kept == after:
            raise _StopError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "SHARE", 0)
        patch.setattr(checkpoint.Checkpoints, "_keep", stops)
        with pytest.raises(_StopError):
            run()


@pytest.fixture
def image(tmp_path: Path) -> str:
    image = np.random.default_rng(0).integers(0, 255, (60, 40, 40), np.uint8)
    zarr.save_array(tmp_path / "in.zarr", image)
    return str(tmp_path / "in.zarr")


def _run(image: str, target: Path, **more: Any) -> voxweft.Report:
    fixed: Any = {"pyramid": False, "runtime": "torch", "chunk": "16,32,32", "accept_labels": True}
    return voxweft.run(image, str(target), MODEL, **(fixed | {"checkpoint_every": "0.000001s"} | more))


def test_what_another_part_kept_is_of_use_and_goes_when_all_is_done(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(image, tmp_path / "whole.zarr")
    target = tmp_path / "o.zarr"
    _stopped(lambda: _run(image, target, num_parts=2, part_id=1), monkeypatch, 20)
    kept = list((target.parent / "o.zarr.voxweft/checkpoints/sweep").glob("0*[0-9]"))
    assert kept
    assert all(not unit.name.startswith("000000") for unit in kept)  # in the middle of what a run without parts does
    done = _run(image, target)
    assert done.totals["n_patches"] < whole.totals["n_patches"]
    np.testing.assert_array_equal(zarr.open(target)["0"][:], zarr.open(tmp_path / "whole.zarr")["0"][:])
    assert not [p for p in (tmp_path / "o.zarr.voxweft").rglob("checkpoints/*/*") if p.is_file()]


def test_what_was_kept_for_another_plan_is_left_alone(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "o.zarr"
    _stopped(lambda: _run(image, target, normalization="instance_zscore"), monkeypatch, 5)
    kept = target.parent / "o.zarr.voxweft/checkpoints"
    kept.rename(tmp_path / "late")
    _run(image, target, normalization="instance_minmax", overwrite=True, prepare=True)
    (tmp_path / "late").rename(kept)  # as a worker of the earlier plan would write it, when it is late
    _run(image, target, normalization="instance_minmax")
    _run(image, tmp_path / "whole.zarr", normalization="instance_minmax")
    np.testing.assert_array_equal(zarr.open(target)["0"][:], zarr.open(tmp_path / "whole.zarr")["0"][:])


def test_a_slab_that_cannot_be_written_is_not_computed_again(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, target = _run(image, tmp_path / "whole.zarr"), tmp_path / "o.zarr"

    def fails(*_: Any) -> None:
        raise WriteError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "SHARE", 0)
        patch.setattr(OmeZarrSink, "write", fails)
        with pytest.raises(WriteError):
            _run(image, target)
    done = _run(image, target)
    assert done.totals["n_patches"] < whole.totals["n_patches"]
    np.testing.assert_array_equal(zarr.open(target)["0"][:], zarr.open(tmp_path / "whole.zarr")["0"][:])
