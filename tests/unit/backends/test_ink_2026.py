"""Checkpoints of the ink models of 2026: read strictly, and told of by their cards and by ``voxweft info``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import voxweft
from conftest import Voxweft
from inknets2026 import HYBRID, KINDS, layout, payload, random_state, save
from voxweft.backends.ink import holds_ink
from voxweft.errors import ModelError
from voxweft.model import Head, Normalization

SMALL: dict[str, Any] = {"depth": 50}
FEW: dict[str, Any] = {"features": (4, 6, 6)}
NAMES = {
    "resnet3d-3d-decoder": "resnet3d-50-3d-decoder",
    "hecate-2.4": "hecate",
    "hecate-9.6": "hecate",
    "hybrid": "hybrid-3d2d",
}


def small(kind: str) -> dict[str, Any]:
    return FEW if kind == "hybrid" else SMALL


def written(path: Path, kind: str, state: dict[str, torch.Tensor], **config: Any) -> Path:
    torch.save(payload(kind, state, config), path)
    return path


@pytest.mark.parametrize(
    ("kind", "n_tensors", "n_numbers"),
    [
        ("resnet3d-3d-decoder", 978, 130_433_493),
        ("hecate-2.4", 979, 130_433_494),
        ("hecate-9.6", 979, 130_413_270),
        ("hybrid", 508, 68_175_426),
    ],
)
def test_the_published_layout(tmp_path: Path, kind: str, n_tensors: int, n_numbers: int) -> None:
    shapes = layout(kind)
    trained = [s for name, s in shapes.items() if not name.endswith(("_mean", "_var", "num_batches_tracked"))]
    assert (len(shapes), sum(map(math.prod, trained))) == (n_tensors, n_numbers)
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}  # one number on the disk each
    card = voxweft.load_model(written(tmp_path / "full.pth", kind, state)).card
    assert card.details["depth" if kind != "hybrid" else "features"] == (152 if kind != "hybrid" else HYBRID)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_state_dict_is_refused_with_what_differs(tmp_path: Path, kind: str) -> None:
    state, prefix = random_state(kind, **small(kind)), "canonical." if "hecate" in kind else ""
    hybrid = kind == "hybrid"
    renamed = "network.shared_encoder.stem.convs.0.norm.bias" if hybrid else "decoder.logit.bias"
    absent = "network.task_heads.ink.bias" if hybrid else "backbone.layer3.5.bn2.running_var"
    odd = "network.shared_decoder.transpconvs.1.bias" if hybrid else "decoder.decoder_blocks.1.gn2.weight"
    state[f"{prefix}other.bias"] = state.pop(prefix + renamed)
    state.pop(prefix + absent)
    state[prefix + odd] = torch.zeros(3)
    with pytest.raises(ModelError) as caught:
        voxweft.load_model(written(tmp_path / "net.pth", kind, state))
    told = str(caught.value)
    assert f"{renamed} is missing" in told
    assert f"{absent} is missing" in told
    assert told.endswith("other.bias is not known, and 1 more")
    state[prefix + renamed], state[prefix + absent] = state.pop(f"{prefix}other.bias"), torch.ones(1)
    with pytest.raises(ModelError, match=r"is \[3\] and not"):
        voxweft.load_model(written(tmp_path / "net.pth", kind, state))


@pytest.mark.parametrize("name", ["backbone.fc.weight", "decoder.aux_head_s1.conv.bias"])
def test_what_training_alone_needs_must_be_whole(tmp_path: Path, name: str) -> None:
    kind = "resnet3d-3d-decoder"
    state = random_state(kind, **SMALL)
    lacking = {k: v for k, v in state.items() if k != name}
    with pytest.raises(ModelError, match=f"{name} is missing$"):
        voxweft.load_model(written(tmp_path / "net.pth", kind, lacking))
    with pytest.raises(ModelError, match=rf"{name} is \[7\] and not"):
        voxweft.load_model(written(tmp_path / "net.pth", kind, {**state, name: torch.ones(7)}))
    without = {k: v for k, v in state.items() if not k.startswith(("backbone.fc.", "decoder.aux_head_"))}
    assert voxweft.load_model(written(tmp_path / "net.pth", kind, without)).card.n_inputs == 62


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["", "model.module.", "module._orig_mod."])
def test_containers_and_prefixes(tmp_path: Path, kind: str, container: str, prefix: str) -> None:
    state = {prefix + k: v for k, v in random_state(kind, 2, **small(kind)).items()}
    torch.save({container: state} if container else state, tmp_path / "net.pt")
    assert holds_ink(tmp_path / "net.pt")
    card = voxweft.load_model(tmp_path / "net.pt", n_layers=17 if kind == "hybrid" else 0).card
    assert card.format.startswith("ink")


def test_cards(tmp_path: Path) -> None:
    cards = {kind: voxweft.load_model(save(tmp_path / "net.pth", kind, **small(kind))).card for kind in KINDS}
    found = {k: (c.n_inputs, c.patch_zyx, c.stride_zyx, c.spacing_zyx, c.normalization[0]) for k, c in cards.items()}
    square = {n: (n, 1, n) for n in (32, 64, 128, 256)}
    assert found == {
        "resnet3d-3d-decoder": (62, square[256], square[128], None, Normalization("ct", 0.0, 200.0, 0.0, 200.0)),
        "hecate-2.4": (64, square[256], square[128], (2.4,) * 3, Normalization("global_zscore", 0.0, 200.0)),
        "hecate-9.6": (16, square[64], square[32], (9.6,) * 3, Normalization("global_zscore", 0.0, 255.0)),
        "hybrid": (17, square[128], square[64], None, Normalization("robust_mad", lower=1.0, upper=99.0)),
    }
    assert cards["hecate-2.4"].spacing_unit == "micrometer"
    assert {c.contract.n_layers for c in cards.values() if c.contract} == {62, 64, 16, 17}
    hybrid = cards["hybrid"].contract
    assert hybrid and (hybrid.trained_layers, hybrid.jitter, hybrid.tile) == (21, 2, 128)
    assert not any(card.heads or card.notes for card in cards.values())


def test_layers_and_tiles_that_are_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pth", "resnet3d-3d-decoder", **SMALL)
    card = voxweft.load_model(path, n_layers=30, tile=128).card
    assert (card.n_inputs, card.patch_zyx, card.stride_zyx) == (30, (128, 1, 128), (64, 1, 64))
    assert card.contract and (card.contract.n_layers, card.contract.tile) == (62, 256)
    for kind, n_layers in (("hecate-2.4", 62), ("hybrid", 21)):
        with pytest.raises(ModelError, match=f"layer window has {n_layers} layers"):
            voxweft.load_model(save(tmp_path / "other.pth", kind, **small(kind)), n_layers=n_layers)
    with pytest.raises(ModelError, match="multiple of 32"):
        voxweft.load_model(path, tile=100)


@pytest.mark.parametrize("kind", KINDS)
def test_model_types(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "net.pth", kind, 2, **small(kind))
    theirs = {"hybrid": "vesuvius_unet_3d_stem_2d", "hecate-2.4": "multiteacher_3d_projection"}
    for name in (NAMES[kind], theirs.get(kind, NAMES[kind])):
        assert voxweft.load_model(path, model_type=name).card.format.startswith("ink")
    with pytest.raises(ModelError, match=f"holds a {NAMES[kind]}, not a resnet3d; use --model-type {NAMES[kind]}"):
        voxweft.load_model(path, model_type="resnet3d")


def test_depth_output(tmp_path: Path) -> None:
    model = voxweft.load_model(save(tmp_path / "net.pth", "hecate-9.6", 2, **SMALL), depth_output=True)
    assert model.card.heads == (Head("ink", 1, "none"), Head("ink3d", 16, "none", stacked=True))
    assert model.card.n_classes == 17
    assert voxweft.backends.reload(model.ref).card == model.card
    with pytest.raises(ModelError, match=r"hybrid-3d2d, which gives no probabilities of voxels; Hecate does"):
        voxweft.load_model(save(tmp_path / "flat.pth", "hybrid", **FEW), depth_output=True)


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("divide_255", Normalization("global_zscore", 0.0, 255.0)),
        ({"mode": "clip_divide", "divisor": 255.0}, Normalization("ct", 0.0, 255.0, 0.0, 200.0)),
        ({"mode": "mad", "percentile_lower": 0.5}, Normalization("robust_mad", lower=0.5, upper=99.0)),
        (
            {"mode": "clip_zscore", "clip_min": 5, "clip_max": 90, "mean": 40, "std": 20},
            Normalization("ct", 40.0, 20.0, 5.0, 90.0),
        ),
    ],
)
def test_scales_of_the_configuration(tmp_path: Path, said: Any, scheme: Normalization) -> None:
    state = random_state("hybrid", **FEW)
    path = written(tmp_path / "net.pth", "hybrid", state, image_normalization=said)
    assert voxweft.load_model(path).card.normalization == (scheme,)


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("hybrid", {"image_normalization": "histogram"}, "scales grey values by 'histogram'"),
        ("hybrid", {"image_normalization": {"mode": "clip_zscore"}}, "scales grey values by 'clip_zscore'"),
        ("hybrid", {"image_normalization": {"mode": "divide", "divisor": -1}}, "cannot be computed with std -1"),
        ("hybrid", {"model_config": {"pool_type": "max"}}, "pool_type 'max', which is not supported"),
        ("hybrid", {"patch_size": [17, 130, 130]}, "multiple of 4"),
        ("hybrid", {"patch_size": [9e9, 128, 128]}, "cannot be"),
        ("hecate-2.4", {"model_config": {"canonical": {"native_xy_stride": 1}}}, "they are of stride 4"),
        ("hecate-9.6", {"model_config": {"canonical": {"depth_margin": 8}}}, "which its tensors do not fit"),
    ],
)
def test_configurations_that_cannot_be(tmp_path: Path, kind: str, config: dict[str, Any], says: str) -> None:
    path = written(tmp_path / "net.pth", kind, random_state(kind, 2, **small(kind)), **config)
    with pytest.raises(ModelError, match=says) as caught:
        voxweft.load_model(path)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("kind", "tells"),
    [
        (
            "resnet3d-3d-decoder",
            ["ResNet3D-50", "62", "256 x 256", "128 x 128", "2.4 micrometer", "clipped to 0 .. 200"],
        ),
        ("hecate-2.4", ["Hecate", "64", "128 x 128", "2.4 micrometer", "not clipped, divided by 200"]),
        ("hecate-9.6", ["Hecate", "16", "32 x 32", "9.6 micrometer", "not clipped, divided by 255"]),
        ("hybrid", ["U-Net", "17", "64 x 64", "percentiles 1 and 99"]),
    ],
)
def test_info(voxweft: Voxweft, tmp_path: Path, kind: str, tells: list[str]) -> None:
    save(tmp_path / "net.pth", kind, 2, **small(kind))
    told = " ".join(voxweft("info", "net.pth").stdout.split())
    assert not [word for word in tells if word not in told]
    assert json.loads(voxweft("info", "net.pth", "--json").stdout)["details"]["layers"] == int(tells[1])


def test_info_of_a_damaged_file(voxweft: Voxweft, tmp_path: Path) -> None:
    state = random_state("hecate-2.4", 2, **SMALL)
    state.pop("canonical.decoder.logit.weight")
    written(tmp_path / "net.pth", "hecate-2.4", state)
    told = voxweft("info", "net.pth", code=2).stderr
    assert "decoder.logit.weight is missing" in told
    assert len(told.strip().splitlines()) <= 3
