"""What an input breaches of the form that a model was trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from voxweft.model.contract import Given, InputContract, breaches

HECATE = InputContract(64, spacing_um=(2.4, 2.4, 2.4), dtypes=("uint8",), tile=256)
HYBRID = InputContract(
    17, trained_layers=21, jitter=2, form="level2-zmean4-21slice-v1", source_level="2", reduction=4, tile=128
)
GOOD = {
    HECATE: Given(64, 0, 64, (2.4, 2.4, 2.4), "uint8", tile=256),
    HYBRID: Given(21, 2, 19, (9.6, 9.6, 9.6), "uint8", HYBRID.form, source_level="2", source_planes=84),
}


def told(contract: InputContract, **other: Any) -> list[tuple[str, str]]:
    return [(b.code, b.severity) for b in breaches(contract, replace(GOOD[contract], **other))]


@pytest.mark.parametrize("contract", GOOD)
def test_what_is_as_at_training_or_unknown_breaches_nothing(contract: InputContract) -> None:
    assert told(contract) == []
    assert breaches(contract, Given()) == ()
    assert breaches(None, replace(GOOD[contract], dtype="uint16", reverse=True)) == ()


@pytest.mark.parametrize(
    ("contract", "given", "code"),
    [
        (HECATE, {"n_layers_there": 63}, "DEPTH_TOO_SHALLOW"),
        (HYBRID, {"n_layers_there": 17, "start": 0, "stop": 17}, "DEPTH_NOT_TRAINED_FORM"),
        (HECATE, {"stop": 62}, "WINDOW_SIZE"),
        (HECATE, {"spacing_um": (2.4, 2.4, 7.91)}, "SCALE_MISMATCH"),
        (HECATE, {"spacing_um": (2.4, 2.46, 2.46)}, "SCALE_MISMATCH"),
        (HYBRID, {"source_level": "1"}, "SCALE_MISMATCH"),
        (HECATE, {"spacing_um": (1.2, 2.4, 2.4)}, "Z_POOL_MISMATCH"),
        (HYBRID, {"source_planes": 42}, "Z_POOL_MISMATCH"),
        (HECATE, {"dtype": "uint16"}, "DTYPE"),
    ],
)
def test_errors(contract: InputContract, given: dict[str, Any], code: str) -> None:
    assert told(contract, **given) == [(code, "error")]


@pytest.mark.parametrize(
    ("contract", "given", "code"),
    [
        (HYBRID, {"n_layers_there": 31, "start": 7, "stop": 24}, "DEPTH_DEEPER_THAN_TRAINED"),
        (HECATE, {"n_layers_there": 109, "start": 1, "stop": 65}, "Z_WINDOW_OFF_CENTRE"),
        (HYBRID, {"form": "mine-v2", "source_planes": 42}, "UNKNOWN_FORMAT"),
        (HYBRID, {"dtype": "uint16"}, "DTYPE"),
        (HECATE, {"tile": 128}, "TILE_SIZE"),
        (HECATE, {"reverse": True}, "DIRECTION"),
    ],
)
def test_warnings(contract: InputContract, given: dict[str, Any], code: str) -> None:
    assert told(contract, **given) == [(code, "warning")]


def test_nearly_right_is_right() -> None:
    assert told(HECATE, spacing_um=(2.4, 2.44, 2.36)) == []
    assert told(HECATE, n_layers_there=109, start=23, stop=87) == []
    assert told(HYBRID, start=0, stop=17) == []  # as training moved it


def test_errors_come_first_and_say_what_to_do() -> None:
    found = breaches(HECATE, replace(GOOD[HECATE], reverse=True, spacing_um=(0.6, 2.4, 2.4), stop=60))
    assert [b.code for b in found] == ["WINDOW_SIZE", "Z_POOL_MISMATCH", "DIRECTION"]
    assert "0..60 has 60 layers, the model takes 64" in found[0].text
    assert "average 4 layers to one" in found[1].text
