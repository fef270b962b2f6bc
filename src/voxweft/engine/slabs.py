"""Finished planes are collected into slabs; each slab is written in a thread, with the tally of its voxels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.commit import Commit
from voxweft.engine.op import Table, joined
from voxweft.engine.stage import Sweep
from voxweft.geometry.box import Box


class Tally:
    """Voxels of each label of a slab, and the sum of their confidences; a table of int64 and float64 [1, n_labels]."""

    def __init__(self, n_labels: int) -> None:
        self._voxels = np.zeros(n_labels, np.int64)
        self._confidence = np.zeros(n_labels)

    def add(self, labels: NDArray[Any], uncertainty: NDArray[np.float32] | None) -> None:
        """Count voxels; ``uncertainty`` is the entropy of each, 0 to 1."""
        flat, n = labels.ravel(), len(self._voxels)
        self._voxels += np.bincount(flat, minlength=n)
        if uncertainty is not None:
            self._confidence += np.bincount(flat, 1.0 - uncertainty.ravel().astype(np.float64), minlength=n)

    @property
    def table(self) -> Table:
        """What was counted."""
        return {"voxels": self._voxels[None], "confidence": self._confidence[None]}


class SlabWriter:
    """Collects finished planes into slabs and writes each in a thread, one at a time."""

    def __init__(self, stage: Sweep, units: range, commit: Commit) -> None:
        self._stage, self._commit, self._totals = stage, commit, commit.totals
        self._specs = [output.spec for output in stage.outputs if output.spec]
        self._rows: list[Table] = []
        self._units = iter(units)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="voxweft-write")
        self._pending: Future[None] | None = None
        self._started = time.perf_counter()
        self._patches = 0
        self._spare: list[tuple[NDArray[Any], ...]] = []
        self._open_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._wait()
        finally:
            self._thread.shutdown(wait=True)

    @property
    def unit(self) -> int | None:
        """The slab that is being filled; None after the last."""
        return self._unit

    def final(self, end: int) -> list[NDArray[Any]]:
        """The planes [C, Z, Y, X] below ``end`` of the slab that is being filled, of each output."""
        return [buffer[:, : max(0, end - self._box.start[0])] for buffer in self._buffers]

    def put(self, z: int, y: int, values: Sequence[NDArray[Any]], box: Box) -> None:
        """Place a strip [C, 1, rows, width], one an output, whose row 0 is row ``y`` of the swept box."""
        if z >= self._box.stop[0]:
            self._close()
        z0, y0, x0 = self._box.start
        row, left = box.start[1] + y - y0, box.start[2] - x0
        for buffer, strip in zip(self._buffers, values, strict=False):  # what is only tallied has no buffer
            buffer[:, z - z0, row : row + strip.shape[2], left : left + strip.shape[3]] = strip[:, 0]
        if self._tally:
            self._tally.add(values[0], values[-1] if self._stage.tallies_confidence else None)

    def note(self, rows: Table) -> None:
        """Add rows to the table of the slab that is being filled, before its next plane."""
        self._rows.append(rows)

    def advance(self, z: int) -> None:
        """All planes below ``z`` are in; write the slab if it is complete."""
        if self._unit is not None and z >= min(self._box.stop[0], self._stage.region.stop[0]):
            self._close()

    def _open_next(self) -> None:
        self._unit = next(self._units, None)
        if self._unit is None:
            return
        stage = self._stage
        self._box = stage.slab_box(self._unit)
        self._tally = Tally(stage.n_tallied) if stage.n_tallied else None
        self._make_room()

    def _make_room(self) -> None:
        """Empty buffers for a slab, used ones if they fit."""
        sizes = [(spec.n_channels, *self._box.shape) for spec in self._specs]
        if self._spare and [a.shape for a in self._spare[0]] == sizes:
            self._buffers = self._spare.pop()
            for buffer in self._buffers:
                buffer.fill(0)
        else:
            self._buffers = tuple(np.zeros(n, spec.dtype) for n, spec in zip(sizes, self._specs, strict=True))

    def _close(self) -> None:
        with self._totals.timed("wait for output"):
            self._wait()
        now = time.perf_counter()
        record = {"n_patches": self._totals.n_patches - self._patches, "seconds": round(now - self._started, 3)}
        self._started, self._patches = now, self._totals.n_patches
        self._pending = self._written(self._unit or 0, record)
        self._open_next()

    def _written(self, unit: int, record: dict[str, Any]) -> Future[None]:
        """Begin to write the slab that is full."""
        table = self._tally.table if self._tally else joined(self._rows) or None
        self._rows = []
        return self._thread.submit(self._write, unit, self._buffers, table, record)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, unit: int, buffers: tuple[NDArray[Any], ...], table: Table | None, record: dict[str, Any]) -> None:
        self._commit(unit, buffers, table=table, record=record)
        self._spare = [buffers]
