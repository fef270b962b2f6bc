"""Models as people have them: regions, folds, activations inside, other dtypes, weights beside the file, side files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import voxweft
from headnets import exported, torchscript
from voxweft.backends import plans
from voxweft.backends.hub import hub_place
from voxweft.errors import ModelError, RequestError
from voxweft.ops.activate import Finish

PATCH = (8, 8, 8)
VOLUME = np.random.default_rng(0).integers(1, 200, (12, 12, 12), dtype=np.uint8)


class Constant(torch.nn.Module):
    """The same logits everywhere, whatever the image holds; perhaps with an activation behind them."""

    def __init__(self, logits: tuple[float, ...], after: str = "") -> None:
        super().__init__()
        self.last = torch.nn.Conv3d(1, len(logits), 1)
        torch.nn.init.zeros_(self.last.weight)
        self.last.bias.data = torch.tensor(logits)
        self.after = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.last(x)
        if self.after == "softmax":
            return torch.nn.functional.softmax(found, dim=1)
        if self.after == "sigmoid":
            return found.sigmoid().float()
        return found


def as_onnx(path: Path, logits: tuple[float, ...], after: str = "", dtype: Any = np.float32, beside: str = "") -> Path:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inner = TensorProto.FLOAT if np.dtype(dtype).kind in "ui" else kind
    weights = {"w": np.zeros((1, len(logits), 1, 1, 1)), "b": np.reshape(logits, (1, -1, 1, 1, 1))}
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=inner),
        helper.make_node("Mul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["logits" if after else "out"]),
    ]
    if after:
        axis = {"axis": 1} if after == "Softmax" else {}
        nodes.append(helper.make_node(after, ["logits"], ["out"], **axis))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, (1, 1, *PATCH))],
        [helper.make_tensor_value_info("out", inner, (1, len(logits), *PATCH))],
        [numpy_helper.from_array(w.astype(helper.tensor_dtype_to_np_dtype(inner)), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=bool(beside), location=beside or None, size_threshold=0)
    return path


def made(kind: str, folder: Path, logits: tuple[float, ...], after: str) -> Path:
    match kind:
        case "torchscript":
            return torchscript(folder / "net.pt", Constant(logits, after), patch_size=PATCH, normalization="none")
        case "export":
            return exported(folder / "net.pt2", Constant(logits, after), PATCH, normalization="none")
        case _:
            return as_onnx(folder / "net.onnx", logits, after.capitalize())


def outcome(model: Path, **options: Any) -> np.ndarray:
    sink = voxweft.open_sink("memory://")
    voxweft.run(VOLUME, sink, str(model), voxweft.RunOptions(**options))
    return sink.read(voxweft.Box.of(VOLUME.shape))


@pytest.mark.parametrize("kind", ["torchscript", "export", "onnx"])
@pytest.mark.parametrize(("logits", "after"), [((0.0, 2.0), "softmax"), ((2.0,), "sigmoid")])
def test_an_activation_inside_the_network_is_not_done_twice(
    tmp_path: Path, kind: str, logits: tuple[float, ...], after: str
) -> None:
    model = made(kind, tmp_path, logits, after)
    card = voxweft.load_model(model).card
    assert (card.ends_in, card.activation) == (after, after)
    assert "none is activated twice" in card.notes[0]
    assert (outcome(model) == 224).all()  # floor(255 / (1 + exp(-2)))
    bare = made(kind, tmp_path, logits, "")
    assert not voxweft.load_model(bare).card.ends_in
    assert (outcome(bare) == 224).all()


class Shares(Constant):
    """Ends in a softmax that no graph calls so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.last(x).exp()
        return found / found.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["torchscript", "export", "onnx"])
def test_an_activation_that_the_graph_hides_is_found_by_probing(tmp_path: Path, kind: str) -> None:
    match kind:
        case "torchscript":
            model = torchscript(tmp_path / "net.pt", Shares((0.0, 2.0)), patch_size=PATCH, normalization="none")
        case "export":
            model = exported(tmp_path / "net.pt2", Shares((0.0, 2.0)), PATCH, normalization="none")
        case _:
            model = as_onnx(tmp_path / "net.onnx", (0.0, 2.0), "Softmax")
            content = onnx.load(model)
            content.graph.node.append(helper.make_node("Identity", ["out"], ["same"]))
            content.graph.output[0].name = "same"
            onnx.save(content, model)
    assert voxweft.load_model(model).card.ends_in == "softmax"
    assert (outcome(model) == 224).all()


