"""Precision and layout of a network are those of its own setting, and of no other one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import voxweft
from voxweft.backends import selftest
from voxweft.backends.runtime import TorchModel
from voxweft.backends.selftest import check_convolution
from voxweft.backends.torch_runtime import arithmetic
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting

SETTING = ForwardSetting("torch", "cpu", "fp32", 1, (16, 16, 16))


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)) + 1


@pytest.mark.parametrize("setting", [replace(SETTING, precision="bf16"), replace(SETTING, channels_last=True)])
def test_another_setting_gives_nearly_the_same_and_leaves_the_first_as_it_was(batch: Any, setting: Any) -> None:
    model = voxweft.load_model("fake://blur?patch=16,16,16")
    first = model.open(SETTING)
    wanted = first(batch)
    found = model.open(setting)(batch)
    assert found.dtype == torch.float32 and found.is_contiguous()
    assert torch.allclose(found, wanted, atol=0.03 * float(wanted.abs().max()))
    assert torch.equal(first(batch), wanted)
    assert torch.equal(model.open(SETTING)(batch), wanted)


def test_weights_are_cast_and_statistics_are_not(batch: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.BatchNorm3d(2)).eval()
    net[1].running_var.fill_(1e6)  # more than fp16 holds
    model = TorchModel(ModelCard("m", "fake", "", patch_zyx=(16, 16, 16)), [net])
    found = model.open(replace(SETTING, precision="fp16"))(batch)
    assert torch.allclose(found, model.open(SETTING)(batch), atol=1e-4) and float(found.abs().max()) > 0
    assert net[0].weight.dtype == torch.float32


class _Fp32Inside(torch.nn.Module):
    """Adds a float32 tensor of its own before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + torch.linspace(0, 1, x.shape[-1]))


def test_a_network_that_makes_float32_of_its_own_runs_in_16_bit_all_the_same(batch: Any) -> None:
    model = TorchModel(ModelCard("m", "fake", "", patch_zyx=(16, 16, 16)), [_Fp32Inside()])
    found, wanted = model.open(replace(SETTING, precision="bf16"))(batch), model.open(SETTING)(batch)
    assert torch.allclose(found, wanted, atol=0.05)


def test_tf32_ends_with_the_call() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    with arithmetic("cuda:0", "tf32"):
        assert cudnn.allow_tf32 and matmul.allow_tf32 and cudnn.deterministic
        with arithmetic("cuda:0", "fp32"):
            assert not cudnn.allow_tf32 and not matmul.allow_tf32
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic) == before


def test_a_graph_needs_a_gpu() -> None:
    model = voxweft.load_model("fake://blur?patch=16,16,16")
    assert "graph" in model.runtimes("cuda") and "graph" not in model.runtimes("cpu")
    with pytest.raises(ModelError, match="--device cuda"):
        model.open(replace(SETTING, runtime="graph"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_library_that_convolves_rightly_is_taken(precision: str) -> None:
    check_convolution("cpu", precision)


@pytest.mark.parametrize("fault", [lambda y: y * 1.1, lambda y: y * float("nan"), lambda y: torch.roll(y, 1, 0)])
def test_a_library_that_convolves_wrongly_is_refused(monkeypatch: Any, fault: Any) -> None:
    right = selftest._convolved
    monkeypatch.setattr(selftest, "_convolved", lambda x, w: fault(right(x, w)))
    check_convolution.cache_clear()
    with pytest.raises(ModelError, match=rf"Conv3d in bf16 .* torch {torch.__version__[:3]}[^|]*--precision fp32"):
        check_convolution("cpu", "bf16")
