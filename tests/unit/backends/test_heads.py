"""Networks that return several maps, or take slices: every format gives one tensor of all channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import voxweft
from headnets import HEADS, WHOLE, CellNet, DictNet, HeadNet, ListNet, TupleNet, as_onnx, exported, torchscript
from voxweft.backends.heads import OneTensor, one_tensor
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError
from voxweft.model import ForwardSetting, Head, ModelCard

PATCH = (8, 8, 8)
SIDE = {"patch_size": [8, 8, 8], "heads": HEADS, "normalization": "none"}
FLAT = {"patch_size": [8, 8], "dimensions": 2, "normalization": "none"}
FLAT_HEADS = [HEADS[0], {**HEADS[1], "scale": [2, 2]}]


def files(tmp_path: Path, name: Any) -> Any:
    """A file of the three-dimensional two-headed network."""
    match name:
        case "torchscript dict":
            return torchscript(tmp_path / "net.pt", DictNet(), **SIDE)
        case "torchscript tuple":
            return torchscript(tmp_path / "net.pt", TupleNet(), **SIDE)
        case "torchscript list":
            return torchscript(tmp_path / "net.pt", ListNet(), **SIDE)
        case "export dict":
            return exported(tmp_path / "net.pt2", DictNet(), PATCH, **SIDE)
        case "export tuple":
            return exported(tmp_path / "net.pt2", TupleNet(), PATCH, **SIDE)
        case _:
            return as_onnx(tmp_path / "net.onnx", HeadNet(), PATCH, ("edge", "cell"), **SIDE)


def wanted(batch: Any, n_dimensions: int = 3) -> Any:
    """Straight from the definition."""
    network = DictNet(n_dimensions)
    maps = network(batch if n_dimensions == 3 else batch[:, :, 0])
    mode = "trilinear" if n_dimensions == 3 else "bilinear"
    size = batch.shape[5 - n_dimensions :]
    both = torch.cat([maps["cell"], functional.interpolate(maps["edge"], size, mode=mode, align_corners=False)], 1)
    return both if n_dimensions == 3 else both[:, :, None]


def run(model: Any, batch: Any, runtime: Any) -> Any:
    predictor = model.open(ForwardSetting(runtime, "cpu", "fp32", len(batch), tuple(batch.shape[2:])))
    return predictor(batch)


FORMATS = ["torchscript dict", "torchscript tuple", "torchscript list", "export dict", "export tuple", "onnx"]


@pytest.mark.parametrize("name", FORMATS)
def test_heads_become_one_tensor(tmp_path: Path, name: Any) -> None:
    model = voxweft.load_model(files(tmp_path, name))
    card = model.card
    assert card.heads == (Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid", (2, 2, 2)))
    assert (card.n_classes, card.activation, card.divisor_zyx) == (3, "softmax", (2, 2, 2))
    batch = torch.randn(1, 1, *PATCH)
    for runtime in model.runtimes("cpu"):
        found = run(model, batch, runtime)
        assert (found.shape, found.dtype, found.is_contiguous()) == ((1, 3, *PATCH), torch.float32, True)
        assert (found - wanted(batch)).abs().max() < 1e-5, runtime


@pytest.mark.parametrize("runtime", ["torch", "jit", "openvino"])
def test_every_runtime_of_torch(runtime: Any) -> None:
    heads = (Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid", (2, 2, 2)))
    model = TorchModel(ModelCard("net", "x", "", PATCH, n_classes=3, heads=heads), [DictNet(), DictNet()])
    if runtime not in model.runtimes("cpu"):
        pytest.skip(f"{runtime} is not installed")
    batch = torch.randn(2, 1, *PATCH)
    assert (run(model, batch, runtime) - wanted(batch)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["torchscript", "export", "onnx"])
@pytest.mark.parametrize("several", [False, True])
def test_two_dimensional_networks(tmp_path: Path, kind: Any, several: Any) -> None:
    network = (DictNet if several else CellNet)(2)
    said = {**FLAT, "heads": FLAT_HEADS} if several else FLAT
    match kind:
        case "torchscript":
            path = torchscript(tmp_path / "net.pt", network, **said)
        case "export":
            path = exported(tmp_path / "net.pt2", network, (8, 8), **said)
        case _:
            path = as_onnx(tmp_path / "net.onnx", network, (8, 8), ("cell", "edge")[: 1 + several], **said)
    model = voxweft.load_model(path)
    card = model.card
    assert (card.n_dimensions, card.patch_zyx, card.mirror_axes) == (2, (1, 8, 8), (1, 2))
    assert (card.n_classes, card.divisor_zyx) == ((3, (1, 2, 2)) if several else (2, (1, 1, 1)))
    batch = torch.randn(1, 1, 1, 8, 8)
    for runtime in model.runtimes("cpu"):
        found = run(model, batch, runtime)
        assert (found - wanted(batch, 2)[:, : card.n_classes]).abs().max() < 1e-5, runtime
    with pytest.raises(ModelError, match=r"takes 2-D images: the patch is 1,Y,X and not 4,8,8"):
        run(model, torch.zeros(1, 1, 4, 8, 8), model.runtimes("cpu")[0])


def test_a_program_of_fixed_sizes_takes_no_other_patch(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.pt2", DictNet(), (16, 16, 16), heads=HEADS, normalization="none")
    model = voxweft.load_model(path)
    assert (model.card.fixed_patch, model.card.patch_zyx, model.card.divisor_zyx) == (True, (16, 16, 16), (2, 2, 2))
    assert result_of(volume((20, 20, 20)), path, output="logits").shape == (3, 20, 20, 20)
    with pytest.raises(ModelError, match=r"takes \(16, 16, 16\) and nothing else"):
        result_of(volume((20, 20, 20)), path, patch_size="8")
    with pytest.raises(ModelError, match="refuses an input"):
        run(model, torch.zeros(1, 1, *PATCH), "torch")


@pytest.mark.parametrize("kind", ["torchscript", "export", "onnx"])
def test_slices_are_asked_for(tmp_path: Path, kind: Any) -> None:
    match kind:
        case "torchscript":
            path = torchscript(tmp_path / "net.pt", CellNet(2))
        case "export":
            path = exported(tmp_path / "net.pt2", CellNet(2), (8, 8))
        case _:
            path = as_onnx(tmp_path / "net.onnx", CellNet(2), (8, 8), ("cell",))
    with pytest.raises(ModelError, match=r'2-D images.*"dimensions": 2.* in net\.json|"dimensions": 2 in net\.json'):
        voxweft.load_model(path)


def test_the_outputs_of_an_onnx_file_are_its_heads(tmp_path: Path) -> None:
    card = voxweft.load_model(as_onnx(tmp_path / "net.onnx", HeadNet(), PATCH, ("cell", "edge"))).card
    assert card.heads == (Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid", (2, 2, 2)))
    one = as_onnx(tmp_path / "one.onnx", HeadNet(), PATCH, ("cell", "edge"), heads=HEADS[:1])
    model = voxweft.load_model(one)
    batch = torch.randn(1, 1, *PATCH)
    for runtime in model.runtimes("cpu"):
        assert (run(model, batch, runtime) - wanted(batch)[:, :2]).abs().max() < 1e-5
    bad = as_onnx(tmp_path / "bad.onnx", HeadNet(), PATCH, ("cell",), heads=HEADS)
    with pytest.raises(ModelError, match="has no output edge; its outputs are cell"):
        voxweft.load_model(bad)


@pytest.mark.parametrize(
    ("network", "heads", "says"),
    [
        (DictNet(), [{**HEADS[0], "name": "cells"}, HEADS[1]], "returns no head 'cells'; it returns edge, cell"),
        (
            DictNet(),
            [{**HEADS[0], "channels": 3}, HEADS[1]],
            r"head 'cell' gives \(1, 2, 8, 8, 8\), not the 3 channels",
        ),
        (DictNet(), WHOLE, r"head 'edge' gives \(4, 4, 4\) voxels .* at scale \(1, 1, 1\) it should be \(8, 8, 8\)"),
        (TupleNet(), [*HEADS, {**HEADS[0], "name": "third"}], "returns 2 maps; there is none for head 'third'"),
        (TupleNet(), HEADS[::-1], "head 'edge' gives"),
    ],
)
def test_wrong_heads_are_named(tmp_path: Path, network: Any, heads: Any, says: Any) -> None:
    model = voxweft.load_model(torchscript(tmp_path / "net.pt", network, **{**SIDE, "heads": heads}))
    with pytest.raises(ModelError, match=says):
        run(model, torch.zeros(1, 1, *PATCH), "torch")


def test_side_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"returns dict with edge, cell; name its heads in net\.json"):
        voxweft.load_model(torchscript(tmp_path / "net.pt", DictNet()))
    for said, says in [
        ({"heads": [{"name": "a"}]}, r"heads\.0\.channels: Field required"),
        ({"heads": [{**HEADS[0], "of": 1}]}, r"heads\.0\.of"),
        ({"heads": HEADS, "num_classes": 4}, "num_classes 4 is not the sum"),
        ({"patch_size": [8, 8]}, "two numbers"),
        ({"dimensions": 4}, "dimensions"),
        ({"dimensions": 2, "num_classes": 2}, "is a network for 3-D images"),
    ]:
        torchscript(tmp_path / "net.pt", DictNet(), **said)
        with pytest.raises(ModelError, match=says):
            voxweft.load_model(tmp_path / "net.pt")


def test_a_plain_tensor_is_passed_on_untouched() -> None:
    card = ModelCard("net", "x", "", PATCH)
    network = CellNet()
    batch = torch.randn(2, 1, *PATCH)
    assert torch.equal(OneTensor(network, card)(batch), network(batch))
    result = network(batch).transpose(2, 3)
    assert one_tensor(result, card, PATCH) is result
    assert one_tensor([result, batch], card, PATCH) is result  # deep supervision
    named = replace(card, heads=(Head("cell", 2, "softmax"),))
    assert one_tensor(result, named, PATCH) is result
    with pytest.raises(ModelError, match="returns a dictionary with cell, edge; say which are its heads"):
        one_tensor({"cell": result, "edge": batch}, card, PATCH)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4])), min_size=2, max_size=4),
    st.sampled_from(["dict", "tuple", "list"]),
    st.randoms(use_true_random=False),
)
def test_any_heads_keep_their_channels(spec: Any, kind: Any, order: Any) -> None:
    heads = tuple(Head(f"h{n}", c, "sigmoid", (1, s, s)) for n, (c, s) in enumerate(spec))
    n_classes = sum(c for c, _ in spec)
    card = ModelCard("net", "x", "", (4, 8, 8), n_classes=n_classes, heads=heads)
    maps = [torch.full((2, c, 4, 8 // s, 8 // s), float(n)) for n, (c, s) in enumerate(spec)]
    named = [(h.name, m) for h, m in zip(heads, maps, strict=True)]
    shuffled = order.sample([*named, ("unused", maps[0])], len(named) + 1)
    result = dict(shuffled) if kind == "dict" else tuple(maps) if kind == "tuple" else maps
    found = one_tensor(result, card, (4, 8, 8))
    assert found.shape == (2, n_classes, 4, 8, 8)
    expected = [float(n) for n, (c, _) in enumerate(spec) for _ in range(c)]
    assert found.amin((0, 2, 3, 4)).tolist() == found.amax((0, 2, 3, 4)).tolist() == expected


def volume(shape: Any = (11, 21, 26)) -> Any:
    return np.random.default_rng(2).integers(0, 16, shape).astype(np.uint8)


def result_of(image: Any, model: Any, **options: Any) -> Any:
    sink = voxweft.open_sink("memory://")
    how = voxweft.RunOptions(runtime="torch", pyramid=False, accept_labels=True, chunk="16", **options)
    assert voxweft.run(image, sink, model, how).status == "complete"
    return sink.read(voxweft.Box.of(image.shape))


@pytest.mark.parametrize("tta", ["none", "mirroring"])
def test_a_network_for_slices_over_a_volume(tmp_path: Path, tta: Any) -> None:
    """A pointwise network: the blend of its patches is the network itself, slice by slice."""
    path = torchscript(tmp_path / "net.pt", CellNet(2), **FLAT)
    image = volume()
    whole = result_of(image, path, output="logits", overlap=0.5, tta=tta)
    slices = [result_of(image[z : z + 1], path, output="logits", overlap=0.5, tta=tta) for z in range(len(image))]
    assert np.array_equal(whole, np.concatenate(slices, axis=1))
    direct = CellNet(2)(torch.from_numpy(image.astype(np.float32))[:, None]).movedim(0, 1).numpy()
    assert np.abs(whole - direct).max() < 1e-5


def test_a_network_with_two_heads_over_a_volume(tmp_path: Path) -> None:
    image = volume((20, 22, 24))
    path = torchscript(tmp_path / "net.pt", DictNet(scale=1), **{**SIDE, "heads": WHOLE})
    maps = DictNet(scale=1)(torch.from_numpy(image.astype(np.float32))[None, None])
    cell, edge = (maps[name][0].numpy() for name in ("cell", "edge"))
    logits = result_of(image, path, output="logits")
    assert np.abs(logits - np.concatenate([cell, edge])).max() < 1e-5
    differences = np.concatenate([cell[1:] - cell[:1], edge])
    found = result_of(image, path, output="probability")
    assert found.shape == (2, *image.shape)
    assert np.abs(found - 255 / (1 + np.exp(-differences))).max() < 1.01
    sure = np.abs(differences) > 1e-3
    assert np.array_equal(result_of(image, path, output="mask")[sure], (255 * (differences > 0))[sure])
    with pytest.raises(voxweft.VoxweftError, match=r"--output labels .* cell \(softmax of 2\), edge \(sigmoid of 1\)"):
        result_of(image, path, output="labels")
