"""The networks for ink: sizes from shapes, and every way to compile them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from inknets import SIZE, narrow_resnet, small_timesformer
from voxweft.errors import ModelError
from voxweft.nets.resnet3d import BLOCKS, ResNet3dSize
from voxweft.nets.timesformer import TimeSformerSize


def test_shapes_tell_the_sizes_of_a_timesformer() -> None:
    state = small_timesformer().state_dict()
    assert TimeSformerSize.of(state, {"image_size": 32, "num_frames": 5}) == SIZE
    assert TimeSformerSize.of(state, {"image_size": 64, "num_frames": 7, "dim_head": 64}).heads == 2


@pytest.mark.parametrize("told", [{"num_frames": 5}, {"image_size": 32}, {"image_size": 32, "num_frames": 5}])
def test_learned_positions_tell_frames_or_image(told: Any) -> None:
    network = small_timesformer(rotary_emb=False)
    assert TimeSformerSize.of(network.state_dict(), {**told, "dim_head": 8}) == network.size


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"image_size": 32}, "0 frames"),
        ({"image_size": 30, "num_frames": 5}, "30 x 30"),
        ({"image_size": 32, "num_frames": 5, "channels": 3}, "3 channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(told: Any, says: Any) -> None:
    with pytest.raises(ModelError, match=says):
        TimeSformerSize.of(small_timesformer().state_dict(), told)


def test_learned_positions_that_do_not_fit_are_refused() -> None:
    state = small_timesformer(rotary_emb=False).state_dict()
    with pytest.raises(ModelError, match="80 positions"):
        TimeSformerSize.of(state, {"num_frames": 7, "dim_head": 8})
    with pytest.raises(ModelError, match="heads of 64"):
        TimeSformerSize.of(state, {"num_frames": 5})
    with pytest.raises(ModelError, match=r"has no 'cls_token'"):
        TimeSformerSize.of({}, {})


def test_rotations_follow_the_loaded_frequencies() -> None:
    first, second = small_timesformer(), small_timesformer(1)
    first.frame_rot_emb.inv_freqs.mul_(0.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.frame_sin[1, 0], -torch.tensor(0.5).sin())
    assert not [k for k in first.state_dict() if "cos" in k or "order" in k]


@pytest.mark.parametrize("rotary", [True, False])
def test_timesformer_traces_and_exports(rotary: Any) -> None:
    network = small_timesformer(rotary_emb=rotary)
    video = torch.rand(3, 5, 1, 32, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(network, torch.zeros_like(video)))
        program = torch.export.export(network, (torch.zeros_like(video),)).module()
        for other in (traced, program):
            assert (other(video) - network(video)).abs().max() < 1e-5


def test_batches_are_independent() -> None:
    network, video = small_timesformer(), torch.rand(3, 5, 1, 32, 32)
    with torch.no_grad():
        assert (network(video)[1:2] - network(video[1:2])).abs().max() < 1e-5


@pytest.mark.parametrize("depth", BLOCKS)
def test_shapes_tell_the_sizes_of_a_resnet(depth: Any) -> None:
    network = narrow_resnet(depth, depth == 50, divisor=32)
    assert ResNet3dSize.of(network.state_dict()) == network.size
    assert len(network.backbone.layer3) == BLOCKS[depth][2]


def test_another_number_of_blocks_is_refused() -> None:
    state = {k: v for k, v in narrow_resnet().state_dict().items() if not k.startswith("backbone.layer4.2")}
    with pytest.raises(ModelError, match="3, 4, 6, 2 blocks"):
        ResNet3dSize.of(state)
