"""`voxweft run --output logits` against what the scroll reference put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import Voxweft

CASES = {
    "c2_vol48_notta": ("vol48", ["--normalization", "instance_zscore"]),
    "c2_vol48_mirror": ("vol48", ["--normalization", "instance_zscore", "--tta", "mirroring"]),
    "c2_vol48_rot": ("vol48", ["--normalization", "instance_zscore", "--tta", "rotation"]),
    "c2_vol48_none": ("vol48", ["--normalization", "none"]),
    "c2_vol_odd_1part": ("vol_odd", ["--normalization", "instance_zscore"]),
}


def blend(parts: Path, shape: tuple[int, ...], window: np.ndarray) -> np.ndarray:
    """sum(w l) / sum(w) in float64 of the reference's own patches."""
    logits = zarr.open(str(parts / "logits_part_0.zarr"), mode="r")[:].astype(np.float64)
    starts = zarr.open(str(parts / "coordinates_part_0.zarr"), mode="r")[:]
    total, weight = np.zeros((logits.shape[1], *shape)), np.zeros(shape)
    for patch, start in zip(logits, starts, strict=True):
        where = tuple(slice(a, a + n) for a, n in zip(start, window.shape, strict=True))
        total[(slice(None), *where)] += patch * window
        weight[where] += window
    return total / weight


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_reference(shared: Path, voxweft: Voxweft, tmp_path: Path, case: Any) -> None:
    name, flags = CASES[case]
    golden = shared / "golden" / "scroll"
    volume = golden / "input" / f"{name}.zarr"
    voxweft(
        "run", volume, "o.zarr", "--model", golden / "model_c2_p32", "--output", "logits", "--runtime", "torch", *flags
    )
    found = zarr.open(str(tmp_path / "o.zarr" / "0"), mode="r")[:]
    assert np.isfinite(found).all()
    window = np.load(golden / "gaussian" / "map_32x32x32_s8.npy").astype(np.float64)
    compared = 0
    if (golden / case / "parts" / "logits_part_0.zarr").exists():
        wanted = blend(golden / case / "parts", found.shape[1:], window)
        assert np.abs(found - wanted).max() <= 0.01
        compared += 1
    if (golden / case / "merged.zarr").exists():
        merged = zarr.open(str(golden / case / "merged.zarr"), mode="r")[:].astype(np.float32)
        weight = _weight(golden / case, found.shape[1:], window)
        trusted = weight >= 1e-6
        merged *= (weight + 1e-8) / weight  # the reference divides by sum(w) + 1e-8: up to 1 % off where both are small
        assert np.abs(found - merged)[:, trusted].max() <= 0.01
        final = zarr.open(str(golden / case / "final_prob.zarr"), mode="r")[0].astype(int)
        like = found.astype(np.float64) * (weight / (weight + 1e-8))
        p = 1 / (1 + np.exp(like[0] - like[1]))  # the reference also stretches each 32^3 chunk to 0..255
        assert np.abs(stretched(p) - final).max() <= 2
        sure = trusted & (np.abs(found[1] - found[0]) > 0.01)
        above = zarr.open(str(golden / case / "final_thr.zarr"), mode="r")[0] > 0
        assert (above == (found[1] > found[0]))[sure].all()
        compared += 1
    assert compared


def stretched(p: np.ndarray, chunk: int = 32) -> np.ndarray:
    """Each chunk from its minimum to its maximum on 0..255, truncated."""
    out = np.empty(p.shape, int)
    for corner in np.ndindex(*(-(-n // chunk) for n in p.shape)):
        where = tuple(slice(i * chunk, (i + 1) * chunk) for i in corner)
        low, high = p[where].min(), p[where].max()
        out[where] = np.floor((p[where] - low) / (high - low) * 255)
    return out


def _weight(case: Path, shape: tuple[int, ...], window: np.ndarray) -> np.ndarray:
    """sum(w) at every voxel, from the reference's coordinates."""
    weight = np.zeros(shape)
    for start in zarr.open(str(case / "parts" / "coordinates_part_0.zarr"), mode="r")[:]:
        weight[tuple(slice(a, a + n) for a, n in zip(start, window.shape, strict=True))] += window
    return weight


def test_positions_of_odd_sizes(shared: Path) -> None:
    from voxweft.geometry.tiling import TileGrid

    stored = zarr.open(str(shared / "golden/scroll/c2_vol_odd_1part/parts/coordinates_part_0.zarr"), mode="r")[:]
    grid = TileGrid.of((75, 90, 61), (32, 32, 32), 0.5, "spread")
    found = [
        grid.tile((z, y, x)).box.start
        for z in range(grid.axes[0].count)
        for y in range(grid.axes[1].count)
        for x in range(grid.axes[2].count)
    ]
    assert sorted(found) == sorted(map(tuple, stored.tolist()))
