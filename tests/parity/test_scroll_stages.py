"""The stages of the scroll pipeline against the files that the reference wrote, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from voxweft.apps.scroll import blend, finalize, pipeline, predict
from voxweft.apps.scroll.options import (
    COMPAT,
    BlendOptions,
    ClassOptions,
    FinalizeOptions,
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    PipelineOptions,
    SourceOptions,
)
from voxweft.stores.patches import ZarrPatches

STAGED = ["c2_vol48_notta", "c2_vol48_mirror", "c2_vol48_rot", "syn_c1", "syn_c2", "syn_multitask", "syn_corner128"]
NETWORK = {
    "c2_vol48_notta": {"disable_tta": True},
    "c2_vol48_mirror": {"tta_type": "mirroring"},
    "c2_vol48_rot": {},
    "c2_vol48_none": {"disable_tta": True, "normalization": "none"},
    "c2_vol_odd_1part": {"disable_tta": True},
    "c2_vol48_ov025": {"disable_tta": True, "overlap": 0.25, "compat": COMPAT},
}


def array(path: Any) -> Any:
    """[C, Z, Y, X] of a plain array or of the finest level of a group."""
    node = zarr.open(str(path), mode="r")
    values = (node["0"] if isinstance(node, zarr.Group) else node)[:]
    return values if values.ndim == 4 else values[np.newaxis]


@pytest.mark.parametrize("case", STAGED)
def test_compat_gives_the_very_bits(shared: Path, tmp_path: Path, case: Any) -> None:
    golden = shared / "golden/scroll" / case
    blend(str(golden / "parts"), str(tmp_path / "merged.zarr"), BlendOptions(compat=COMPAT))
    assert np.array_equal(array(tmp_path / "merged.zarr"), array(golden / "merged.zarr"))
    for name, threshold in (("final_prob", False), ("final_thr", True)):
        if (golden / f"{name}.zarr").exists():
            options = ClassOptions(hard=threshold), FinalizeOptions(compat=COMPAT)
            finalize(str(golden / "merged.zarr"), str(tmp_path / f"{name}.zarr"), options)
            assert np.array_equal(array(tmp_path / f"{name}.zarr"), array(golden / f"{name}.zarr"))


@pytest.mark.parametrize("case", STAGED)
def test_the_final_scale_is_fixed(shared: Path, tmp_path: Path, case: Any) -> None:
    golden = shared / "golden/scroll" / case
    finalize(str(golden / "merged.zarr"), str(tmp_path / "final.zarr"))
    logits = array(golden / "merged.zarr").astype(np.float64)
    pairs = [logits[a : a + 2] for a in range(0, len(logits), 2)]
    foreground = np.stack([pair[1] - pair[0] if len(pair) == 2 else pair[0] for pair in pairs])
    wanted = np.floor(255 / (1 + np.exp(-foreground)))
    covered = logits.any(axis=0)
    found = array(tmp_path / "final.zarr").astype(int)
    assert np.abs(found - wanted)[:, covered].max() <= 1
    assert not found[:, ~covered].any()


@pytest.mark.parametrize("case", NETWORK)
def test_predict_writes_the_parts_of_the_reference(shared: Path, tmp_path: Path, case: Any) -> None:
    golden = shared / "golden/scroll" / case / "parts"
    source = shared / "golden/scroll/input" / ("vol_odd.zarr" if "odd" in case else "vol48.zarr")
    model = shared / "golden/scroll/model_c2_p32"
    network = NetworkOptions(**NETWORK[case])
    predict(str(source), str(tmp_path), str(model), (SourceOptions(), network, PatchStoreOptions()))
    mine = ZarrPatches.open(str(tmp_path), 0)
    starts = zarr.open(str(golden / "coordinates_part_0.zarr"), mode="r")[:]
    assert np.array_equal(mine.starts, starts)
    if (golden / "logits_part_0.zarr").exists():
        theirs = ZarrPatches.open(str(golden), 0)
        for index in range(len(starts)):
            one, other = mine.read(index), theirs.read(index)
            assert (one is None) == (other is None)
            if one is not None:
                assert np.abs(one.astype(np.float32) - other).max() <= 0.005
        missing = {k: v for k, v in theirs.attributes.items() if mine.attributes.get(k) != v}
        assert not missing


@pytest.mark.parametrize(
    ("tta", "name", "threshold"),
    [("mirroring", "vol48", False), ("rotation", "vol_odd", True), ("none", "vol_odd", False)],
)
def test_fused_and_staged_agree_and_parts_change_no_bit(
    shared: Path, tmp_path: Path, tta: Any, name: Any, threshold: Any
) -> None:
    source = str(shared / f"golden/scroll/input/{name}.zarr")
    model = str(shared / "golden/scroll/model_c2_p32")
    network = NetworkOptions(**({"disable_tta": True} if tta == "none" else {"tta_type": tta}), runtime="torch")
    classes = ClassOptions(hard=threshold)
    fused = tmp_path / "fused.zarr"
    pipeline(source, str(fused), model, (SourceOptions(), network, classes, PipelineOptions(), PartOptions()))
    results = []
    for counts in ((1, 1, 1), (5, 3, 2))[: 1 if tta == "rotation" else 2]:  # 24 views take long
        work = tmp_path / str(counts[0])
        parts, merged, final = (str(work / name) for name in ("parts", "merged.zarr", "final.zarr"))
        for part in reversed(range(counts[0])):
            predict(
                source,
                parts,
                model,
                (SourceOptions(), network, PatchStoreOptions()),
                part=PartOptions(counts[0], part),
            )
        for part in reversed(range(counts[1])):
            blend(parts, merged, part=PartOptions(counts[1], part))
        for part in reversed(range(counts[2])):
            finalize(merged, final, (classes, FinalizeOptions()), part=PartOptions(counts[2], part))
        results.append((array(merged), array(final)))
    assert all(np.array_equal(one, other) for pair in results for one, other in zip(pair, results[0], strict=True))
    off = np.abs(array(fused).astype(int) - results[0][1])
    assert (off > 1).mean() < 1e-3 if threshold else off.max() <= 1
