"""How voxels travel to an accelerator and finished planes come back: through pinned memory, on streams of their own.

    reader thread   planes -> pinned -> | up stream |   --event--> |                |
    main thread                                                    | default stream |  gather, network, weave, finish
    main thread     slabs  <- pinned <- | down stream | <--event-- |                |

On a CPU all of this is nothing: the same tensors, at once.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

N_BUFFERS = 2  # that are under way in one direction before somebody waits
SIGNED = {"uint16": "int16", "uint32": "int32"}  # how tensors hold what they can hardly compute with


class Transfers(Protocol):
    """The ways to one device and back."""

    def up(self, array: NDArray[Any]) -> Callable[[], torch.Tensor]:
        """Begin to send an array; what is returned gives it on the device, for the stream of whoever calls it."""

    def down(self, tensor: torch.Tensor) -> AbstractContextManager[NDArray[Any]]:
        """Begin to fetch a tensor; entered, it is the array, until it is left."""

    def numbers(self, make: Callable[[], torch.Tensor]) -> list[Any]:
        """A few numbers computed of what was sent, as a list, without waiting for the network."""


class Direct:
    """No ways at all: a CPU, or any device in the plainest manner."""

    def __init__(self, device: str) -> None:
        self._device = device

    def up(self, array: NDArray[Any]) -> Callable[[], torch.Tensor]:
        """The tensor of the same memory."""
        import torch

        tensor = torch.from_numpy(array).to(self._device)
        return lambda: tensor

    def down(self, tensor: torch.Tensor) -> AbstractContextManager[NDArray[Any]]:
        """The array of the same memory."""
        return nullcontext(tensor.cpu().numpy())

    def numbers(self, make: Callable[[], torch.Tensor]) -> list[Any]:
        """The numbers."""
        return list(make().tolist())


class Pinned:
    """Streams and pinned buffers of one CUDA device; may be used by several threads."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._up, self._down = (torch.cuda.Stream(self._device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        self._free: list[torch.Tensor] = []
        self._leaving: deque[tuple[Any, torch.Tensor]] = deque()

    def up(self, array: NDArray[Any]) -> Callable[[], torch.Tensor]:
        """Copied to a pinned buffer now, and from there by the device."""
        import torch

        source = torch.from_numpy(array)
        with self._lock:
            while self._leaving and (len(self._leaving) >= N_BUFFERS or self._leaving[0][0].query()):
                sent_before, used = self._leaving.popleft()
                sent_before.synchronize()
                self._free.append(used)
            buffer = self._buffer(source.nbytes)
            pinned = buffer[: source.nbytes].view(source.dtype).view(source.shape)
            pinned.copy_(source)
            with torch.cuda.stream(self._up):
                sent = pinned.to(self._device, non_blocking=True)
                event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
            self._leaving.append((event, buffer))

        def arrived() -> torch.Tensor:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            sent.record_stream(stream)
            return sent

        return arrived

    @contextmanager
    def _fetched(self, event: Any, buffer: torch.Tensor, pinned: torch.Tensor) -> Iterator[NDArray[Any]]:
        event.synchronize()
        try:
            yield pinned.numpy()
        finally:
            with self._lock:
                self._free.append(buffer)

    def down(self, tensor: torch.Tensor) -> AbstractContextManager[NDArray[Any]]:
        """Copied by the device as soon as it is computed."""
        import torch

        with self._lock:
            buffer = self._buffer(tensor.nbytes)
        pinned = buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            pinned.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._down)
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        return self._fetched(event, buffer, pinned)

    def numbers(self, make: Callable[[], torch.Tensor]) -> list[Any]:
        """Computed and fetched on the way up, where only what is sent has to be waited for."""
        import torch

        with torch.cuda.stream(self._up):
            return list(make().tolist())

    def _buffer(self, n_bytes: int) -> torch.Tensor:
        """The smallest that is free and large enough, or a new one in place of those that are too small."""
        import torch

        fitting = [one for one in self._free if one.numel() >= n_bytes]
        if fitting:
            buffer = min(fitting, key=lambda one: one.numel())
            self._free = [one for one in self._free if one is not buffer]
            return buffer
        self._free.clear()
        return torch.empty(max(1, n_bytes), dtype=torch.uint8, pin_memory=True)


@functools.cache
def transfers_to(device: str) -> Transfers:
    """Those of a device, shared by all that this process does there."""
    return Direct(device) if device == "cpu" else Pinned(device)


@functools.cache
def fused_weaving(device: str) -> Callable[..., None] | None:
    """:func:`voxweft.engine.kernels.add_weighted` where it can run and gives the bits of the plain sums; else None."""
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available() or find_spec("triton") is None:
        return None
    from voxweft.engine.kernels import add_weighted, gives_the_plain_bits

    return add_weighted if gives_the_plain_bits(device) else None


class Stored:
    """Voxels [C, Z, Y, X] on a device as they were stored; uint16 as the bits of int16 on an accelerator.

    Parameters
    ----------
    array
        What was read; what a tensor there cannot be is made float32.
    device
        Where they are to lie.
    """

    def __init__(self, array: NDArray[Any], device: str) -> None:
        array = _storable(array, device)
        self._unsigned = device != "cpu" and array.dtype.name in SIGNED
        self._arrived = transfers_to(device).up(array.view(SIGNED[array.dtype.name]) if self._unsigned else array)

    def part(self, where: tuple[slice, ...], channels: tuple[int, ...] | None) -> torch.Tensor:
        """Voxels of slices z, y, x: a view, of some channels in their order or of all; see :meth:`values`."""
        import torch

        held = self._arrived()[(slice(None), *where)]
        if channels is None:
            return held
        first = channels[0]
        if channels == tuple(range(first, first + len(channels))):
            return held[first : first + len(channels)]
        return torch.stack([held[c] for c in channels])

    def values(self, part: torch.Tensor) -> torch.Tensor:
        """What a part holds, where bits of a signed type stand for an unsigned one."""
        import torch

        return part.to(torch.int32).bitwise_and_(0xFFFF) if self._unsigned else part


ON_DEVICE = ("uint8", "int8", "int16", "uint16", "int32", "float16", "float32")


def _storable(array: NDArray[Any], device: str) -> NDArray[Any]:
    if array.dtype.name not in ON_DEVICE and (device != "cpu" or array.dtype.name != "float64"):
        array = array.astype(np.float32)
    if not array.dtype.isnative or not array.flags.writeable or any(s < 0 for s in array.strides):
        array = np.array(array, dtype=array.dtype.newbyteorder("="))
    return array if device == "cpu" or array.flags.c_contiguous else np.ascontiguousarray(array)


def pieces(n_planes: int, values_a_plane: int, most: int) -> list[tuple[int, int]]:
    """Planes in consecutive groups of at most so many values, at least one plane each.

    >>> pieces(5, 10, 25)
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, most // max(1, values_a_plane))
    return [(lo, min(n_planes, lo + step)) for lo in range(0, n_planes, step)]
