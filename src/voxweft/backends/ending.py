"""Whether a network ends in its activation already, found in its graph.

Most networks give logits, and voxweft blends logits. One that ends in a softmax or sigmoid would be activated twice,
which pulls everything towards 0.5; so its last step is undone (:func:`undone`), and what is blended is what the same
network would have given without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

CLASSES = 1  # the axis of the classes in [B, C, Z, Y, X]
LEAST = 1e-30  # probability, so that its logarithm stays finite
PASSED = ("to", "_to_copy", "float", "contiguous", "clone", "detach", "alias")  # operations that change no value
SOFTMAX, SIGMOID = ("softmax", "_softmax"), ("sigmoid", "sigmoid_")
LOGITS = (  # operations behind which there is no activation
    "add", "add_", "batch_norm", "conv2d", "conv3d", "convolution", "_convolution", "instance_norm", "linear",
    "Add", "Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "MatMul",
)  # fmt: skip
NEAR = 1e-3  # of a sum of probabilities in 16 bit


def ending_of_script(module: Any) -> str | None:
    """Whether a TorchScript module in evaluation mode ends in "softmax", "sigmoid" or neither, ""; None: who knows."""
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
    except (RuntimeError, StopIteration, AttributeError):
        return None
    return _of(name)


def ending_of_program(program: Any) -> str | None:
    """The same of an exported program, of its first output."""
    wanted = program.graph_signature.user_outputs[0]
    node = next(n for n in program.graph.nodes if n.name == wanted)
    while _name(str(node.target).removesuffix(".default")) in PASSED:
        node = node.args[0]
    name = _name(str(node.target).rpartition(".")[0])
    if name in SOFTMAX:
        n_axes = len(node.meta["val"].shape)
        return "softmax" if node.args[1] % n_axes == CLASSES else ""
    return _of(name)


def ending_of_onnx(ending: tuple[str, int | None], n_axes: int) -> str | None:
    """The same of the operation of an ONNX graph and its axis."""
    operation, axis = ending
    if operation == "Softmax":
        return "softmax" if (-1 if axis is None else axis) % n_axes == CLASSES else ""
    return _of(operation.lower() if operation == "Sigmoid" else operation)


def probed(network: Callable[[torch.Tensor], Any], shape: Sequence[int]) -> str:
    """Where a graph cannot tell: "softmax" if noise [B, C, ...] comes out in [0, 1] with channels that sum to one.

    A sigmoid cannot be told so from logits that happen to be small.
    """
    try:
        with torch.inference_mode():
            values = network(torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0)) * 4 - 2)
    except Exception:  # noqa: BLE001 - it may refuse noise; then nothing is known
        return ""
    if not isinstance(values, torch.Tensor) or values.ndim < 3 or values.shape[CLASSES] < 2:
        return ""
    are_shares = bool((values >= 0).all() and (values <= 1).all())
    return "softmax" if are_shares and bool(((values.sum(CLASSES) - 1).abs() < NEAR).all()) else ""


def _of(operation: str) -> str | None:
    return "sigmoid" if operation in SIGMOID else "" if operation in LOGITS else None


def undone(values: torch.Tensor, ending: str) -> torch.Tensor:
    """Logits float32 [B, C, ...] of which a softmax or sigmoid made the values."""
    p = values.float()
    if ending == "softmax":
        return p.clamp(min=LEAST).log()
    return p.clamp(min=LEAST).log() - (1 - p).clamp(min=LEAST).log() if ending == "sigmoid" else values


def _name(operation: str) -> str:
    """Of "aten::softmax" or "aten.softmax.int" the middle."""
    return operation.replace("::", ".").split(".")[1] if "." in operation.replace("::", ".") else operation
