"""Ways to run a torch module: as it is, traced and frozen, compiled, or converted to OpenVINO in memory."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import torch

from voxweft.backends.heads import OneTensor
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Predictor

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


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
        runtimes: tuple[str, ...] = ("torch", "jit", "openvino", "compile"),
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
            "compile": device != "cpu",  # on CPUs it compiles for minutes and gains nothing on 3-D convolutions
        }
        return tuple(r for r in self._runtimes if here[r])

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make the modules ready and check them on zeros."""
        openers = {"torch": _plain, "jit": _frozen, "compile": _compiled, "openvino": _openvino}
        if setting.runtime not in openers or setting.runtime not in self._runtimes:
            raise ModelError(f"a {self.card.format} model cannot run on {setting.runtime!r}; use {self._runtimes}")
        modules = [OneTensor(m, self.card) for m in self._modules]
        predictors = [openers[setting.runtime](m, setting, self.card) for m in modules]
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


def _plain(module: OneTensor, setting: ForwardSetting, card: ModelCard) -> Predictor:
    return _Torch(module, setting)


class _Torch:
    def __init__(self, module: Any, setting: ForwardSetting) -> None:
        torch.backends.cudnn.benchmark = False  # the algorithm, and with it the bits, must not depend on timing
        torch.backends.cudnn.deterministic = True
        self._module = module.to(setting.device) if hasattr(module, "to") else module
        self._kind = setting.device.partition(":")[0]
        self._dtype = PRECISIONS.get(setting.precision)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(self._kind, dtype=self._dtype, enabled=self._dtype is not None):
            return self._module(batch).float()  # type: ignore[no-any-return]


def _compiled(module: OneTensor, setting: ForwardSetting, card: ModelCard) -> Predictor:
    if setting.device == "cpu" and not shutil.which("g++"):
        raise ModelError("--runtime compile needs a C++ compiler on the CPU; install g++ or use --runtime torch")
    torch.compiler.reset()
    compiled: Any = torch.compile(module.module.to(setting.device), dynamic=False, mode=setting.compile_mode)
    return _OneThread(_Torch(OneTensor(compiled, card), setting))


class _OneThread:
    """Calls a network from one thread only, as CUDA graphs need it; a copy of what it gives belongs to the caller."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-compiled")

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self._thread.submit(lambda: self._predictor(batch).clone()).result()


def _frozen(module: OneTensor, setting: ForwardSetting, card: ModelCard) -> Predictor:
    """Traced and frozen, so that activations stay in oneDNN's own layouts: about 1.4 times plain torch on a CPU."""
    example = torch.zeros((setting.batch_size, card.n_inputs, *setting.patch_zyx))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        traced = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        return _Torch(torch.jit.optimize_for_inference(torch.jit.freeze(traced)), setting)


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
