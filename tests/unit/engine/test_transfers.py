"""From planes to slabs under torch's fake tensors: on one device, and nothing comes back but finished planes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import voxweft
from voxweft.engine import device, finishing_device, forward, reader, weave
from voxweft.engine.commit import Commit
from voxweft.engine.ledger import Ledger
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import make_plan
from voxweft.engine.sweep import sweep
from voxweft.model.card import Normalization
from voxweft.model.protocols import ForwardSetting
from voxweft.runner.place import Place

CUDA = torch.device("cuda:0")


class _Ways:
    """Counts what goes up and down; what comes back are zeros, since fake tensors hold nothing."""

    def __init__(self) -> None:
        self.up_bytes = 0
        self.downs: list[tuple[tuple[int, ...], torch.dtype]] = []
        self.n_numbers = 0

    def up(self, array: Any) -> Callable[[], Any]:
        self.up_bytes += array.nbytes
        sent = torch.empty(array.shape, dtype=torch.from_numpy(array.reshape(-1)[:1]).dtype, device=CUDA)
        return lambda: sent

    def down(self, tensor: Any) -> Any:
        assert tensor.device == CUDA
        self.downs.append((tuple(tensor.shape), tensor.dtype))
        return nullcontext(np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch.").replace("bool", "?")))

    def numbers(self, make: Callable[[], Any]) -> list[Any]:
        flags = make()
        assert flags.device == CUDA
        self.n_numbers += 1
        return [False] * len(flags)


class _NoCudaHere(TorchFunctionMode):
    """What torch's Python side refuses without CUDA even of fake tensors: slices and copies."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func is torch.Tensor.copy_:
            return aten.copy_(*args)
        if func is torch.Tensor.contiguous:
            return aten.clone(*args, memory_format=torch.contiguous_format)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            x, where = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
            axis = 0
            for one in where:
                if one is None:
                    x = x.unsqueeze(axis)
                elif isinstance(one, int):
                    x = aten.select.int(x, axis, one)
                    continue
                elif one is not Ellipsis:
                    assert isinstance(one, slice), one
                    x = aten.slice.Tensor(x, axis, one.start, one.stop)
                axis += 1
            return x if func is torch.Tensor.__getitem__ else aten.copy_(x, args[2])
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Counts operations that leave the device."""

    def __init__(self) -> None:
        super().__init__()
        self.left: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if isinstance(found, torch.Tensor) and found.device.type == "cpu" and any(a.device == CUDA for a in given):
            self.left[str(func)] += 1
        return found


class _AtOnce:
    """An executor that computes when it is asked; modes of torch are those of one thread."""

    def __init__(self, *_given: Any, **_named: Any) -> None:
        pass

    def submit(self, function: Any, *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*given))
        return future

    def shutdown(self, **_named: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("dtype", "scheme", "tta", "output"),
    [
        ("uint8", "none", "none", "probability"),
        ("uint16", "instance_zscore", "mirroring", "labels"),
        ("uint8", "robust_mad", "none", "probability"),
        ("float32", "instance_minmax", "rotation", "mask"),
        ("uint16", "percentile_minmax", "none", "logits"),
    ],
)
def test_only_finished_planes_come_back(monkeypatch: Any, dtype: str, scheme: str, tta: str, output: str) -> None:
    image = np.arange(40 * 20 * 33).reshape(40, 20, 33).astype(dtype)
    volume, model = voxweft.open_volume(image), voxweft.load_model("fake://null?patch=16,16,16&classes=3")
    plan = make_plan(
        volume.info,
        model.card,
        RunOptions(output=output, tta=tta, chunk="16,16,16", pyramid=False, accept_labels=True),
        setting=ForwardSetting("torch", "cuda", "fp16", 8, (16, 16, 16)),
        normalization=(Normalization(scheme),),
    )
    stage, place = plan.sweep, Place.of(voxweft.open_sink("memory://"))
    place.create(plan, None)
    ways = _Ways()
    monkeypatch.setattr(weave, "fused_weaving", lambda _device: None)
    for module in (device, reader, finishing_device):
        monkeypatch.setattr(module, "transfers_to", lambda _device: ways)
    for module in (forward, reader):
        monkeypatch.setattr(module, "ThreadPoolExecutor", _AtOnce)

    def network(batch: Any) -> Any:
        assert batch.device == CUDA and batch.dtype == torch.float32 and batch.shape[0] == 8
        return torch.cat([batch, batch * 2, batch - 1], dim=1)

    opened = OpenedSweep(stage, volume, (network,), device="cuda:0")
    commit = Commit(stage, place.sinks_of(stage), Ledger(place.records), lambda _event: None)
    watch = _Watch()
    with FakeTensorMode(allow_non_fake_inputs=True), _NoCudaHere(), watch:
        sweep(opened, range(stage.n_units), commit, lambda _unit: True)
    assert not watch.left
    assert ways.up_bytes == image.nbytes  # as it is stored, once
    finished = [(shape, kind) for shape, kind in ways.downs if kind != torch.bool]
    assert sum(int(np.prod(shape)) for shape, _ in finished) == stage.spec.n_channels * image.size
    assert {kind for _, kind in finished} == {torch.float32 if output == "logits" else torch.uint8}
    assert ways.n_numbers <= stage.grid.axes[0].count  # once a layer: which patches are empty
    assert commit.totals.n_patches == stage.n_tiles(stage.region) and commit.totals.n_units == stage.n_units
