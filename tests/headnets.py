"""Small networks with several heads or two dimensions, and files of them in every format."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

HEADS = [
    {"name": "cell", "channels": 2, "activation": "softmax"},
    {"name": "edge", "channels": 1, "activation": "sigmoid", "scale": [2, 2, 2]},
]
WHOLE = [HEADS[0], {"name": "edge", "channels": 1, "activation": "sigmoid"}]


class HeadNet(torch.nn.Module):
    """Pointwise logits "cell" at full and "edge" at ``scale``; a dictionary, or a tuple in another order of training.

    Everything is a multiple of 1/256, so that sums are exact in any order.
    """

    def __init__(self, n_dimensions: int = 3, scale: int = 2) -> None:
        super().__init__()
        conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[n_dimensions]
        self.cell, self.edge = conv(1, 2, 1), conv(1, 1, scale, stride=scale)
        with torch.no_grad():
            self.cell.weight.copy_(torch.tensor([-0.25, 0.5]).reshape(self.cell.weight.shape))
            self.cell.bias.copy_(torch.tensor([1.0, -2.0]))
            self.edge.weight.fill_(1 / 128)
            self.edge.bias.fill_(-0.5)
        self.eval().requires_grad_(False)


class DictNet(HeadNet):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"edge": self.edge(x), "cell": self.cell(x)}


class TupleNet(HeadNet):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cell(x), self.edge(x)


class ListNet(HeadNet):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.cell(x), self.edge(x)]


class CellNet(HeadNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)


def torchscript(path: Path, network: torch.nn.Module, **said: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.script(network).save(str(path))
    return _beside(path, said)


def exported(path: Path, network: torch.nn.Module, patch: tuple[int, ...], **said: object) -> Path:
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, *patch),)), path)
    return _beside(path, said)


def as_onnx(path: Path, network: HeadNet, patch: tuple[int, ...], names: tuple[str, ...], **said: object) -> Path:
    """The same networks as a graph with the outputs ``names``."""
    nodes, weights, outputs = [], [], []
    for name in names:
        conv = getattr(network, name)
        weights += [numpy_helper.from_array(np.asarray(v), f"{name}.{k}") for k, v in conv.state_dict().items()]
        inputs = ["image", f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], strides=list(conv.stride)))
        size = [n // s for n, s in zip(patch, conv.stride, strict=True)]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, conv.out_channels, *size]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, *patch])
    graph = helper.make_graph(nodes, "net", [image], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return _beside(path, said)


def _beside(path: Path, said: dict[str, object]) -> Path:
    if said:
        path.with_suffix(".json").write_text(json.dumps(said))
    return path
