"""Whether a network ends in its activation already, found in its graph.

Most networks give logits, and voxweft blends logits. One that ends in a softmax or sigmoid would be activated twice,
which pulls everything towards 0.5; so its last step is undone (:func:`undone`), and what is blended is what the same
network would have given without it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

CLASSES = 1  # the axis of the classes in [B, C, Z, Y, X]
LEAST = 1e-30  # probability, so that its logarithm stays finite
PASSED = ("to", "_to_copy", "float", "contiguous", "clone", "detach", "alias")  # operations that change no value
SOFTMAX, SIGMOID = ("softmax", "_softmax"), ("sigmoid", "sigmoid_")


def ending_of_script(module: Any) -> str:
    """Whether a TorchScript module in evaluation mode ends in "softmax" or "sigmoid"; else ""."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of TorchScript
            graph = torch.jit.freeze(module).graph  # decides branches and brings functions into one graph
        node = next(iter(graph.outputs())).node()
        while _name(node.kind()) in PASSED:
            node = next(iter(node.inputs())).node()
        name = _name(node.kind())
        if name in SOFTMAX:
            return "softmax" if [*node.inputs()][1].toIValue() in (CLASSES, None) else ""
    except (RuntimeError, StopIteration, AttributeError):  # of what a graph cannot tell
        return ""
    return "sigmoid" if name in SIGMOID else ""


def ending_of_program(program: Any) -> str:
    """The same of an exported program, of its first output."""
    wanted = program.graph_signature.user_outputs[0]
    node = next(n for n in program.graph.nodes if n.name == wanted)
    while _name(str(node.target).removesuffix(".default")) in PASSED:
        node = node.args[0]
    name = _name(str(node.target).rpartition(".")[0])
    if name in SOFTMAX:
        n_axes = len(node.meta["val"].shape)
        return "softmax" if node.args[1] % n_axes == CLASSES else ""
    return "sigmoid" if name in SIGMOID else ""


def ending_of_onnx(ending: tuple[str, int | None], n_axes: int) -> str:
    """The same of the operation of an ONNX graph and its axis."""
    operation, axis = ending
    if operation == "Softmax":
        return "softmax" if (-1 if axis is None else axis) % n_axes == CLASSES else ""
    return "sigmoid" if operation == "Sigmoid" else ""


def undone(values: torch.Tensor, ending: str) -> torch.Tensor:
    """Logits float32 [B, C, ...] of which a softmax or sigmoid made the values."""
    p = values.float()
    if ending == "softmax":
        return p.clamp(min=LEAST).log()
    return p.clamp(min=LEAST).log() - (1 - p).clamp(min=LEAST).log() if ending == "sigmoid" else values


def _name(operation: str) -> str:
    """Of "aten::softmax" or "aten.softmax.int" the middle."""
    return operation.replace("::", ".").split(".")[1] if "." in operation.replace("::", ".") else operation
