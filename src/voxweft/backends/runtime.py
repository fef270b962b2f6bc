"""A torch module as a model, run by torch or converted to OpenVINO in memory."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from voxweft.backends import torch_runtime
from voxweft.backends.heads import OneTensor
from voxweft.backends.selftest import check_convolution
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Predictor

OPENERS = {
    "torch": torch_runtime.plain,
    "jit": torch_runtime.frozen,
    "compile": torch_runtime.compiled,
    "graph": torch_runtime.graph,
}


class TorchModel:
    """One or several torch modules whose logits are averaged.

    Parameters
    ----------
    card
        What the model expects and gives.
    modules
        In evaluation mode; [B, n_inputs, *patch] -> [B, n_classes, *patch], or what
        :func:`~voxweft.backends.heads.one_tensor` makes that of.
    runtimes
        Those that fit the format.
    """

    def __init__(
        self,
        card: ModelCard,
        modules: Sequence[torch.nn.Module],
        runtimes: tuple[str, ...] = ("torch", "jit", "openvino", "graph", "compile"),
    ) -> None:
        self.card = card
        self._modules = list(modules)
        self._runtimes = runtimes

    def runtimes(self, device: str) -> tuple[str, ...]:
        """Runtimes installed here for "cpu" or "cuda"."""
        here = {
            "torch": True,
            "jit": device == "cpu",
            "openvino": device == "cpu" and find_spec("openvino") is not None,
            "graph": device != "cpu",
            "compile": device != "cpu",  # on CPUs it compiles for minutes and gains nothing on 3-D convolutions
        }
        return tuple(r for r in self._runtimes if here[r])

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make the modules ready and check them on zeros."""
        if setting.runtime not in self._runtimes:
            raise ModelError(f"a {self.card.format} model cannot run on {setting.runtime!r}; use {self._runtimes}")
        if setting.device != "cpu":
            torch_runtime.reproducible()
            check_convolution(setting.device, setting.precision)
        try:
            return self._opened(setting)
        except ModelError:
            if setting.precision not in torch_runtime.HALF or setting.runtime == "openvino":
                raise
        return self._opened(setting, cast=False)  # some networks make float32 tensors of their own

    def _opened(self, setting: ForwardSetting, *, cast: bool = True) -> Predictor:
        modules = [OneTensor(m, self.card) for m in self._modules]
        if setting.runtime == "openvino":
            predictors: list[Predictor] = [_openvino(m, setting, self.card) for m in modules]
        else:
            predictors = [OPENERS[setting.runtime](m, setting, self.card, cast=cast) for m in modules]
        predictor = predictors[0] if len(predictors) == 1 else _Mean(predictors)
        check_shape(predictor, setting, self.card)
        return predictor


def check_shape(predictor: Predictor, setting: ForwardSetting, card: ModelCard) -> None:
    """Run zeros through a predictor and compare what comes out with the card.

    Raises
    ------
    ModelError
        If the network refuses the patch or gives another shape.
    """
    patch = setting.patch_zyx
    if (
        setting.runtime == "torch" and min(card.divisor_zyx) > 1 and not card.fixed_patch
    ):  # a small multiple tells as much
        patch = tuple(min(p, 4 * d) for p, d in zip(patch, card.divisor_zyx, strict=True))  # type: ignore[assignment]
    size, wanted = ((setting.batch_size, n, *patch) for n in (card.n_inputs, card.n_classes))
    with torch.inference_mode():
        try:
            found = tuple(predictor(torch.zeros(size, device=setting.device)).shape)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:  # AssertionError: a guard of torch.export
            lines = str(error).splitlines() or [type(error).__name__]
            raise ModelError(f"the network refuses an input of {size}: {lines[0][:200]}") from error
    if found != wanted:
        raise ModelError(f"the network gives {found} for an input of {size}; {wanted} was expected")


def _openvino(module: OneTensor, setting: ForwardSetting, card: ModelCard) -> Predictor:
    """Converted in memory by torch.export."""
    size = (setting.batch_size, card.n_inputs, *setting.patch_zyx)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the converters warn of their own deprecations
        program = torch.export.export(module, (torch.zeros(size),))
    return compile_openvino(program, size, setting)


def compile_openvino(source: Any, size: tuple[int, ...], setting: ForwardSetting) -> OpenVino:
    """Compile an exported program or an ONNX file for the CPU; the input's shape is fixed to ``size``.

    Raises
    ------
    ModelError
        If OpenVINO is not installed or cannot convert the network.
    """
    try:
        import openvino
    except ImportError as error:
        raise ModelError("--runtime openvino needs the extra: pip install 'voxweft[openvino]'") from error
    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[setting.precision]
    lanes = setting.n_lanes
    config: dict[str, Any] = {"NUM_STREAMS": lanes, "INFERENCE_NUM_THREADS": lanes, "INFERENCE_PRECISION_HINT": hint}
    config["ENABLE_CPU_PINNING"] = False  # two processes that pin would share one core
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(source)
        converted.reshape(list(size))
        return OpenVino(openvino.Core().compile_model(converted, "CPU", config))
    except (RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines() or ["?"]
        raise ModelError(f"OpenVINO cannot run this network: {lines[0][:200]}") from error


class OpenVino:
    """A compiled network; called, it gives its first output, and :meth:`named` those that are asked for."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._own = threading.local()  # a request is not to be shared between threads

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """The first output."""
        return torch.from_numpy(self._infer(batch)[0])

    def named(self, batch: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Several outputs, by their names."""
        out = self._infer(batch)
        return {name: torch.from_numpy(out[name]) for name in names}

    def _infer(self, batch: torch.Tensor) -> Any:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        return self._own.request.infer([batch.contiguous().numpy()], share_inputs=True, share_outputs=False)


class _Mean:
    """The mean of the logits of several networks."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self._predictors = predictors

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        total = self._predictors[0](batch).clone()
        for predictor in self._predictors[1:]:
            total += predictor(batch)
        return total.div_(len(self._predictors))
