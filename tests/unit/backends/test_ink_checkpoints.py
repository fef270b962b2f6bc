"""Ink checkpoints: which are read, and what is said of the others."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import voxweft
from inknets import backbone, lightning, narrow_resnet, small_timesformer
from voxweft.backends import looks_like_a_model
from voxweft.errors import ModelError
from voxweft.model.protocols import ForwardSetting

HYPER = {"num_frames": 5, "image_size": 32}


def run(model: Any, layers: Any, runtime: str = "torch") -> Any:
    patch = tuple(layers.shape[2:])
    return model.open(ForwardSetting(runtime, "cpu", "fp32", len(layers), patch))(layers)


def wanted(network: Any, layers: Any) -> Any:
    """Straight from the definition: frames, sigmoid, then the enlargement."""
    frames = layers[:, :, :, 0][:, :, None]
    with torch.no_grad():
        blocks = torch.sigmoid(network(frames)).reshape(-1, 1, 4, 4)
    return functional.interpolate(blocks, frames.shape[-2:], mode="bilinear", align_corners=False)[:, :, :, None]


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "_orig_mod.", "module._orig_mod.backbone."])
def test_containers_and_prefixes(tmp_path: Path, container: Any, prefix: Any) -> None:
    network = small_timesformer()
    state = {prefix + k: v for k, v in network.state_dict().items()}
    torch.save({container: state} if container else state, tmp_path / "net.pth")
    model = voxweft.load_model(tmp_path / "net.pth", n_layers=5, tile=32)
    assert model.card.format == "ink TimeSformer"
    layers = torch.rand(2, 5, 32, 1, 32)
    assert (run(model, layers) - wanted(network, layers)).abs().max() < 1e-6


@pytest.mark.parametrize("runtime", ["torch", "jit", "openvino"])
def test_probabilities_in_every_runtime(tmp_path: Path, runtime: Any) -> None:
    network = small_timesformer()
    model = voxweft.load_model(lightning(tmp_path / "net.ckpt", backbone(network.state_dict()), **HYPER))
    if runtime not in model.runtimes("cpu"):
        pytest.skip(f"{runtime} is not installed")
    layers = torch.rand(3, 5, 32, 1, 32)
    assert (run(model, layers, runtime) - wanted(network, layers)).abs().max() < 1e-5


def test_the_card(tmp_path: Path) -> None:
    path = lightning(tmp_path / "net.ckpt", backbone(small_timesformer().state_dict()), backbone=HYPER, size=32)
    model = voxweft.load_model(path, tile=32)
    card = model.card
    assert (card.patch_zyx, card.n_inputs, card.n_classes, card.class_names) == ((32, 1, 32), 5, 1, ("ink",))
    assert (card.activation, card.mirror_axes) == ("none", (0, 2))
    (scheme,) = card.normalization
    assert (scheme.scheme, scheme.mean, scheme.std, scheme.lower, scheme.upper) == ("ct", 0.0, 200.0, 0.0, 200.0)
    assert model.ref.arguments == {"tile": 32}
    assert (card.fixed_patch, card.divisor) == (True, 200.0)
    assert json.loads(json.dumps(card.details))["dim"] == 16


def test_the_divisor_of_the_checkpoint_is_the_normalization(tmp_path: Path) -> None:
    path = lightning(tmp_path / "net.ckpt", small_timesformer().state_dict(), **HYPER, normalize_divisor=255.0)
    (scheme,) = voxweft.load_model(path).card.normalization
    assert (scheme.std, scheme.upper) == (255.0, 255.0)


def test_an_input_normalization_is_used(tmp_path: Path) -> None:
    network, extra = small_timesformer(), torch.nn.BatchNorm3d(1).eval()
    extra.running_mean.fill_(0.3)
    extra.running_var.fill_(0.25)
    state = {f"normalization.{k}": v for k, v in extra.state_dict().items()}
    model = voxweft.load_model(lightning(tmp_path / "net.ckpt", backbone(network.state_dict()) | state, **HYPER))
    layers = torch.rand(2, 5, 32, 1, 32)
    assert (run(model, layers) - wanted(network, (layers - 0.3) / 0.5)).abs().max() < 1e-4


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(backbone(small_timesformer().state_dict()), tmp_path / "model.safetensors")
    assert voxweft.load_model(tmp_path / "model.safetensors", n_layers=9, tile=64).card.patch_zyx == (64, 1, 64)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        voxweft.load_model(tmp_path / "bad.safetensors")


def test_what_nobody_says(tmp_path: Path) -> None:
    path = lightning(tmp_path / "net.ckpt", backbone(small_timesformer().state_dict()))
    assert voxweft.load_model(path, n_layers=7).card.patch_zyx == (64, 1, 64)
    with pytest.raises(ModelError, match="does not say how many layers"):
        voxweft.load_model(path)


def test_learned_positions_fix_layers_and_tile(tmp_path: Path) -> None:
    network = small_timesformer(rotary_emb=False, dim_head=64)
    path = lightning(tmp_path / "net.ckpt", backbone(network.state_dict()), size=32)
    assert voxweft.load_model(path).card.n_inputs == 5
    with pytest.raises(ModelError, match="Channel mismatch"):
        voxweft.load_model(path, n_layers=6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_layers": 26}, r"Channel mismatch: the layer window has 26 layers, \S+ takes 5"),
        ({"tile": 64}, r"tiles of 64 pixels were asked for, \S+ takes 32 x 32"),
        ({"model_type": "resnet3d"}, "holds a timesformer, not a resnet3d"),
        ({"model_type": "swin"}, "'swin' is unknown; use one of auto, timesformer, resnet3d, resnet3d-50"),
    ],
)
def test_contradictions(tmp_path: Path, arguments: Any, says: Any) -> None:
    path = lightning(tmp_path / "net.ckpt", backbone(small_timesformer().state_dict()), **HYPER)
    with pytest.raises(ModelError, match=says):
        voxweft.load_model(path, **arguments)


@pytest.mark.parametrize(("depth", "normalization"), [(50, False), (50, True), (101, False)])
def test_resnet(tmp_path: Path, depth: Any, normalization: Any) -> None:
    network = narrow_resnet(depth, normalization)
    state = network.state_dict() | {"backbone.fc.weight": torch.zeros(1039, 128), "backbone.fc.bias": torch.zeros(1039)}
    path = lightning(tmp_path / "net.ckpt", {f"module.{k}": v for k, v in state.items()})
    model = voxweft.load_model(path, n_layers=6, tile=64, model_type=f"resnet3d-{depth}")
    assert model.card.format == f"ink ResNet3D-{depth}"
    assert (model.card.patch_zyx, model.card.divisor_zyx, model.card.n_inputs) == ((64, 1, 64), (32, 1, 32), 6)
    assert model.card.details["normalization"] is normalization
    layers = torch.rand(2, 6, 64, 1, 96)
    with torch.no_grad():
        blocks = network(layers.permute(0, 3, 1, 2, 4)).sigmoid()
    enlarged = functional.interpolate(blocks, (64, 96), mode="bilinear", align_corners=False)
    assert (run(model, layers) - enlarged[:, :, :, None]).abs().max() < 1e-6


def test_resnet_rules(tmp_path: Path) -> None:
    state = narrow_resnet().state_dict()
    path = lightning(tmp_path / "net.ckpt", state, size=128)
    assert voxweft.load_model(path, n_layers=30, model_type="resnet3d").card.patch_zyx == (128, 1, 128)
    torch.save(state, tmp_path / "plain.bin")
    assert voxweft.load_model(tmp_path / "plain.bin", n_layers=30).card.patch_zyx == (256, 1, 256)
    for arguments, says in [
        ({"n_layers": 6, "tile": 60}, "multiple of 32"),
        ({}, "takes any number of layers"),
        ({"n_layers": 6, "model_type": "resnet3d-152"}, "holds a resnet3d-50, not a resnet3d-152"),
        ({"n_layers": 6, "model_type": "timesformer"}, "holds a resnet3d-50, not a timesformer"),
    ]:
        with pytest.raises(ModelError, match=says):
            voxweft.load_model(path, **arguments)


def test_every_tensor_must_fit(tmp_path: Path) -> None:
    state = backbone(small_timesformer().state_dict())
    lacking = {k: v for k, v in state.items() if ".norm." not in k}
    with pytest.raises(ModelError, match=r"layers\.0\.0\.norm\.weight is missing, .*, and 9 more"):
        voxweft.load_model(lightning(tmp_path / "a.ckpt", lacking, **HYPER))
    with pytest.raises(ModelError, match=r"head\.weight is not known$"):
        voxweft.load_model(lightning(tmp_path / "b.ckpt", {**state, "backbone.head.weight": torch.ones(2)}, **HYPER))
    with pytest.raises(ModelError, match=r"layers\.1\.2\.norm\.bias is \[3\] and not \[16\]"):
        odd = {**state, "backbone.layers.1.2.norm.bias": torch.ones(3)}
        voxweft.load_model(lightning(tmp_path / "c.ckpt", odd, **HYPER))
    with pytest.raises(ModelError, match=r"decoder\.logit\.bias is missing"):
        state = {k: v for k, v in narrow_resnet().state_dict().items() if k != "decoder.logit.bias"}
        voxweft.load_model(lightning(tmp_path / "d.ckpt", state), n_layers=6)


def test_other_networks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no ink network .* its tensors are 0\.weight, 0\.bias"):
        voxweft.load_model(lightning(tmp_path / "a.ckpt", torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()))
    state = narrow_resnet().state_dict() | {"decoder.channel_reduce.0.0.weight": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "b.pt")
    with pytest.raises(ModelError, match=r"3-D decoder has no 'decoder\.channel_reduce\.0\.0\.weight'"):
        voxweft.load_model(tmp_path / "b.pt", n_layers=6)
    torch.save({"epoch": 1}, tmp_path / "c.ckpt")
    with pytest.raises(ModelError, match="holds no state dict"):
        voxweft.load_model(tmp_path / "c.ckpt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "d.pt")
    with pytest.raises(ModelError, match="holds weights only, without the network"):
        voxweft.load_model(tmp_path / "d.pt")
    rows = small_timesformer(num_classes=5).state_dict()
    with pytest.raises(ModelError, match="gives 5 values"):
        voxweft.load_model(lightning(tmp_path / "e.ckpt", rows, **HYPER))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["net.ckpt", "net.bin"])
def test_damaged_files(tmp_path: Path, name: Any, content: Any) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read|was refused|no model that voxweft knows"):
        voxweft.load_model(tmp_path / name)


class Code:
    """An object that leaves a trace when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["net.ckpt", "net.pt"])