def test_a_side_file_that_contradicts_the_graph(tmp_path: Path) -> None:
    model = torchscript(tmp_path / "net.pt", Constant((0.0, 2.0), "softmax"), patch_size=PATCH, activation="sigmoid")
    with pytest.raises(ModelError, match="activation 'sigmoid', but the network ends in a softmax"):
        voxweft.load_model(model)
    model.with_suffix(".json").write_text('{"activation": "none"}')
    assert voxweft.load_model(model).card.ends_in == ""


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8"])
def test_onnx_takes_the_dtype_it_wants(tmp_path: Path, dtype: str) -> None:
    model = as_onnx(tmp_path / "net.onnx", (0.0, 2.0), dtype=dtype)
    assert np.abs(outcome(model).astype(int) - 224).max() <= 1
    with pytest.raises(ModelError, match="takes tensor") if dtype == "uint8" else pytest.raises(ZeroDivisionError):
        model.with_suffix(".json").write_text('{"normalization": "instance_zscore"}')
        voxweft.load_model(model)
        raise ZeroDivisionError


def test_half_weights_run(tmp_path: Path) -> None:
    for path in (
        torchscript(tmp_path / "net.pt", Constant((0.0, 2.0)).half(), patch_size=PATCH),
        torchscript(tmp_path / "bf.pt", Constant((0.0, 2.0)).bfloat16(), patch_size=PATCH),
    ):
        assert (outcome(path) == 224).all()
    half = torch.export.export(Constant((0.0, 2.0)).half(), (torch.zeros(1, 1, *PATCH, dtype=torch.float16),))
    torch.export.save(half, tmp_path / "net.pt2")
    assert (outcome(tmp_path / "net.pt2", runtime="torch") == 224).all()


def test_weights_beside_an_onnx_file_are_part_of_it(tmp_path: Path) -> None:
    model = as_onnx(tmp_path / "net.onnx", (0.0, 2.0), beside="net.data")
    first = voxweft.load_model(model).ref.digest
    as_onnx(model, (0.0, 1.0), beside="net.data")
    assert voxweft.load_model(model).ref.digest != first
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"weights in 'net\.data', which is not there"):
        voxweft.load_model(model)
    (tmp_path / "deep").mkdir()
    inside = shutil.move(as_onnx(model, (0.0, 1.0), beside="net.data"), tmp_path / "deep/net.onnx")
    (tmp_path / "deep/net.data").symlink_to(tmp_path / "net.data")
    with pytest.raises(ModelError, match="outside its folder"):
        voxweft.load_model(inside)


def test_a_program_of_one_size_says_which(tmp_path: Path) -> None:
    model = exported(tmp_path / "net.pt2", Constant((0.0, 2.0)), PATCH, normalization="none")
    with pytest.raises(RequestError, match=r"takes \(8, 8, 8\) and nothing else"):
        outcome(model, patch_size="12,12,12")


# ---------------------------------------------------------------- nnU-Net folders


def folder_of(shared: Path, place: Path, **dataset: Any) -> Path:
    """A copy of the smallest nnU-Net folder, with keys of dataset.json replaced."""
    shutil.copytree(shared / "models/nnunet_fibsem_membrane", place)
    about = json.loads((place / "dataset.json").read_text()) | dataset
    (place / "dataset.json").write_text(json.dumps(about))
    return place


def test_folds_that_do_not_belong_together(shared: Path, tmp_path: Path) -> None:
    root = folder_of(shared, tmp_path / "net")
    shutil.copytree(root / "fold_0", root / "fold_all")
    shutil.copytree(root / "fold_0", root / "fold_1")
    (root / "fold_1/checkpoint_final.pth").rename(root / "fold_1/checkpoint_best.pth")
    card = voxweft.load_model(root).card
    assert card.n_folds == 1
    assert [note.split(" is left out")[0] for note in card.notes] == ["fold_all", "fold_1"]
    assert voxweft.load_model(root / "fold_all").card.n_folds == 1
    assert voxweft.load_model(root / "fold_1").card.details["checkpoints"] == ("fold_1/checkpoint_best.pth",)
    shutil.rmtree(root / "fold_0")
    shutil.rmtree(root / "fold_1")
    assert voxweft.load_model(root).card.n_folds == 1


