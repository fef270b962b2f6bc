"""Cards: read-only to the bottom, equal through JSON and pickle, and refused where they contradict themselves."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.engine.planning import make_plan
from voxweft.errors import ModelError
from voxweft.image.info import VolumeInfo
from voxweft.model import Head, Intensity, ModelCard, ModelRef, Normalization
from voxweft.model.card import Resampling
from voxweft.model.contract import InputContract
from voxweft.model.frozen import FrozenDict
from voxweft.model.ref import card_differences

VOLUME = VolumeInfo("v.zarr", "zarr v3", (40, 40, 40), "uint8", levels=((40, 40, 40),))
HEADS = (Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid", (1, 2, 2)))
FULL = ModelCard(
    path="net.pt2",
    format="torch.export",
    digest="ab" * 32,
    patch_zyx=(1, 16, 16),
    n_inputs=1,
    n_classes=3,
    divisor_zyx=(1, 2, 2),
    class_names=("a", "b", "c"),
    activation="softmax",
    normalization=(Normalization("ct", 1.0, 2.0, 0.0, 3.0),),
    mirror_axes=(1, 2),
    spacing_zyx=(3.0, 1.0, 1.0),
    spacing_unit="micrometer",
    n_folds=2,
    batch_size=4,
    n_dimensions=2,
    heads=HEADS,
    separate=True,
    fixed_patch=True,
    targets=((0, 2), (2, 3)),
    ends_in="softmax",
    label_ids=(1, 2, 4),
    intensity=(Intensity(1.0, 2.0, 0.5, 3.0),),
    input_dtype="uint8",
    things=(1,),
    stride_zyx=(1, 8, 8),
    resampling=Resampling((3.0, 1.0, None), 3, 1, 0, 0, apart=True),
    masked=(True,),
    divisor=200.0,
    normalization_note="a note",
    notes=("another",),
    attributes={"of": {"parts": [1, [2, 3]]}},
    details={"sizes": [1, 2], "names": {"x": ["y"]}},
)
REFS = TypeAdapter(ModelRef)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def test_a_card_with_every_field_survives_a_plan() -> None:
    plan = make_plan(VOLUME, FULL, RunOptions())
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.models[0].card == FULL
    assert all(
        getattr(FULL, f.name) != f.default
        for f in fields(ModelCard)
        if f.name not in ("activation", "n_inputs", "transpose", "contract")
    )


def test_a_contract_is_no_part_of_a_plan() -> None:
    plan, bound = (make_plan(VOLUME, card, RunOptions()) for card in (FULL, replace(FULL, contract=InputContract(62))))
    assert bound.to_json() == plan.to_json()
    assert bound.digest == plan.digest
    assert not card_differences(plan.models[0].card, bound.models[0].card)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_attributes_survive(said: Any) -> None:
    card = ModelCard("m", "x", "", (16, 16, 16), attributes=said, details=said)
    ref = ModelRef(card, said)
    assert REFS.validate_json(REFS.dump_json(ref)) == ref
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert copy.deepcopy(card) == card
    assert hash(copy.deepcopy(card)) == hash(card)


@pytest.mark.parametrize("name", ["attributes", "details"])
def test_nothing_in_a_card_can_be_changed(name: Any) -> None:
    given = {"a": [1, 2], "b": {"c": 1}}
    card = ModelCard("m", "x", "", None, **{name: given})
    given["a"].append(3)
    held = getattr(card, name)
    assert held == {"a": (1, 2), "b": {"c": 1}}
    with pytest.raises(FrozenInstanceError):
        setattr(card, name, {})
    for change in (
        lambda: held.update(a=1),
        lambda: held.__setitem__("a", 1),
        lambda: held.pop("a"),
        held.clear,
        lambda: held["b"].setdefault("d", 1),
        lambda: held.__ior__({"a": 1}),
    ):
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert held == {"a": (1, 2), "b": {"c": 1}}
    assert held | {"a": 1} == {"a": 1, "b": {"c": 1}}


def test_a_reference_keeps_its_arguments() -> None:
    given = {"n_layers": 26}
    ref = ModelRef(FULL, given)
    given["n_layers"] = 3
    assert (ref.url, ref.digest, ref.arguments) == ("net.pt2", "ab" * 32, {"n_layers": 26})
    assert hash(ref) == hash(ModelRef(FULL, FrozenDict({"n_layers": 26})))


def test_the_first_head_says_the_activation() -> None:
    assert replace(FULL, activation="none").activation == "softmax"
    assert FULL.all_heads == HEADS
    assert replace(FULL, heads=()).all_heads == (Head("", 3, "softmax"),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_classes": 4}, r"the heads cell \(2\), edge \(1\) have 3 channels, the model has 4"),
        ({"heads": (HEADS[1], HEADS[1]), "n_classes": 2}, "every head needs a name of its own"),
        ({"activation": "Softmax", "heads": ()}, "activation 'Softmax' is unknown; use one of softmax, sigmoid, none"),
        ({"n_dimensions": 4}, "4 dimensions"),
        ({"patch_zyx": (8, 16, 16)}, r"takes 2-D images; sizes z y x begin with 1, not \(8, 16, 16\)"),
        ({"heads": (HEADS[0], Head("edge", 1, "sigmoid", (2, 2, 2)))}, "begin with 1"),
    ],
)
def test_contradictions(change: Any, says: Any) -> None:
    with pytest.raises(ModelError, match=says):
        replace(FULL, **change)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a", 1, "relu"), "head 'a': activation 'relu' is unknown"),
        (("a", 0, "sigmoid"), "0 channels"),
        (("a", 1, "sigmoid", (0, 1, 1)), "must be 1 or more"),
        (("a", 1, "softmax"), "always 1"),
    ],
)
def test_impossible_heads(arguments: Any, says: Any) -> None:
    with pytest.raises(ModelError, match=says):
        Head(*arguments)
