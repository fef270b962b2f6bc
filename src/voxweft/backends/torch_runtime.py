"""Ways to run a torch module by torch itself: as it is, traced and frozen, compiled, or captured as a CUDA graph.

16 bit         the weights are cast once, float32 comes in and goes out; running statistics of norms stay float32
channels last  weights and batches lie [B, Z, Y, X, C] in memory, as tensor cores want them
tf32           set for one call and set back, so that no other network of this process sees it
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from voxweft.backends.heads import OneTensor
from voxweft.errors import ModelError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import ForwardSetting, Predictor

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
WARM_UP = 3  # calls before a graph is captured: libraries choose and allocate in the first ones


@contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """Deterministic algorithms, and float32 as it is asked for, on an accelerator; all as before afterwards."""
    if device == "cpu":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    # the algorithm, and with it the bits, must not depend on timing
    cudnn.benchmark, cudnn.deterministic = False, True
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


class TorchPredictor:
    """A module in the precision and the layout of a setting.

    Parameters
    ----------
    module
        float32; one that is changed is copied before.
    setting
        Precision, layout, device.
    cast
        Whether weights are cast to 16 bit; else they stay float32 and autocast casts them in every call, for
        networks that make float32 tensors of their own.
    """

    def __init__(self, module: Any, setting: ForwardSetting, *, cast: bool = True) -> None:
        self._device, self._precision = setting.device, setting.precision
        self._kind, half = setting.device.partition(":")[0], HALF.get(setting.precision)
        self._autocast = None if cast else half
        self._half = half if cast else None
        self._last = setting.channels_last
        self._module = _made_ready(module, setting, self._half) if hasattr(module, "to") else module

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits float32, contiguous."""
        layout = LAST[5] if self._last else torch.preserve_format
        with (
            torch.inference_mode(),
            arithmetic(self._device, self._precision),
            torch.autocast(self._kind, dtype=self._autocast, enabled=self._autocast is not None),
        ):
            logits = self._module(batch.to(self._half or batch.dtype, memory_format=layout))
            return logits.to(torch.float32, memory_format=torch.contiguous_format)  # type: ignore[no-any-return]


def _made_ready(module: Any, setting: ForwardSetting, half: torch.dtype | None) -> Any:
    if half is None and not setting.channels_last:
        return module.to(setting.device)
    module = copy.deepcopy(module).to(setting.device)
    if half is not None:
        norms = [one for one in module.modules() if isinstance(one, _NormBase) and one.track_running_stats]
        kept = [copy.deepcopy(norm.state_dict()) for norm in norms]  # a variance may be too large for fp16
        module = module.to(half)
        for norm, state in zip(norms, kept, strict=True):
            norm.float().load_state_dict(state)
    for weight in module.parameters() if setting.channels_last else ():
        if weight.dim() in LAST:
            weight.data = weight.data.contiguous(memory_format=LAST[weight.dim()])
    return module


def plain(module: OneTensor, setting: ForwardSetting, _card: ModelCard, *, cast: bool = True) -> Predictor:
    """As it is."""
    return TorchPredictor(module, setting, cast=cast)


def frozen(module: OneTensor, setting: ForwardSetting, card: ModelCard, *, cast: bool = True) -> Predictor:
    """Traced and frozen, so that activations stay in oneDNN's own layouts: about 1.4 times plain torch on a CPU.

    Weights are never cast, whatever ``cast`` says.
    """
    example = torch.zeros((setting.batch_size, card.n_inputs, *setting.patch_zyx))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        traced = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        return TorchPredictor(torch.jit.optimize_for_inference(torch.jit.freeze(traced)), setting, cast=False)


def compiled(module: OneTensor, setting: ForwardSetting, card: ModelCard, *, cast: bool = True) -> Predictor:
    """By torch.compile."""
    if setting.device == "cpu" and not shutil.which("g++"):
        raise ModelError("--runtime compile needs a C++ compiler on the CPU; install g++ or use --runtime torch")
    torch.compiler.reset()
    one = TorchPredictor(module.module, setting, cast=cast)
    fast: Any = torch.compile(one._module, dynamic=False, mode=setting.compile_mode)
    one._module = OneTensor(fast, card)
    return OneThread(lambda: one)


def graph(module: OneTensor, setting: ForwardSetting, card: ModelCard, *, cast: bool = True) -> Predictor:
    """Captured once as a CUDA graph, and replayed: a call costs one launch instead of one a kernel."""
    if setting.device == "cpu":
        raise ModelError("--runtime graph captures a CUDA graph and needs --device cuda; use --runtime torch")
    return OneThread(lambda: Captured(TorchPredictor(module, setting, cast=cast), setting, card))


class Captured:
    """The kernels of one call, with the addresses of their tensors; what it gives is overwritten by the next call."""

    def __init__(self, predictor: Predictor, setting: ForwardSetting, card: ModelCard) -> None:
        size = (setting.batch_size, card.n_inputs, *setting.patch_zyx)
        self._batch = torch.zeros(size, device=setting.device)
        stream = torch.cuda.Stream(setting.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(setting.device))
        with torch.cuda.device(setting.device), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                predictor(self._batch)
        torch.cuda.current_stream(setting.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(setting.device), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._logits = predictor(self._batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"this network cannot be captured as a CUDA graph: {str(error).splitlines()[0][:200]}",
                "Use --runtime torch or compile.",
            ) from error

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Replay."""
        self._batch.copy_(batch)
        self._graph.replay()
        return self._logits


class OneThread:
    """Calls a network from one thread only, as CUDA graphs need it; a copy of what it gives belongs to the caller.

    ``make`` makes it, in that thread.
    """

    def __init__(self, make: Callable[[], Predictor]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-network")
        self._predictor = self._thread.submit(make).result()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """A copy of the logits."""
        return self._thread.submit(self._call, batch).result()

    def _call(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self._predictor(batch).clone()


def reproducible() -> None:
    """Ask cuBLAS for workspaces that do not depend on streams; before its first call in a process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
