"""A sweep that is stopped within a slab goes on from what was kept, with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from voxweft.engine import checkpoint

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
