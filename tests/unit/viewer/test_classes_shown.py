"""Report and view call classes what the output itself does, in its colours, and score them against a truth."""

from __future__ import annotations

import html
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import voxweft
from voxweft.image.colours import of_classes
from voxweft.viewer.layers import layers_of
from voxweft.viewer.page import save_report

FAST: dict[str, Any] = {"runtime": "torch", "overlap": 0.0, "accept_labels": True}
ROW = re.compile(r"<tr><td>(<i [^>]*></i>)(\w+)<td class=n>([\d.]+)<")


@pytest.fixture
def image() -> np.ndarray:
    """Values of 0, 100 and 200: the cube of 200 lies within that of 100."""
    made = np.zeros((16, 32, 32), np.uint8)
    made[4:12, 8:24, 8:24] = 100
    made[6:10, 12:20, 12:20] = 200
    return made


def network(folder: Path, names: list[str], activation: str) -> str:
    """A class where the voxel is over 50, another where it is over 150."""
    net = torch.nn.Conv3d(1, 2, 1)
    net.weight.data[:] = 1.0
    net.bias.data[:] = torch.tensor([-50.0, -150.0])
    if activation == "softmax":  # of background and foreground
        net.weight.data[0] = 0.0
        net.bias.data[:] = torch.tensor([0.0, -50.0])
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(net).save(str(folder / "net.pt"))
    said = {"patch_size": [16, 16, 16], "normalization": "none", "class_names": names, "num_classes": 2}
    (folder / "net.json").write_text(json.dumps(said | {"activation": activation}))
    return str(folder / "net.pt")


def page_of(output: str, **more: Any) -> str:
    page = html.unescape(Path(save_report(output, f"{output}.html", **more)).read_text())
    assert "could not be shown" not in page
    return page


def dice(page: str) -> dict[str, str]:
    """Of every class, as the page names it; its spot has the colour that the class has everywhere."""
    rows = ROW.findall(page[page.index("<h2>Against the truth") : page.index("; truth: ")])
    for (spot, _, _), rgb in zip(rows, of_classes([name for _, name, _ in rows]), strict=True):
        assert f"rgb({','.join(map(str, rgb))})" in spot
    return {name: value for _, name, value in rows}


@pytest.mark.parametrize("output", ["mask", "probability"])
def test_a_mask_agrees_with_itself_and_is_called_and_coloured_alike(
    tmp_path: Path, image: np.ndarray, output: Any
) -> None:
    url, model = str(tmp_path / "o.zarr"), network(tmp_path, ["background", "vessel"], "softmax")
    voxweft.run(image, url, model, output=output, **FAST)
    mask = np.where(image > 50, 255, 0).astype(np.uint8)
    assert dice(page_of(url, truth=mask)) == {"vessel": "1.000"}
    if output == "mask":
        assert dice(page_of(url, truth=url)) == {"vessel": "1.000"}
    (layer,) = layers_of(url).layers
    colour = layer.colours[255] if output == "mask" else layer.colour
    assert colour == f"#{bytes(of_classes(['vessel'])[0]).hex()}"
    stored = json.dumps(zarr.open_group(url, mode="r").attrs["ome"])
    rgb = of_classes(["vessel"])[0].tolist()
    assert (str(rgb)[1:-1] if output == "mask" else bytes(rgb).hex().upper()) in stored


@pytest.mark.parametrize("output", ["labels", "probability", "logits", "mask"])
def test_classes_that_overlap_keep_their_names_and_colours(tmp_path: Path, image: np.ndarray, output: Any) -> None:
    url, model = str(tmp_path / "o.zarr"), network(tmp_path, ["whole", "core"], "sigmoid")
    voxweft.run(image, url, model, mode="multiclass", output=output, **FAST)
    truth = (image > 50).astype(np.uint8) + (image > 150)
    assert dice(page_of(url, truth=truth)) == {"whole": "1.000", "core": "1.000"}
    layers = layers_of(url).layers
    whole, core = (f"#{bytes(rgb).hex()}" for rgb in of_classes(["whole", "core"]))
    if output == "labels":
        assert layers[0].names == {1: "whole", 2: "core"}
        assert layers[0].colours == {1: whole, 2: core}
    else:
        both = output != "logits"  # grey values, which hide each other
        found = [(one.name, one.colour, one.visible) for one in layers]
        assert found == [("o: whole", whole, True), ("o: core", core, both)]


def test_a_resampled_result_is_shown_over_the_image_that_was_given(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((32, 32, 32), np.uint8), chunks=(16, 16, 16))
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [5.0] * 3}]
    levels: Any = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": levels}
    model = network(tmp_path, ["background", "vessel"], "softmax")
    said = json.loads((tmp_path / "net.json").read_text())
    (tmp_path / "net.json").write_text(json.dumps(said | {"spacing": [10, 10, 10], "spacing_unit": "nanometer"}))
    voxweft.run(str(tmp_path / "in.zarr"), str(tmp_path / "o.zarr"), model, resample=True, output="mask", **FAST)
    shown, _ = layers_of(str(tmp_path / "o.zarr")).layers
    assert shown.levels[0].info.shape_zyx == (32, 32, 32)
