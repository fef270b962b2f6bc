"""Patches that were kept, read again and woven: for exchange with other systems.

A sweep needs none of it and gives the same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.totals import Totals
from voxweft.engine.weave import Weaver
from voxweft.errors import RequestError, RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile, TileGrid
from voxweft.image.protocols import PatchLogits

AHEAD, READERS = 8, 4


class StoredLogits:
    """The logits of all parts, found by tile.

    Parameters
    ----------
    parts, grid
        The patches, and where they may lie.
    region
        Where every patch must be there; default: everywhere.
    absent
        Parts that are known to be missing, for the message.

    Raises
    ------
    RequestError
        If a patch lies where the grid has none, or a tile of the grid is in no part.
    """

    def __init__(
        self, parts: Sequence[PatchLogits], grid: TileGrid, region: Box | None = None, absent: Sequence[int] = ()
    ) -> None:
        self._parts, self.grid = parts, grid
        lookups = [
            {axis.start(i) + origin: i for i in range(axis.count)}
            for axis, origin in zip(grid.axes, grid.origin, strict=True)
        ]
        tiles = np.concatenate([self._tiles(n, lookups) for n in range(len(parts))])
        doubled = len(tiles) - len(np.unique(tiles))
        if doubled:
            raise RequestError(
                f"{doubled} patches are in two of the {len(parts)} parts; keep the parts of one run only"
            )
        order = np.argsort(tiles, kind="stable")
        self._tile = tiles[order]
        self._place = np.concatenate(
            [np.stack([np.full(len(p.starts), n), np.arange(len(p.starts))], 1) for n, p in enumerate(parts)]
        )[order]
        zs, ys, xs = grid.touching(region) if region else (range(axis.count) for axis in grid.axes)
        _, ny, nx = (axis.count for axis in grid.axes)
        wanted = np.add.outer(np.add.outer(np.array(zs) * ny, ys) * nx, xs).ravel()
        missing = len(wanted) - int(np.isin(wanted, self._tile).sum())
        if missing:
            absent_ones = f"part {', '.join(map(str, absent))}" if absent else "those that are missing"
            raise RequestError(
                f"{missing} of {len(wanted)} patches are in none of the {len(parts)} parts; run {absent_ones} first"
            )

    def read(self, tile: Tile) -> NDArray[np.float16] | None:
        """Logits [n_classes, *patch], or None where the patch was skipped."""
        number = self._number(tile.index)
        at = int(np.searchsorted(self._tile, number))
        if at == len(self._tile) or self._tile[at] != number:
            raise RunError(f"the patch at {tile.box} is in none of the parts")
        part, index = self._place[at].tolist()
        found: NDArray[np.float16] | None = self._parts[part].read(index)
        return found

    def _tiles(self, part: int, lookups: list[dict[int, int]]) -> NDArray[np.int64]:
        """The number in the grid of every patch of a part."""
        found = []
        for start in self._parts[part].starts.tolist():
            index = [lookup.get(a) for a, lookup in zip(start, lookups, strict=True)]
            if None in index:
                raise RequestError(f"part {part}: a patch begins at {tuple(start)} (z, y, x), where the grid has none")
            found.append(self._number(index))  # type: ignore[arg-type]
        return np.array(found, np.int64)

    def _number(self, index: Sequence[int]) -> int:
        _, ny, nx = (axis.count for axis in self.grid.axes)
        return (index[0] * ny + index[1]) * nx + index[2]


class StoredQueue:
    """Takes the place of the network in a sweep: reads logits a few patches ahead and weaves them in grid order."""

    def __init__(self, patches: StoredLogits, weaver: Weaver, totals: Totals) -> None:
        self._patches, self._weaver, self._totals = patches, weaver, totals
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="voxweft-patches")
        self._pending: deque[tuple[int, Tile, Future[NDArray[np.float16] | None]]] = deque()

    def __enter__(self) -> StoredQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def need(self, lo: int, hi: int) -> None:
        """Nothing to hold: patches are read one by one."""

    def expect(self, one: int, tiles: Sequence[Tile]) -> None:
        """Nothing to look at: empty patches are not there."""

    def add(self, one: int, tile: Tile) -> None:
        """Begin to read a patch; weave the oldest one in when enough are on their way."""
        self._pending.append((one, tile, self._threads.submit(self._patches.read, tile)))
        if len(self._pending) > AHEAD:
            self._collect()

    def then(self, action: Callable[[], None]) -> None:
        """Do something when all patches before it are woven in."""
        self.flush()
        action()

    def flush(self) -> None:
        """Weave in all that is on its way."""
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        import torch

        one, tile, future = self._pending.popleft()
        with self._totals.timed("wait for input"):
            logits = future.result()
        with self._totals.timed("weave"):
            if logits is None:
                self._weaver.skip(one, tile)
                self._totals.n_skipped += 1
                return
            self._weaver.add(one, tile, torch.from_numpy(logits.astype(np.float32)))
        self._totals.n_patches += 1
        self._totals.bytes_read += logits.nbytes
