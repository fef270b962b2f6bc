"""A running median along a stack: slices come one by one and leave in their order, none is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError

Mode = Literal["plain", "recursive"]


class RunningMedian:
    """The median of every slice and its neighbours; the first and last slices of the stack stay as they are.

        kernel 5      0  1  2  3  4  5  6
        stay          |--|           |--|        fewer neighbours than (kernel - 1) / 2 on one side
        median              |--------|

    A "recursive" median takes, of the neighbours before, what was put out for them, as empanada does: it depends on
    all slices before. A "plain" one takes what came in, and is the same wherever a run begins.

    Parameters
    ----------
    kernel
        Slices, an odd number.
    mode
        "plain" or "recursive".
    first, n
        Number of the first slice that comes, and of slices of the whole stack.

    Examples
    --------
    >>> median = RunningMedian(3, "plain", 0, 4)
    >>> [(z, values.tolist()) for n in (0, 9, 1, 5) for z, values in median.push(np.array([n]))]
    [(0, [0]), (1, [1]), (2, [5]), (3, [5])]
    """

    def __init__(self, kernel: int, mode: Mode, first: int, n: int) -> None:
        require_odd(kernel)
        self._kernel, self._mode, self._n = kernel, mode, n
        self._next_in, self._next_out = first, first
        self._held: deque[tuple[int, NDArray[Any]]] = deque()

    def push(self, values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Take a slice; give those that are ready, with their numbers."""
        half = self._kernel // 2
        self._held.append((self._next_in, values))
        self._next_in += 1
        while self._next_out < self._next_in:
            z = self._next_out
            whole = half <= z < self._n - half
            if whole and self._next_in <= z + half:
                return
            made = self._median(z, half) if whole and half else self._slice(z)
            if self._mode == "recursive":
                self._replace(z, made)
            self._next_out += 1
            while self._held and self._held[0][0] < self._next_out - half:
                self._held.popleft()
            yield z, made

    def _slice(self, z: int) -> NDArray[Any]:
        return next(values for k, values in self._held if k == z)

    def _median(self, z: int, half: int) -> NDArray[Any]:
        near = [values for k, values in self._held if abs(k - z) <= half]
        if len(near) < self._kernel:  # a run that begins here has not seen all of them; its halo is not put out
            return self._slice(z)
        if near[0].dtype == np.bool_:
            return np.asarray(np.sum(near, axis=0, dtype=np.uint8) > half)
        return np.asarray(np.partition(np.stack(near), half, axis=0)[half])

    def _replace(self, z: int, made: NDArray[Any]) -> None:
        self._held = deque((k, made if k == z else values) for k, values in self._held)


def require_odd(kernel: int) -> None:
    """Refuse a number of slices that has no middle.

    Raises
    ------
    RequestError
        Naming it.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise RequestError(f"--median-filter-size {kernel}: the median needs an odd number of slices; use 1, 3, 5 ...")