@pytest.mark.parametrize(
    ("file", "keys", "says"),
    [
        ("dataset.json", {"labels": {"background": 0, "a": "one"}}, "labels"),
        ("dataset.json", {"labels": {}}, "labels"),
        (
            "dataset.json",
            {"labels": {"bg": 0, "a": [1, 2], "b": [2]}, "regions_class_order": [1]},
            "regions_class_order",
        ),
        ("plans.json", {"configurations": []}, "configurations"),
        ("plans.json", {"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}}, "3d_fullres"),
        ("plans.json", {"configurations": {"3d_fullres": {"patch_size": [0, 8, 8], "spacing": [1, 1]}}}, "patch_size"),
        ("plans.json", {"foreground_intensity_properties_per_channel": {"0": {"std": "x"}}}, "std"),
    ],
)
def test_plans_that_cannot_be(shared: Path, tmp_path: Path, file: str, keys: dict[str, Any], says: str) -> None:
    root = folder_of(shared, tmp_path / "net")
    about = json.loads((root / file).read_text()) | keys
    (root / file).write_text(json.dumps(about))
    with pytest.raises(ModelError, match=says) as caught:
        voxweft.load_model(root)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_and_regions_of_a_data_set() -> None:
    def of(labels: Any, **more: Any) -> plans.Dataset:
        return plans.Dataset.model_validate({"labels": labels} | more)

    assert of(["background", "a", "b"]).class_names == ("background", "a", "b")
    assert of({"b": 2, "background": 0, "a": 1, "ignore": 3}).class_names == ("background", "a", "b")
    regions = of({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "wall": 3}, regions_class_order=[1, 2, 3])
    assert (regions.class_names, regions.label_ids) == (("whole", "core", "wall"), (1, 2, 3))


# ---------------------------------------------------------------- classes that may overlap


def finished(logits: tuple[float, ...], output: str, **more: Any) -> list[int]:
    finish = Finish("multiclass", output, len(logits), "sigmoid", **more)
    values = finish(torch.tensor(logits, dtype=torch.float32)[:, None, None, None])
    assert values.dtype == finish.dtype
    assert len(values) == finish.n_channels
    return [int(v) for v in values[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("logits", "ids", "mask"),
    [
        ((5, -5, -5), 1, [255, 0, 0]),
        ((5, 5, -5), 2, [255, 255, 0]),
        ((5, 4, 3), 3, [255, 255, 255]),
        ((-3, -2, -1), 0, [0, 0, 0]),
    ],
)
def test_regions_are_written_one_over_the_other(logits: tuple[float, ...], ids: int, mask: list[int]) -> None:
    assert finished(logits, "labels") == [ids]
    assert finished(logits, "labels", label_ids=(7, 300, 2)) == [{0: 0, 1: 7, 2: 300, 3: 2}[ids]]
    assert finished(logits, "mask") == mask
    assert finished(logits, "probability_and_label")[-1] == ids
    assert finished((1.0, 1.0), "mask", threshold=0.8) == [0, 0]


def test_many_classes_have_room() -> None:
    logits = torch.zeros(300, 1, 1, 1)
    logits[299] = 9
    for output in ("labels", "probability_and_label"):
        values = Finish("multiclass", output, 300)(logits[1:] - logits[:1])
        assert (values.dtype.name, int(values[-1, 0, 0, 0])) == ("uint16", 299)
    with pytest.raises(RequestError, match=r"--threshold 0\.9 has no meaning"):
        Finish("multiclass", "mask", 3, threshold=0.9)


def test_places_on_the_hub() -> None:
    assert hub_place("hf://lab/net/fold_0") == ("lab/net", "fold_0", "")
    assert hub_place("hf://lab/net/sub/fold_0@v1") == ("lab/net", "sub/fold_0", "v1")
    assert hub_place("hf://lab/net@refs%2Fpr%2F1") == ("lab/net", "", "refs%2Fpr%2F1")


# ---------------------------------------------------------------- side files


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ('{"activation": "Softmax"}', ["activation", "'softmax', 'sigmoid' or 'none'", "'Softmax'"]),
        ('{"mirror_axes": [9], "divisor": [0, 1, 1], "foo": 1}', ["mirror_axes", "divisor", "foo"]),
        ('{"activation": "sigmoid", "activation": "softmax"}', ["'activation' is there twice"]),
        ('{"spacing": [NaN, 1, 1]}', ["spacing"]),
        ('{"normalization": {"scheme": "ct", "mean": 0, "std": 0, "lower": 1, "upper": 0}}', ["std"]),
        ('{"normalization": {"scheme": "ct", "mean": 0, "std": 1, "lower": 1, "upper": 0}}', ["lower 1 must be less"]),
        ('{"class_names": ["a", "a"]}', ["class_names"]),
        ('{"num_classes": 2, "class_names": ["a"]}', ["1 names for 2 classes"]),
        ('{"num_classes": true}', ["num_classes"]),
        ('{"in_channels": ' + "9" * 5000 + "}", ["no JSON"]),
        ("[" * 100_000, ["no JSON"]),
    ],
)
def test_all_that_is_wrong_with_a_side_file_is_told(tmp_path: Path, said: str, says: list[str]) -> None:
    model = torchscript(tmp_path / "net.pt", Constant((0.0, 2.0)))
    model.with_suffix(".json").write_text(said)
    with pytest.raises(ModelError) as caught:
        voxweft.load_model(model)
    assert all(word in str(caught.value) for word in says)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_a_side_file_is_a_small_file(tmp_path: Path) -> None:
    model = torchscript(tmp_path / "net.pt", Constant((0.0, 2.0)))
    for make, says in (
        (lambda p: p.symlink_to("/dev/zero"), "no ordinary file"),
        (os.mkfifo, "no ordinary file"),
        (lambda p: p.symlink_to(p), "cannot be read"),
        (lambda p: p.write_bytes(b" " * (1 << 24) + b"{}"), "larger than"),
    ):
        make(model.with_suffix(".json"))
        with pytest.raises(ModelError, match=says):
            voxweft.load_model(model)
        model.with_suffix(".json").unlink()