def test_code_needs_trust(tmp_path: Path, name: Any) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    torch.save({"state_dict": backbone(small_timesformer().state_dict()), "callbacks": Code(trace)}, path)
    with pytest.raises(ModelError) as caught:
        voxweft.load_model(path, n_layers=5, tile=32)
    assert "was refused; nothing was executed" in str(caught.value)
    assert "mkdir at callbacks" in str(caught.value)
    assert "--trust-code" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert not trace.exists()
    model = voxweft.load_model(path, n_layers=5, tile=32, trust_code=True)
    assert trace.exists()
    assert model.ref.arguments["trust_code"]


def test_trusted_code_that_is_not_here(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "x": 1}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    payload = pickle.dumps(np.float64(1)).replace(b"numpy", b"nompy")
    (tmp_path / "b.ckpt").write_bytes(payload)
    with pytest.raises(ModelError, match=r"cannot be read|not here|holds no state dict"):
        voxweft.load_model(tmp_path / "b.ckpt", trust_code=True)
    with pytest.raises(ModelError, match="holds no state dict"):
        voxweft.load_model(tmp_path / "a.ckpt")


def test_numpy_numbers_need_no_trust(tmp_path: Path) -> None:
    state = small_timesformer().state_dict()
    torch.save({"state_dict": state, "best": np.float64(0.5), "hyper_parameters": HYPER}, tmp_path / "net.ckpt")
    assert voxweft.load_model(tmp_path / "net.ckpt").card.n_inputs == 5


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    assert not looks_like_a_model(str(tmp_path / "net"))
    with pytest.raises(ModelError, match=r"without plans\.json"):
        voxweft.load_model(tmp_path / "net")
    (tmp_path / "net/README.md").write_text("text")
    torch.save({"state_dict": small_timesformer().state_dict()}, tmp_path / "net/b.pt")
    lightning(tmp_path / "net/a.ckpt", small_timesformer().state_dict(), **HYPER)
    assert looks_like_a_model(str(tmp_path / "net"))
    card = voxweft.load_model(tmp_path / "net").card
    assert card.path.endswith("a.ckpt")
    lightning(tmp_path / "net/c.ckpt", small_timesformer().state_dict(), **HYPER)
    with pytest.raises(ModelError, match=r"2 models \(a\.ckpt, c\.ckpt\)"):
        voxweft.load_model(tmp_path / "net")


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.bin", "s3://bucket/a.ckpt"])
def test_names_of_models(name: Any) -> None:
    assert looks_like_a_model(name)


def test_arguments_are_for_ink_alone() -> None:
    assert voxweft.load_model("demo", n_layers=3, tile=64).card.n_inputs == 1


def test_the_trained_checkpoint(shared: Path) -> None:
    model = voxweft.load_model(shared / "models/ink_timesformer_tiny/timesformer_tiny.ckpt", n_layers=11, tile=64)
    card = model.card
    assert (card.patch_zyx, card.n_inputs, card.format) == ((64, 1, 64), 11, "ink TimeSformer")
    assert {k: card.details[k] for k in ("dim", "depth", "heads", "dim_head", "patch_size")} == {
        "dim": 64,
        "depth": 3,
        "heads": 4,
        "dim_head": 16,
        "patch_size": 16,
    }
    found = run(model, torch.rand(2, 11, 64, 1, 64))
    assert found.shape == (2, 1, 64, 1, 64)
    assert 0 < found.min() < found.max() < 1
