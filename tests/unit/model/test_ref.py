"""A model that is loaded again is the same, or is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import voxweft
from inknets import backbone, lightning, small_timesformer
from voxweft.backends import reload
from voxweft.errors import ModelError, RequestError
from voxweft.model import Head, Intensity, ModelCard, ModelRef, Normalization, model_ref
from voxweft.model.card import Resampling
from voxweft.model.ref import NOT_COMPARED

MODEL = voxweft.load_model("fake://null?patch=16,16,16&classes=3")
CHANGES = {
    "format": "another",
    "digest": "0" * 64,
    "patch_zyx": (1, 16, 16),
    "n_inputs": 2,
    "n_classes": 4,
    "divisor_zyx": (2, 2, 2),
    "class_names": ("a", "b", "c"),
    "activation": "sigmoid",
    "normalization": (Normalization("instance_zscore"),),
    "mirror_axes": (1, 2),
    "spacing_zyx": (2.0, 1.0, 1.0),
    "spacing_unit": "nanometer",
    "n_folds": 5,
    "batch_size": 1,
    "n_dimensions": 2,
    "heads": (Head("all", 3, "softmax"),),
    "separate": True,
    "fixed_patch": True,
    "targets": ((0, 3),),
    "ends_in": "softmax",
    "label_ids": (1, 2, 3),
    "intensity": (Intensity(1.0, 2.0),),
    "input_dtype": "float16",
    "stride_zyx": (8, 8, 8),
    "resampling": Resampling((1.5, None, 1.5)),
    "transpose": (2, 0, 1),
    "masked": (True,),
    "divisor": 200.0,
    "things": (1,),
}


@pytest.mark.parametrize("name", [f.name for f in fields(ModelCard) if f.name not in NOT_COMPARED])
def test_every_field_that_decides_is_compared(name: Any) -> None:
    more = {"patch_zyx": (1, 16, 16)} if name == "n_dimensions" else {}
    ref = ModelRef(replace(MODEL.card, **more, **{name: CHANGES[name]}))
    with pytest.raises(RequestError) as caught:
        reload(ref)
    said = "its weights differ" if name == "digest" else f"the model's {name}: stored "
    assert said in str(caught.value)
    assert str(caught.value).count("stored") <= 1 + len(more)


def test_what_is_told_of_a_model_is_not_held_against_it() -> None:
    assert set(CHANGES) | {*NOT_COMPARED} == {f.name for f in fields(ModelCard)}
    told = replace(MODEL.card, normalization_note="n", notes=("m",), attributes={"a": 1}, details={"b": 2})
    assert reload(ModelRef(told)).card == MODEL.card


def test_a_loaded_model_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MODEL.card = replace(MODEL.card, n_folds=3)
    assert MODEL.ref == ModelRef(MODEL.card)
    assert pickle.loads(pickle.dumps(MODEL.ref)) == MODEL.ref


def test_an_object_without_a_reference_has_its_card() -> None:
    class Own:
        card = MODEL.card

        def runtimes(self, device: Any) -> Any:
            return ("torch",)

        def open(self, setting: Any) -> Any:
            return MODEL.open(setting)

    own = Own()
    assert voxweft.load_model(own) is own
    assert model_ref(own) == ModelRef(MODEL.card)
    assert model_ref(MODEL) is MODEL.ref


def test_the_arguments_come_back_and_secrets_do_not(tmp_path: Path) -> None:
    path = lightning(tmp_path / "net.ckpt", backbone(small_timesformer().state_dict()))
    model = voxweft.load_model(path, token="secret", n_layers=7, tile=64)
    assert model.ref.arguments == {"n_layers": 7, "tile": 64}
    again = reload(model.ref)
    assert (again.card, again.ref) == (model.card, model.ref)
    with pytest.raises(ModelError, match="does not say how many layers"):
        reload(ModelRef(model.card))


def test_a_side_file_that_changed_is_refused(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Conv3d(1, 2, 1)).save(str(tmp_path / "net.pt"))
    ref = voxweft.load_model(tmp_path / "net.pt").ref
    assert reload(ref).card == ref.card
    (tmp_path / "net.json").write_text(json.dumps({"normalization": "instance_zscore", "patch_size": [8, 8, 8]}))
    with pytest.raises(RequestError, match=r"the model's normalization: .*; the model's patch_zyx: stored null, now"):
        reload(ref)
