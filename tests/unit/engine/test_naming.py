"""Labels and channels have names and colours, which other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaozarrs

import voxweft
from voxweft.engine.naming import names_of, shown_of
from voxweft.image import OutputSpec
from voxweft.image.colours import palette
from voxweft.model.head import Head
from voxweft.ops.activate import Finish

THREE = ("background", "grey", "white")


@pytest.mark.parametrize(
    ("finish", "classes", "named", "shown"),
    [
        (Finish("multiclass", "labels", 3), THREE, dict(enumerate(THREE)), ()),
        (Finish("multiclass", "mask", 3), THREE, {0: "background", 255: "foreground"}, ()),
        (Finish("binary", "probability", 2), ("background", "ink"), {0: "ink"}, (0, 255)),
        (Finish("binary", "labels", 1, "sigmoid"), ("ink",), {0: "background", 1: "ink"}, ()),
        (Finish("multiclass", "probability16", 3), THREE, dict(enumerate(THREE)), (0, 65535)),
        (Finish("multiclass", "mask", 2, "sigmoid"), ("a", "b"), {0: "a", 1: "b"}, (0, 255)),
        (Finish("binary", "logits", 2), (), {0: "background", 1: "foreground"}, (-10, 10)),
        (Finish("multiclass", "probability_and_label", 3), THREE, {**dict(enumerate(THREE)), 3: "label"}, (0, 255)),
        (Finish("multiclass", "entropy8", 3), THREE, {0: "uncertainty"}, (0, 255)),
        (Finish("binary", "mask", 4, targets=((0, 2), (2, 4))), (), {0: "class 1", 1: "class 3"}, (0, 255)),
        (Finish("binary", "normals", 4, "normals", channels=(1, 4)), (), {0: "x", 1: "y", 2: "z"}, (-127, 127)),
    ],
)
def test_what_labels_and_channels_mean(finish: Any, classes: Any, named: Any, shown: Any) -> None:
    heads = (Head("ink", 1, "sigmoid"), Head("normals", 3, "normals")) if finish.channels else ()
    assert dict(names_of(finish, classes, heads)) == named
    assert shown_of(finish) == shown


@pytest.mark.parametrize("is_label", [True, False])
def test_names_and_colours_are_stored_as_others_read_them(tmp_path: Path, is_label: Any) -> None:
    named = ((0, "background"), (1, "grey"), (7, "white")) if is_label else tuple(enumerate(THREE))
    spec = OutputSpec((4, 8, 8), 1 if is_label else 3, "uint8", (8, 8, 8), (8, 8, 8), is_label=is_label, named=named)
    spec = spec if is_label else OutputSpec((4, 8, 8), 3, "uint8", (8,) * 3, (8,) * 3, named=named, shown=(0, 255))
    sink = voxweft.open_sink(str(tmp_path / "brain.zarr"))
    sink.create(spec)
    yaozarrs.validate_zarr_store(str(tmp_path / "brain.zarr"))
    ome = json.loads((tmp_path / "brain.zarr/zarr.json").read_text())["attributes"]["ome"]
    assert ome["multiscales"][0]["name"] == "brain"
    colours = palette(3).tolist()
    if is_label:
        image = yaozarrs.v05.LabelImage.model_validate(ome).image_label
        assert [(c.label_value, c.rgba) for c in image.colors or ()] == [
            (0, [0, 0, 0, 0]),
            (1, [*colours[1], 255]),
            (7, [*colours[2], 255]),
        ]
        assert [p["class"] for p in ome["image-label"]["properties"]] == [*THREE]
    else:
        omero = yaozarrs.v05.Image.model_validate(ome).omero
        assert [(c.label, c.active, c.window.end) for c in omero.channels] == [
            ("background", False, 255),
            ("grey", True, 255),
            ("white", True, 255),
        ]
        assert [bytes.fromhex(c.color) for c in omero.channels[1:]] == [bytes(c) for c in colours[1:]]
    found = voxweft.open_sink(str(tmp_path / "brain.zarr")).open()
    assert (found.named, found.is_label) == (named, is_label)
