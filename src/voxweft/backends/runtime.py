"""A torch module as a model, run by torch or converted to OpenVINO in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from voxweft.backends import openvino, torch_runtime
from voxweft.backends.heads import OneTensor
from voxweft.backends.selftest import check_convolution
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Predictor
from voxweft.model.ref import decisive
from voxweft.processor import lacks

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
            "openvino": device == "cpu" and openvino.is_here(),
            "graph": device != "cpu",
            "compile": device != "cpu",  # on CPUs it compiles for minutes and gains nothing on 3-D convolutions
        }
        return tuple(r for r in self._runtimes if here[r])

    def precisions(self, device: str) -> tuple[str, ...]:
        """Precisions that this processor, or accelerator, has instructions for."""
        if device != "cpu":
            return ("fp32", "tf32", "fp16", "bf16")
        more = openvino.precisions() if "openvino" in self._runtimes else ()
        return tuple(dict.fromkeys(("fp32", *(() if lacks("bf16") else ("bf16",)), *more)))

    def open(self, setting: ForwardSetting) -> Predictor:
        """Make the modules ready and check them on zeros."""
        if setting.runtime not in self._runtimes:
            raise ModelError(f"a {self.card.format} model cannot run on {setting.runtime!r}; use {self._runtimes}")
        if setting.runtime == "openvino":
            return self._joined([openvino.compiled(n, setting) for n in self._converted(setting)], setting)
        if setting.device != "cpu":
            torch_runtime.reproducible()
            check_convolution(setting.device, setting.precision)
        try:
            return self._in_torch(setting)
        except ModelError:
            if setting.precision not in torch_runtime.HALF:
                raise
        return self._in_torch(setting, cast=False)  # some networks make float32 tensors of their own

    def quantized(self, setting: ForwardSetting, samples: Sequence[torch.Tensor]) -> bytes:
        """The modules in int8; see :class:`~voxweft.model.protocols.Quantizable`."""
        arrays = [sample.numpy() for sample in samples]
        return openvino.joined([openvino.quantized(n, arrays) for n in self._converted(setting)])

    def open_network(self, setting: ForwardSetting, network: bytes) -> Predictor:
        """Make ready what :meth:`quantized` gave."""
        return self._joined([openvino.compiled(n, setting) for n in openvino.members(network)], setting)

    def _in_torch(self, setting: ForwardSetting, *, cast: bool = True) -> Predictor:
        modules = [OneTensor(m, self.card) for m in self._modules]
        return self._joined([OPENERS[setting.runtime](m, setting, self.card, cast=cast) for m in modules], setting)

    def _joined(self, predictors: Sequence[Predictor], setting: ForwardSetting) -> Predictor:
        predictor = predictors[0] if len(predictors) == 1 else _Mean(predictors)
        check_shape(predictor, setting, self.card)
        return predictor

    def _converted(self, setting: ForwardSetting) -> list[bytes]:
        """The modules in OpenVINO's form."""
        size = (setting.batch_size, self.card.n_inputs, *setting.patch_zyx)
        found = []
        for n, module in enumerate(OneTensor(m, self.card) for m in self._modules):
            digest = f"{n} {module} {decisive(self.card)}" if self.card.digest else ""
            found.append(openvino.converted(partial(openvino.program_of, module, size), size, digest))
        return found


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


class _Mean:
    """The mean of the logits of several networks."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self._predictors = predictors

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        total = self._predictors[0](batch).clone()
        for predictor in self._predictors[1:]:
            total += predictor(batch)
        return total.div_(len(self._predictors))
