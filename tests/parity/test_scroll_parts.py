"""Blending the parts that the scroll reference wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engines import computed
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import VOLUME, InputRef, PatchesRef
from voxweft.engine.planning import make_plan
from voxweft.engine.stored import StoredLogits
from voxweft.image.info import VolumeInfo
from voxweft.model import ModelCard
from voxweft.stores.patches import ZarrPatches

CASES = ["c2_vol48_notta", "c2_vol48_mirror", "c2_vol48_rot", "syn_c1", "syn_c2", "syn_corner128"]


def woven(parts: ZarrPatches) -> np.ndarray:
    shape = tuple(parts.attributes["original_volume_shape"])
    card = ModelCard("stored", "stored logits", "", parts.patch_zyx, n_classes=parts.n_classes, activation="sigmoid")
    options = RunOptions(output="logits", overlap=parts.attributes["overlap"], chunk="32", pyramid=False)
    plan = make_plan(VolumeInfo("stored", "stored logits", shape, "float16"), card, options)
    stage = plan.sweep
    plan = replace(plan, inputs=(InputRef(VOLUME, PatchesRef("", stage.grid, stage.region)),))
    return computed(plan, patches=StoredLogits([parts], stage.grid))[0]


@pytest.mark.parametrize("case", CASES)
def test_the_blend_is_exact(shared: Path, case: Any) -> None:
    folder = shared / "golden/scroll" / case / "parts"
    parts = ZarrPatches.open(str(folder), 0)
    found = woven(parts)
    grid = np.indices(parts.patch_zyx)
    centre = [p // 2 for p in parts.patch_zyx]
    window = np.exp(-0.5 * sum(((g - c) / (p / 8)) ** 2 for g, c, p in zip(grid, centre, parts.patch_zyx, strict=True)))
    total, weight = np.zeros(found.shape), np.zeros(found.shape[1:])
    for index, start in enumerate(parts.starts.tolist()):
        logits = parts.read(index)
        if logits is None:
            continue
        where = tuple(slice(a, a + p) for a, p in zip(start, parts.patch_zyx, strict=True))
        total[(slice(None), *where)] += logits.astype(np.float64) * window
        weight[where] += window
    ran = weight > 0
    assert np.abs(found - total / np.where(ran, weight, 1))[:, ran].max() <= 0.006
    merged = zarr.open(str(folder.parent / "merged.zarr"), mode="r")[:].astype(np.float32)
    assert np.abs(found - merged)[:, weight > 1e-4].max() <= 0.01


def test_a_corner_keeps_its_logit(shared: Path) -> None:
    """The reference divides by the sum of weights + 1e-8 and lets the corner drift to -0.075."""
    parts = ZarrPatches.open(str(shared / "golden/scroll/syn_corner128/parts"), 0)
    assert np.abs(woven(parts) + 20).max() < 1e-4


def test_what_voxweft_writes_has_the_layout_of_the_reference(shared: Path, tmp_path: Path) -> None:
    theirs = shared / "golden/scroll/c2_vol48_notta/parts"
    reference = ZarrPatches.open(str(theirs), 0)
    written = ZarrPatches.create(
        str(tmp_path), 0, reference.starts, (reference.n_classes, reference.patch_zyx), reference.attributes
    )
    for index in range(len(reference.starts)):
        written.write(index, reference.read(index))
    for name in ("logits_part_0.zarr", "coordinates_part_0.zarr"):
        mine, other = (json.loads((folder / name / ".zarray").read_text()) for folder in (tmp_path, theirs))
        for key in ("shape", "chunks", "dtype", "zarr_format", "fill_value", "order"):
            assert mine[key] == other[key], key
        assert np.array_equal(zarr.open(str(tmp_path / name))[:], zarr.open(str(theirs / name), mode="r")[:])
        mine, other = (json.loads((folder / name / ".zattrs").read_text()) for folder in (tmp_path, theirs))
        assert other.items() <= mine.items()
