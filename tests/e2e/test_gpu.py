"""On an accelerator: the bits of any cut, and the values of the CPU within one grey level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import voxweft as package
from voxweft.backends.selftest import check_convolution
from voxweft.engine import weave
from voxweft.engine.device import fused_weaving
from voxweft.engine.part import Part
from voxweft.engine.plan import VOLUME
from voxweft.engine.planning import make_plan
from voxweft.geometry.box import Box
from voxweft.model.protocols import ForwardSetting
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place
from voxweft.testing import make_phantom

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.parametrize("model", ["demo", "fake://blur?patch=64,64,64&normalization=instance_zscore"])
def test_a_gpu_gives_the_cpus_values_and_its_own_bits_in_any_cut(tmp_path: Path, model: Any) -> None:
    image = make_phantom((160, 160, 160), seed=1).image
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(64, 64, 64), dtype="uint8")[:] = image

    def values(device: str, **options: str) -> np.ndarray:
        output = str(tmp_path / f"{device}{len(list(tmp_path.iterdir()))}.zarr")
        asked = package.RunOptions(device=device, runtime="torch", precision="fp32", **options)
        assert package.run(str(tmp_path / "in.zarr"), output, model, asked).status == "complete"
        return np.asarray(zarr.open_array(f"{output}/0", mode="r")[:]).astype(int)

    gpu = values("cuda")
    assert np.array_equal(gpu, values("cuda", chunk="32,64,64"))
    assert np.abs(gpu - values("cpu")).max() <= 1


FLIPS = 1e-3
CUDA = ForwardSetting("torch", "cuda", "fp32", 2, (64, 64, 64))
SETTINGS = [
    CUDA,
    *(replace(CUDA, precision=p) for p in ("tf32", "fp16", "bf16")),
    replace(CUDA, precision="bf16", channels_last=True),
    replace(CUDA, precision="fp16", runtime="graph", channels_last=True, batch_size=8),
]


def swept(image: np.ndarray, setting: ForwardSetting, parts: int = 1, **options: Any) -> np.ndarray:
    """The output of a sweep in a setting, by so many parts."""
    volume, model = package.open_volume(image), package.load_model("demo")
    asked = package.RunOptions(**{"output": "labels", "pyramid": False, "accept_labels": True} | options)
    plan = make_plan(volume.info, model.card, asked, setting=replace(setting, patch_zyx=model.card.patch_zyx))
    stage, place = plan.sweep, Place.of(package.open_sink("memory://"))
    place.create(plan, None)
    opened, device = Opened(plan, {VOLUME: volume}, (model,)), "cuda:0" if setting.device == "cuda" else "cpu"
    for index in range(parts):
        part = Part(stage.name, index, parts, stage.share(index, parts))
        compute_part(opened, stage, part, place, (device, 1))
    return np.asarray(place.sink.read(Box.of(stage.spec.shape_zyx)))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return make_phantom((128, 160, 160), seed=2).image


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_this_library_convolves_rightly(precision: str) -> None:
    check_convolution("cuda:0", precision)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.runtime}-{s.precision}-{s.channels_last}")
@pytest.mark.parametrize("tta", ["none", "mirroring"])
def test_every_setting_agrees_with_the_cpu_and_with_itself_in_any_cut(image: Any, setting: Any, tta: str) -> None:
    here = swept(image, replace(CUDA, device="cpu", batch_size=1), tta=tta)
    found = swept(image, setting, tta=tta)
    assert (found != here).mean() <= FLIPS
    assert np.array_equal(found, swept(image, setting, 3, tta=tta, chunk="32,64,64"))


def test_the_kernel_gives_the_bits_of_the_plain_sums(monkeypatch: Any, image: Any) -> None:
    assert fused_weaving("cuda:0"), "Triton cannot build or round here"
    fused = swept(image, CUDA, output="logits")
    monkeypatch.setattr(weave, "fused_weaving", lambda _device: None)
    assert np.array_equal(fused, swept(image, CUDA, output="logits"))


def test_sixteen_bits_are_sent_as_they_are(image: Any) -> None:
    wide = image.astype(np.uint16) * 250
    here, there = (swept(wide, replace(CUDA, device=d), output="probability") for d in ("cpu", "cuda"))
    assert np.abs(here.astype(int) - there).max() <= 1


def test_fp32_stays_exact_beside_tf32(image: Any) -> None:
    before = swept(image, CUDA, output="logits")
    swept(image, replace(CUDA, precision="tf32"))
    assert np.array_equal(before, swept(image, CUDA, output="logits"))
