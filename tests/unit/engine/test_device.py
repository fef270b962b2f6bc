"""What an accelerator does with planes, patches and logits, done here on the CPU, is what the CPU's own way gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import voxweft
from engines import all_outputs, computed
from voxweft.engine import forward
from voxweft.engine.finishing_device import OnDevice
from voxweft.engine.forward import sum_of_joint_views, sum_of_views
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import make_plan
from voxweft.engine.reader import PlaneReader
from voxweft.geometry.box import Box
from voxweft.model.card import Normalization
from voxweft.model.protocols import ForwardSetting
from voxweft.ops.activate import Finish
from voxweft.ops.activate_device import as_stored, finished
from voxweft.ops.augment import views
from voxweft.ops.normalize import normalize, normalize_there

SOFTMAX = partial(Finish, "multiclass", n_classes=4)
SIGMOIDS = partial(Finish, "multiclass", n_classes=3, activation="sigmoid")
FINISHES = [
    *(Finish("binary", o, 2) for o in ("probability", "probability16", "probability32", "mask", "labels", "logits")),
    *(SOFTMAX(output=o) for o in ("probability", "probability16", "mask", "labels", "probability_and_label", "merged")),
    *(SOFTMAX(output=o, whole=True) for o in ("probability", "labels", "entropy")),
    SOFTMAX(output="entropy"),
    *(SIGMOIDS(output=o, threshold=0.4) for o in ("probability", "mask", "labels", "entropy")),
    SIGMOIDS(output="labels", label_ids=(7, 300, 2)),
    *(Finish("multiclass", o, 5, targets=((0, 1), (1, 3), (3, 5))) for o in ("probability", "mask")),
    *(Finish("binary", o, 1, "none") for o in ("probability", "mask")),
    *(Finish("multiclass", o, 3, "normals") for o in ("normals", "normals16", "raw")),
    *(
        SOFTMAX(output=o, pass_weights=(0.25, 0.75), average=a)
        for o, a in (("variance", "probabilities"), ("labels", "probabilities"), ("probability", "logits"))
    ),
    SIGMOIDS(output="probability", pass_weights=(0.5, 0.5), average="maximum"),
    Finish("binary", "mask", 5, channels=(2, 4)),
]


@pytest.mark.parametrize("finish", FINISHES, ids=lambda f: f"{f.activation}-{f.mode}-{f.output}-{f.average}")
def test_finishing_there_gives_what_finishing_here_gives(finish: Any) -> None:
    x = torch.randn((finish.n_accumulated, 5, 6, 7), generator=torch.Generator().manual_seed(1)) * 4
    wanted, found = finish(x), as_stored(finish, finished(finish, x).contiguous().numpy())
    assert found.dtype == wanted.dtype == finish.dtype and found.shape == wanted.shape == (finish.n_channels, 5, 6, 7)
    if finish.output.startswith("probability") and wanted.dtype.kind == "u":
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
    elif wanted.dtype.kind == "f":
        assert np.allclose(found, wanted, atol=1e-5)
    else:
        assert np.array_equal(found, wanted)


@pytest.fixture
def image() -> np.ndarray:
    image = np.random.default_rng(3).integers(0, 255, (40, 36, 50), np.uint16)
    image[8:30, :20, :24] = 7  # patches of one value
    return image


@pytest.mark.parametrize("output", ["probability", "labels", "logits"])
def test_a_sweep_that_finishes_there_writes_the_same(monkeypatch: Any, image: Any, output: str) -> None:
    model, volume = voxweft.load_model("fake://blur?patch=16,16,16&classes=3"), voxweft.open_volume(image)
    plan = make_plan(volume.info, model.card, RunOptions(output=output, chunk="8,16,16", accept_labels=True))
    (wanted,) = all_outputs(plan, volume, model)
    monkeypatch.setattr("voxweft.engine.sweep.finishing", OnDevice)
    monkeypatch.setattr("voxweft.engine.finishing_device.PIECE_VALUES", 5000)
    (found,) = all_outputs(plan, volume, model)
    if output == "probability":
        assert np.abs(found.astype(int) - wanted).max() <= 1
    else:
        assert np.array_equal(found, wanted)


def test_values_that_are_not_finite_are_refused_there_too(monkeypatch: Any, image: Any) -> None:
    model, volume = voxweft.load_model("fake://blur?patch=16,16,16"), voxweft.open_volume(image)
    plan = make_plan(volume.info, model.card, RunOptions(accept_labels=True))
    monkeypatch.setattr("voxweft.engine.sweep.finishing", OnDevice)
    real = forward.sum_of_views
    monkeypatch.setattr(forward, "sum_of_views", lambda *given: real(*given) * float("inf"))
    with pytest.raises(voxweft.errors.RunError, match="NaN or Inf for planes z 0 to"):
        computed(plan, volume, [model])


@pytest.mark.parametrize("scheme", ["instance_zscore", "instance_minmax", "percentile_minmax", "robust_mad"])
@pytest.mark.parametrize("flat", [False, True])
def test_statistics_that_stay_there_are_those_of_the_cpu(scheme: str, flat: bool) -> None:
    patch = torch.randn((1, 9, 10, 11), generator=torch.Generator().manual_seed(2)) * 30 + 100
    if flat:
        patch[:, 2:] = 50.0
    wanted, found = patch.clone(), patch[0].clone()
    normalize(wanted, (Normalization(scheme),))
    normalize_there(found, Normalization(scheme))
    assert torch.allclose(found, wanted[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tta", ["mirroring", "rotation"])
def test_views_in_one_batch_give_the_same_as_one_by_one(tta: str) -> None:
    predictor = voxweft.load_model("fake://blur?patch=8,8,8").open(ForwardSetting("torch", "cpu", "fp32", 2, (8, 8, 8)))
    batch = torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    each, joint = (f(predictor, batch, views(tta)) for f in (sum_of_views, sum_of_joint_views))
    assert torch.allclose(each, joint, atol=1e-4)


def test_a_sweep_with_all_views_in_a_batch_writes_the_same(image: Any) -> None:
    model, volume = voxweft.load_model("fake://blur?patch=16,16,16"), voxweft.open_volume(image)
    found = []
    for batch in (1, 16, 3):
        setting = ForwardSetting("torch", "cpu", "fp32", batch, (16, 16, 16))
        options = RunOptions(tta="mirroring", chunk="16,16,16", accept_labels=True)
        plan = make_plan(volume.info, model.card, options, setting=setting)
        for count in (1, 3):
            values, _ = computed(plan, volume, [model], parts=[(i, count) for i in range(count)])
            found.append(values.astype(int))
        assert np.array_equal(found[-1], found[-2])
        assert np.abs(found[-1] - found[0]).max() <= 1


def test_a_reader_tells_of_empty_patches(image: Any) -> None:
    image = np.stack([image, image * 0]).astype(np.int16)
    volume, whole = voxweft.open_volume(image), Box.of(image.shape[1:])
    boxes = [Box((10, 0, 0), (26, 16, 16)), Box((10, 0, 0), (26, 16, 25)), Box((4, 0, 0), (20, 16, 16))]
    with PlaneReader(volume, whole, 8, "cpu", own=whole) as reader:
        reader.need(4, 30)
        assert reader.constant(boxes, None) == reader.constant(boxes, (1, 0)) == [True, False, False]
        assert reader.constant(boxes, (1,)) == [True, True, True] and reader.constant([]) == []
