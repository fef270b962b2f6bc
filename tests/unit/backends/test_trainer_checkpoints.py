"""Checkpoints of vesuvius.train: layouts, weights, configurations of every age."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainernets import DISTANCE, INK, NORMALS, SURFACE, checkpoint, config, forward, legacy, weights
from voxweft import load_model
from voxweft.errors import ModelError, RequestError
from voxweft.model.card import SCHEMES
from voxweft.model.protocols import ForwardSetting

FLAT = {"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]], "patch_size": [16, 16]}


def logits(path: Path, x: torch.Tensor, **arguments: Any) -> torch.Tensor:
    patch = (x.shape[2], x.shape[3], x.shape[4])
    return load_model(path, **arguments).open(ForwardSetting("torch", "cpu", "fp32", len(x), patch))(x).double()


def wanted(made: dict[str, Any], state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    flat = len(made["strides"][0]) == 2
    found = torch.cat([*forward(made, state, x.squeeze(2) if flat else x).values()], 1)
    return found.unsqueeze(2) if flat else found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"basic_encoder_block": "ConvBlock", "n_conv_per_stage_decoder": [2, 1]},
        {"separate_decoders": False},
        {"targets": {"b": NORMALS | {"separate_decoder": True}, "a": INK, "c": SURFACE}, "separate_decoders": False},
        {
            "in_channels": 2,
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        },
        {"targets": {"a": INK, "c": SURFACE}, **FLAT},
    ],
    ids=["residual", "convolutions", "shared", "both", "anisotropic", "flat"],
)
def test_a_narrow_network_is_the_plain_one(tmp_path: Path, changes: Any) -> None:
    made = config() | changes
    x = torch.randn(
        (2, made["in_channels"], 1 if "kernel_sizes" in changes and len(made["strides"][0]) == 2 else 8, 16, 16)
    )
    path = checkpoint(tmp_path / "net.pth", made)
    assert torch.allclose(logits(path, x), wanted(made, weights(made), x), atol=2e-5)
    card = load_model(path).card
    assert [h.name for h in card.heads] == list(made["targets"])
    assert card.n_inputs == made["in_channels"]


def test_what_was_not_saved_is_chosen_as_the_trainer_does(tmp_path: Path) -> None:
    """Strides and kernels of an autoconfigured network, defaults of everything else."""
    chosen = {"kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]], "patch_size": [8, 16, 16]}
    whole = config(features_per_stage=[32, 64, 128], n_blocks_per_stage=[1, 3, 4], **chosen)
    bare = {"targets": whole["targets"], "patch_size": [8, 16, 16], "autoconfigure": True, "separate_decoders": True}
    x = torch.randn((1, 1, 8, 16, 16))
    torch.save({"model": weights(whole), "model_config": bare}, tmp_path / "net.pth")
    assert torch.allclose(logits(tmp_path / "net.pth", x), wanted(whole, weights(whole), x), atol=1e-4)


@pytest.mark.parametrize("upsampling", ["trilinear", "pixelshuffle"])
def test_other_ways_up(tmp_path: Path, upsampling: Any) -> None:
    made = config({"ink": INK}, upsample_mode=upsampling)
    state = {k: v for k, v in weights(made).items() if ".transpconvs." not in k}
    few = 1 if upsampling == "trilinear" else 8
    for n, (below, here) in enumerate(((8, 6), (6, 4))):
        state[f"task_decoders.ink.transpconvs.{n}.conv.weight"] = torch.randn(few * here, below, 1, 1, 1)
        state[f"task_decoders.ink.transpconvs.{n}.conv.bias"] = torch.randn(few * here)
    torch.save({"model": state, "model_config": made}, tmp_path / "net.pth")
    assert logits(tmp_path / "net.pth", torch.randn((1, 1, 8, 8, 8))).shape == (1, 1, 8, 8, 8)


def test_shuffled_voxels_lie_where_they_should(tmp_path: Path) -> None:
    from voxweft.nets.trainer_unet import Shuffled

    up = Shuffled(1, 2, (2, 2, 2), bias=False)
    with torch.no_grad():
        up.conv.weight.copy_(torch.arange(16.0).reshape(16, 1, 1, 1, 1))
    found = up(torch.ones(1, 1, 1, 1, 2)).detach()
    for c, z, y, x in np.ndindex(2, 2, 2, 4):
        assert found[0, c, z, y, x] == 8 * c + 4 * z + 2 * y + x % 2


def test_only_the_wanted_targets_are_computed(tmp_path: Path) -> None:
    made = config({"b": NORMALS, "a": INK, "c": SURFACE})
    path, x = checkpoint(tmp_path / "net.pth", made), torch.randn((1, 1, 16, 16, 16))
    parts = forward(made, weights(made), x)
    assert torch.allclose(logits(path, x, targets="c, b"), torch.cat([parts["b"], parts["c"]], 1), atol=2e-5)
    model = load_model(path, targets="a")
    assert (model.card.activation, model.card.n_classes, model.card.separate) == ("sigmoid", 1, False)
    assert model.ref.arguments == {"targets": "a"}
    with pytest.raises(RequestError, match=r"--targets 'x': .* has the targets b, a, c"):
        load_model(path, targets="a,x")


@pytest.mark.parametrize("validate", [True, False])
def test_older_files_and_averaged_weights(tmp_path: Path, validate: Any) -> None:
    made = config(separate_decoders=False)
    average = weights(made, seed=9)
    path, x = legacy(tmp_path / "net.pth", made, average, validate), torch.randn((1, 1, 16, 16, 16))
    assert torch.allclose(logits(path, x), wanted(made, average if validate else weights(made), x), atol=2e-5)
    card = load_model(path).card
    assert (card.normalization[0].scheme, card.patch_zyx) == ("instance_minmax", (16, 16, 16))
    assert any("ema_model" in note for note in card.notes) == validate


def test_what_wrappers_and_older_decoders_leave_in_names(tmp_path: Path) -> None:
    made, x = config(), torch.randn((1, 1, 16, 16, 16))
    state = {f"module._orig_mod.{k}": v for k, v in weights(made).items()}
    copies = {
        k.replace("shared_encoder", "task_decoders.surface.encoder"): v
        for k, v in state.items()
        if "shared_encoder" in k
    }
    torch.save({"model": state | copies, "model_config": made}, tmp_path / "net.pth")
    assert torch.allclose(logits(tmp_path / "net.pth", x), wanted(made, weights(made), x), atol=2e-5)


def test_the_first_three_differences_are_named(tmp_path: Path) -> None:
    state = weights(config())
    gone = next(iter(state))
    state["task_heads.more.weight"] = state.pop(gone)
    state["shared_encoder.stem.convs.0.conv.bias"] = torch.zeros(5)
    torch.save({"model": state, "model_config": config()}, tmp_path / "net.pth")
    with pytest.raises(ModelError) as error:
        load_model(tmp_path / "net.pth")
    told = str(error.value)
    assert f"{gone} is missing, task_heads.more.weight is not known" in told
    assert "conv.bias is [5] and not [4]" in told


@pytest.mark.parametrize(
    ("target", "activation"),
    [
        (INK, "sigmoid"),
        (INK | {"activation": "none"}, "sigmoid"),
        (SURFACE, "softmax"),
        (SURFACE | {"activation": "softmax"}, "softmax"),
        ({"out_channels": 4}, "softmax"),
        ({"out_channels": 2, "activation": "sigmoid"}, "sigmoid"),
        (DISTANCE, "raw"),
        ({"out_channels": 3, "losses": [{"name": "CosineSimilarityLoss"}]}, "normals"),
        ({"out_channels": 2, "task_type": "inplane_direction"}, "raw"),
        ({"out_channels": 9, "losses": [{"name": "MSELoss"}]}, "raw"),
    ],
)
def test_how_a_target_is_read(tmp_path: Path, target: Any, activation: Any) -> None:
    path = checkpoint(tmp_path / "net.pth", config({"x": target}))
    assert [h.activation for h in load_model(path).card.heads] == [activation]


def test_how_images_were_normalised(tmp_path: Path) -> None:
    grey = {"mean": np.float64(100.0), "std": np.float32(20.0), "percentile_00_5": 5.0, "percentile_99_5": 200.0}
    for scheme, more, found in (
        ("zscore", {}, ("instance_zscore", None, None)),
        ("zscore", {"intensity_properties": grey}, ("global_zscore", 100.0, None)),
        ("ct", {"intensity_properties": grey}, ("ct", 100.0, 5.0)),
        ("minmax", {}, ("instance_minmax", None, None)),
        ("none", {}, ("none", None, None)),
    ):
        path = checkpoint(tmp_path / "net.pth", normalization_scheme=scheme, **more)
        (one,) = load_model(path).card.normalization
        assert (one.scheme, one.mean, one.lower) == found
    path = checkpoint(tmp_path / "net.pth", normalization_scheme="robust")
    if "robust_mad" in SCHEMES:
        assert load_model(path).card.normalization[0].scheme == "robust_mad"
    else:
        with pytest.raises(ModelError, match="normalised by 'robust'"):
            load_model(path)
    card = load_model(checkpoint(tmp_path / "net.pth")).card
    assert card.normalization[0].scheme == "instance_zscore"
    assert "does not say how" in card.notes[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"squeeze_excitation": True}, "squeeze and excitation"),
        ({"nonlin": "SwiGLUBlock"}, "nonlin 'SwiGLUBlock'"),
        ({"basic_encoder_block": "Mamba"}, "basic_encoder_block 'Mamba'"),
        ({"n_blocks_per_stage": [1, 2]}, "n_blocks_per_stage has 2"),
        ({"features_per_stage": [4, 6, 0]}, "features_per_stage.2"),
        ({"n_blocks_per_stage": [1, 10**6, 1]}, "n_blocks_per_stage"),
        ({"targets": {"../up": INK}}, "cannot name an output"),
        ({"targets": {"x": SURFACE | {"activation": "tanh"}}}, "activation 'tanh'"),
        ({"targets": {"x": {"out_channels": 1, "activation": "softmax"}}}, "softmax over one channel"),
        ({"target_z_projection": {"ink": {"mode": "max"}}}, "a projection along z"),
    ],
)
def test_what_voxweft_does_not_build_is_refused(tmp_path: Path, changes: Any, says: Any) -> None:
    torch.save({"model": weights(config()), "model_config": config() | changes}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=says) as error:
        load_model(tmp_path / "net.pth")
    assert len(str(error.value).splitlines()) <= 2
