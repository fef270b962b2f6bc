"""What a backend must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from voxweft.geometry.box import Zyx
from voxweft.model.card import ModelCard

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ForwardSetting:
    """How the network is to be run; the shape is fixed so that every batch gives the same bits.

    Attributes
    ----------
    runtime
        "torch", "jit", "compile", "graph", "openvino" or "onnx".
    device
        "cpu" or "cuda:0".
    precision
        "fp32", "tf32", "fp16", "bf16" or "int8".
    batch_size, patch_zyx
        Every call gets exactly [batch_size, n_inputs, *patch_zyx].
    n_lanes
        How many threads call it at once; the bits do not depend on this.
    compile_mode
        With "compile": "default", "reduce-overhead" (CUDA graphs) or "max-autotune".
    n_threads
        Cores of one call on a CPU; they decide the bits.
    channels_last
        Whether weights and batches lie with their channels last in memory, on an accelerator.
    network
        sha256 (hex) of a network that was made for this plan, a quantised one, and is kept beside it; else "".
    """

    runtime: str
    device: str
    precision: str
    batch_size: int
    patch_zyx: Zyx
    n_lanes: int = 1
    compile_mode: str = "default"
    n_threads: int = 1
    channels_last: bool = False
    network: str = ""


class Predictor(Protocol):
    """A network made ready for one setting."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits float32 [B, n_classes, Z, Y, X] of a float32 batch [B, n_inputs, Z, Y, X], on the same device.

        May be called from ``n_lanes`` threads at once; the result belongs to the caller.
        """


class Model(Protocol):
    """A model read from disk, before a runtime was chosen.

    One that :func:`voxweft.load_model` gives has a ``ref`` too (:class:`~voxweft.model.ref.ModelRef`); see
    :func:`~voxweft.model.ref.model_ref`.
    """

    @property
    def card(self) -> ModelCard:
        """What it expects and gives."""

    def runtimes(self, device: str) -> tuple[str, ...]:
        """The runtimes that can run it on "cpu" or "cuda" with the packages installed here, plainest first."""

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make it ready.

        Raises
        ------
        ModelError
            If the setting cannot be met: runtime not offered, package missing, patch that does not fit.
        """


class Quantizable(Protocol):
    """A model that can be run in int8; ``precisions`` tells whether it can be here."""

    def precisions(self, device: str) -> tuple[str, ...]:
        """Those that "cpu" or "cuda" has instructions for with the packages installed here, "fp32" first."""

    def quantized(self, setting: ForwardSetting, samples: Sequence[torch.Tensor]) -> bytes:
        """The network in int8, its ranges from samples [batch_size, n_inputs, *patch]; the same ones give the same.

        Raises
        ------
        ModelError
            If a package is missing, or the network cannot be quantised.
        """

    def open_network(self, setting: ForwardSetting, network: bytes) -> Predictor:
        """Make ready what :meth:`quantized` gave.

        Raises
        ------
        ModelError
            If the bytes are no such network.
        """


def precisions_of(model: Model, device: str) -> tuple[str, ...]:
    """What a model says; fp32 of one that says nothing."""
    told = getattr(model, "precisions", None)
    return tuple(told(device)) if told else ("fp32",)
