"""The ink networks of 2026 give what a second, plain implementation gives in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import voxweft
from inknets2026 import BLOCKS, KINDS, plain, random_state, save
from voxweft.model.protocols import ForwardSetting

NARROW: dict[str, dict[str, Any]] = {
    "resnet3d-3d-decoder": {"width": 16, "depth": 50},  # wide enough for groups of several channels
    "hecate-2.4": {"width": 4, "depth": 50},
    "hecate-9.6": {"width": 2, "depth": 50},
    "hybrid": {"features": (4, 6, 6)},
}


def layers_of(kind: str, n_layers: int) -> torch.Tensor:
    """Two patches; in the second some columns are without input, others begin below the first layer."""
    generator = torch.Generator().manual_seed(3)
    layers = torch.rand(2, n_layers, 64, 1, 96 if kind != "hecate-9.6" else 32, generator=generator) + 0.1
    layers[1, :, :22] = 0
    layers[1, : n_layers // 2, 40:] = 0
    return layers


def computed(path: Path, layers: torch.Tensor, runtime: str = "torch", **arguments: Any) -> torch.Tensor:
    model = voxweft.load_model(path, **arguments)
    setting = ForwardSetting(runtime, "cpu", "fp32", len(layers), tuple(layers.shape[2:]))
    return model.open(setting)(layers)[:, :, :, 0]


@pytest.mark.parametrize("runtime", ["torch", "jit"])
@pytest.mark.parametrize("kind", KINDS)
def test_forward(tmp_path: Path, kind: str, runtime: str) -> None:
    path = save(tmp_path / "net.pth", kind, **NARROW[kind])
    layers = layers_of(kind, {"hecate-2.4": 64, "hecate-9.6": 16, "hybrid": 17}.get(kind, 11))
    found = computed(path, layers, runtime, n_layers=layers.shape[1], tile=64)
    wanted, *_ = plain(kind, random_state(kind, **NARROW[kind]), layers[:, :, :, 0], BLOCKS[50])
    assert found.dtype == torch.float32
    assert wanted.std() > 0.05
    assert (found[:, 0] - wanted).abs().max() < 2e-5


@pytest.mark.parametrize("kind", ["hecate-2.4", "hecate-9.6"])
def test_surface_and_depth_in_one_pass(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "net.pth", kind, **NARROW[kind])
    layers = layers_of(kind, 64 if kind == "hecate-2.4" else 16)
    found = computed(path, layers, depth_output=True)
    flat, deep = plain(kind, random_state(kind, **NARROW[kind]), layers[:, :, :, 0], BLOCKS[50])
    assert (found[:, 0] - flat).abs().max() < 2e-5
    assert (found[:, 1:] - deep).abs().max() < 2e-5
    assert deep.std() > 0.05
    assert torch.equal(found[:, 0], computed(path, layers)[:, 0])
    assert not found[1, :, :22].any()
    assert found[1, 0, 30:40].min() > 0
