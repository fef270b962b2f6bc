"""Several tasks through the stages of the scroll pipeline: a channel each, as in one sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import zarr

from headnets import WHOLE, DictNet, torchscript
from voxweft.apps import scroll
from voxweft.apps.scroll.options import ClassOptions, NetworkOptions, PartOptions, PipelineOptions, SourceOptions


def test_stages_keep_the_tasks_of_a_network(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 16, (20, 24, 26)).astype(np.uint8)
    said = {"patch_size": [8, 8, 8], "heads": WHOLE, "normalization": "none"}
    model = torchscript(tmp_path / "net.pt", DictNet(scale=1), **said)
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(8, 16, 16), dtype="uint8")[:] = image
    found = []
    for staged in (False, True):
        how = PipelineOptions(staged=staged, num_workers=1, keep_intermediates=True, workdir=str(tmp_path / "work"))
        network = NetworkOptions(disable_tta=True, runtime="torch")
        options = (SourceOptions(), network, ClassOptions(), how, PartOptions())
        output = tmp_path / f"{staged}.zarr"
        assert scroll.pipeline(str(tmp_path / "in.zarr"), str(output), str(model), options).status == "complete"
        found.append(np.asarray(zarr.open_array(str(output / "0"), mode="r")[:]))
    assert found[0].shape == (2, *image.shape)
    assert np.abs(found[0].astype(int) - found[1]).max() <= 1
    assert len(np.unique(found[0][0])) > 5
    merged = [json.loads(p.read_text()) for p in Path(tmp_path / "work").rglob(".zattrs")]
    tasks = {"cell": {"start_channel": 0, "end_channel": 2}, "edge": {"start_channel": 2, "end_channel": 3}}
    assert [m["target_info"] for m in merged if "target_info" in m]
    assert all(m["target_info"] == tasks for m in merged if "target_info" in m)
