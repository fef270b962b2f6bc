"""Centres, grouping, medians, matching and consensus, compared with what empanada-napari 1.2.4 gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxweft
from slicestacks import group_all, overlaps_of, pieces_of, same_objects
from voxweft.apps import panoptic
from voxweft.apps.panoptic.options import ConsensusJob, MatchJob
from voxweft.apps.panoptic.slices import SliceRules, objects_of, probabilities
from voxweft.ops.centres import find_centres
from voxweft.ops.consensus import Votes, consensus
from voxweft.ops.matching import Rules, track_backward, track_forward
from voxweft.ops.median import RunningMedian
from voxweft.ops.merging import merge_instances, split_connected

pytest.importorskip("cc3d")


@pytest.fixture(scope="module")
def golden(shared: Path) -> Any:
    def load(name: str) -> Any:
        return np.load(shared / "golden" / "panoptic" / f"{name}.npz")

    return load


def test_a_slice(golden: Any) -> None:
    case = golden("case1_postprocess2d")
    for name in case.files:
        if name.startswith("centers"):
            _, heat, threshold, kernel = name.split("_")
            found = find_centres(case[f"ctr_{heat}"], float(threshold[3:]), int(kernel[1:]))
            assert np.array_equal(found, case[name]), name
    coarse = group_all(case["off_quarter"], case["centers_quarter_thr0.1_k3"], 4)
    fine = group_all(case["off_full"], case["centers_full_thr0.1_k3"])
    for up, cells in ((1, coarse.repeat(4, 0).repeat(4, 1)), (2, coarse.repeat(8, 0).repeat(8, 1))):
        assert np.array_equal(cells, case[f"cells_coarse_up{up}"])
        assert np.array_equal(fine.repeat(up, 0).repeat(up, 1), case[f"cells_fine_up{up}"])
    semantic = (probabilities(case["sem_logits"][None])[0] >= 0.5).astype(np.uint8)
    things = semantic == 1
    for name, cells in (("coarse", coarse.repeat(4, 0).repeat(4, 1)), ("fine", fine)):
        made = merge_instances(semantic, things, cells[things], 1000)
        assert np.array_equal(made, case[f"pan_{name}_thr0.5"])
    assert np.array_equal(merge_instances(semantic, things, fine[things], 0), case["pan_fine_label_divisor0"])
    nothing = np.zeros(0, np.int64)
    assert np.array_equal(
        merge_instances(semantic, np.zeros_like(things), nothing, 1000), case["pan_semantic_only_ld1000"]
    )


def test_the_whole_of_a_slice(golden: Any) -> None:
    case = golden("case1_postprocess2d")
    semantic = (probabilities(case["sem_logits"][None])[0] >= 0.5).astype(np.uint8)
    rules = SliceRules(things=(1,), fine=True, distance=7)
    codes = objects_of(semantic, case["ctr_full"], case["off_full"], rules)
    wanted = split_connected(case["pan_get_panoptic_segmentation_full_k7"][0].astype(np.int64), [1], 1000)
    assert np.array_equal(np.where(codes > 0, codes & 0xFFFFFF, 0), wanted % 1000)


def test_the_recursive_median_and_no_slice_is_lost(golden: Any) -> None:
    case = golden("case3_median_queue")
    for name in [n[3:] for n in case.files if n.startswith("in_")]:
        slices = case[f"in_{name}"]
        median = RunningMedian(int(name.split("_k")[1]), "recursive", 0, len(slices))
        found = [one for values in slices for one in median.push(values)]
        assert [z for z, _ in found] == list(range(len(slices)))
        for z, wanted in zip(case[f"outidx_{name}"], case[f"out_{name}"], strict=True):
            assert np.array_equal(found[z][1], wanted), (name, z)


def tracked(slices: Any, divisor: int) -> tuple[Any, Any]:
    """Slices with the labels of both ways."""
    pieces, values = pieces_of(slices)
    pieces = replace(pieces, number=values % divisor)
    overlaps = overlaps_of(slices, pieces, values)
    forward = track_forward(pieces, overlaps, Rules())
    made = []
    for labels in (forward, track_backward(pieces, overlaps, forward, Rules())):
        painted = np.zeros_like(slices)
        for z in range(len(slices)):
            for k in range(pieces.first[z], pieces.first[z + 1]):
                painted[z][slices[z] == values[k]] = divisor + labels[k]
        made.append(painted)
    return made[0], made[1]


def test_matching_of_a_stack(golden: Any) -> None:
    case = golden("case4_stack_xy")
    slices = np.stack([split_connected(one.astype(np.int64), [1], 10000) for one in case["pan_slices"]])
    forward, backward = tracked(slices, 10000)
    assert np.array_equal(forward, case["forward"])
    assert np.array_equal(backward, case["backward"])


def test_matching_of_odd_sequences(golden: Any) -> None:
    case = golden("case7_matching_quirks")
    for name in [n.removesuffix("__in") for n in case.files if n.endswith("__in")]:
        forward, backward = tracked(case[f"{name}__in"].astype(np.int64), 1000)
        assert np.array_equal(forward, case[f"{name}__forward"]), name
        assert np.array_equal(backward, case[f"{name}__backward"]), name


def test_consensus_of_odd_stacks(golden: Any) -> None:
    case = golden("case8_consensus_quirks")
    for name in [n.removesuffix("__stacks") for n in case.files if n.endswith("__stacks")]:
        stacks = case[f"{name}__stacks"].reshape(3, -1).T.astype(np.int64)
        rows, index, voxels = np.unique(stacks, axis=0, return_inverse=True, return_counts=True)
        inside = rows.any(axis=1)
        for voxel in (1, 2, 3):
            for one_view in (0, 1):
                made = np.zeros(len(rows), np.int64)
                made[inside] = consensus(rows[inside], voxels[inside], Votes(voxel, 0.75, bool(one_view)))
                assert same_objects(made[index], case[f"{name}__v{voxel}b{one_view}"]), (name, voxel, one_view)


def test_the_commands_of_the_last_steps(golden: Any) -> None:
    """``match`` and ``consensus``, as a user calls them."""
    case = golden("case4_stack_xy")
    sink = voxweft.open_sink("memory://")
    options = MatchJob(max_objects_per_class=10000, min_size=0, min_extent=0, chunk="16,64,64")
    panoptic.match(case["pan_slices"], sink, options)
    found = sink.read(voxweft.Box.of(case["pan_slices"].shape))[0]
    assert same_objects(found, case["backward"])
    case = golden("case8_consensus_quirks")
    for name in ("one_merges_two", "two_merge_one_splits", "shifted"):
        sink = voxweft.open_sink("memory://")
        votes = ConsensusJob(min_size=0, min_extent=0, max_objects_per_class=1000, chunk="16,16,32")
        panoptic.consensus(list(case[f"{name}__stacks"]), sink, votes)
        assert same_objects(sink.read(voxweft.Box.of((24, 40, 40)))[0], case[f"{name}__v2b0"]), name
