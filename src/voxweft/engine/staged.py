"""Staged runs: logits of patches on disk, blended later, for exchange with other systems.

A fused run needs none of it and gives the same result.

    predict_part   tiles -> network -> PatchLogits          any number of parts, of equal load
    StoredQueue    TileLogits -> the same sweep as ever     blending, finishing, writing

Blending takes its tiles from patches (:class:`StoredLogits`). Finishing what was blended before is a sweep too: its
tiles are the stored chunks, which do not overlap (:class:`StoredChunks`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.events import Event
from voxweft.engine.masking import MaskLayers
from voxweft.errors import RequestError, RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile, TileGrid
from voxweft.image.protocols import PatchLogits, Volume
from voxweft.ops.activate import to_half

if TYPE_CHECKING:
    import torch

    from voxweft.engine.job import Job, Tally
    from voxweft.engine.plan import Plan
    from voxweft.engine.weave import Weaver

AHEAD, WRITERS = 8, 4
Layers = dict[int, list[Tile]]


def tiles_of_part(plan: Plan, index: int, count: int) -> Iterator[Layers]:
    """The tiles of a part, column by column: a dictionary of layers (tiles by their z index) for each column.

    Tiles are numbered column by column (each belongs to the column where it begins), then z, y, x. Shares are
    consecutive numbers and differ by at most one tile, so no part is empty unless there are fewer tiles than parts.
    """
    ranges = [_owned(plan, column) for column in range(plan.columns.n_columns)]
    sizes = [len(z) * len(y) * len(x) for z, y, x in ranges]
    lo, hi = (i * sum(sizes) // count for i in (index, index + 1))
    first = 0
    for (zs, ys, xs), size in zip(ranges, sizes, strict=True):
        layers: Layers = {}
        for number in range(max(lo - first, 0), min(hi - first, size)):
            rest, x = divmod(number, len(xs))
            z, y = divmod(rest, len(ys))
            layers.setdefault(zs[z], []).append(plan.grid.tile((zs[z], ys[y], xs[x])))
        if layers:
            yield layers
        first += size


def _owned(plan: Plan, column: int) -> tuple[range, range, range]:
    """Indices z, y, x of the tiles that begin in a column; tiles that begin before the volume count as at 0."""
    box = plan.columns.box(column, range(plan.columns.n_slabs)) & plan.region
    found = []
    touching = plan.grid.touching(plan.region)
    for axis in range(3):
        tiles, origin = plan.grid.axes[axis], plan.grid.origin[axis]
        lo = 0 if box.start[axis] == plan.region.start[axis] else box.start[axis]
        hi = max(tiles.extent, box.stop[axis]) if box.stop[axis] == plan.region.stop[axis] else box.stop[axis]
        a, b = (bisect_left(range(tiles.count), at, key=lambda i: max(0, tiles.start(i) + origin)) for at in (lo, hi))
        found.append(range(max(a, touching[axis].start), min(b, touching[axis].stop)))
    return found[0], found[1], found[2]


def predict_part(job: Job, columns: Sequence[Layers], target: PatchLogits, tally: Tally, part: int = 0) -> None:
    """Run the network on the tiles of a part and write their logits, in the order of ``target.starts``.

    A layer of tiles is marked in the ledger when the logits of all its tiles are durable; marked layers are left out.
    """
    import torch

    from voxweft.engine.forward import ForwardQueue, one_core_each

    whole = Box.of(job.plan.source.shape_zyx)
    done = job.ledger.layers(part)
    number = first = 0
    with torch.inference_mode(), one_core_each(job.device), _PatchWriter(target) as writer:
        for column in columns:
            layers = []
            for layer in column.values():
                if number not in done:
                    layers.append((number, first, layer))
                number, first = number + 1, first + len(layer)
            if not layers:
                continue
            reach = reach_of(layer for _, _, layer in layers) & whole
            with (
                ForwardQueue(job, writer, tally, reach, whole) as queue,
                MaskLayers(job.mask, reach, job.plan.source.shape_zyx) as mask,
            ):
                for index, start, layer in layers:
                    valid = layer[0].box & whole
                    with tally.timed("wait for input"):
                        queue.need(valid.start[0], valid.stop[0])
                        mask.need(valid.start[0], valid.stop[0])
                    writer.expect(layer, start)
                    for tile in layer:
                        if mask.misses(tile.box & whole):
                            writer.skip(tile)
                            tally.n_skipped += 1
                        else:
                            queue.add(tile)
                    queue.flush()
                    writer.then(partial(_mark, job, (part, index, len(layer)), writer.skipped))
    tally.bytes_written += writer.bytes_written


def reach_of(layers: Iterable[Sequence[Tile]]) -> Box:
    """The smallest box around tiles."""
    starts, stops = zip(*((tile.box.start, tile.box.stop) for layer in layers for tile in layer), strict=True)
    return Box(
        tuple(map(min, zip(*starts, strict=True))),
        tuple(map(max, zip(*stops, strict=True))),
    )


def _mark(job: Job, which: tuple[int, int, int], skipped: list[int]) -> None:
    part, layer, n_tiles = which
    job.ledger.mark_layer(part, layer, skipped)
    job.emit(Event("layer", data={"part": part, "layer": layer, "n_patches": n_tiles}))


class _PatchWriter:
    """Writes logits as float16 in threads, a few ahead; an error of any write is raised, never only noted."""

    def __init__(self, target: PatchLogits) -> None:
        self._target = target
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="voxweft-patches")
        self._pending: deque[Future[None] | Callable[[], None]] = deque()
        self.bytes_written = 0
        self.skipped: list[int] = []

    def __enter__(self) -> _PatchWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            while self._pending and kind is None:
                self._settle()
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def expect(self, layer: Sequence[Tile], first: int) -> None:
        """The tiles that come next; the first of them has this number in the store."""
        self._numbers = {tile.index: first + i for i, tile in enumerate(layer)}
        self.skipped = []

    def add(self, tile: Tile, logits: torch.Tensor) -> None:
        """Write the logits of a patch."""
        if not bool(logits.sum().isfinite()):
            raise RunError(
                f"the network returned NaN or Inf for the patch at {tile.box}",
                "Look at the input there, or use --precision fp32.",
            )
        values = to_half(logits.cpu().numpy())
        if not values.any():
            self.skip(tile)
            return
        self.bytes_written += values.nbytes
        self._pending.append(self._threads.submit(self._target.write, self._numbers[tile.index], values))
        while len(self._pending) > AHEAD:
            self._settle()

    def skip(self, tile: Tile) -> None:
        """A skipped patch has no logits on disk; nor has one whose logits are all 0."""
        self.skipped.append(self._numbers[tile.index])

    def then(self, action: Callable[[], None]) -> None:
        """Do something once all that was added so far is written."""
        self._pending.append(action)

    def _settle(self) -> None:
        oldest = self._pending.popleft()
        if isinstance(oldest, Future):
            oldest.result()
        else:
            oldest()


class TileLogits(Protocol):
    """Logits that an earlier stage stored, tile by tile."""

    def read(self, tile: Tile) -> NDArray[np.float16] | None:
        """Logits [n_classes, *patch] of a tile, or None where there are none."""

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """Where in plane ``z`` of the tiles read last no patch ever ran, [Y, X] of ``box``; None for nowhere."""


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
        self._parts, self._grid = parts, grid
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
            which = f"part {', '.join(map(str, absent))}" if absent else "those that are missing"
            raise RequestError(
                f"{missing} of {len(wanted)} patches are in none of the {len(parts)} parts; run {which} first"
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

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """Nowhere; tiles without logits are enough."""
        return None

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
        _, ny, nx = (axis.count for axis in self._grid.axes)
        return (index[0] * ny + index[1]) * nx + index[2]


class StoredChunks:
    """Blended logits of an earlier stage, chunk by chunk: the tiles of a grid without overlap.

    Where every class is exactly 0 no patch ran; such a voxel becomes background, and a chunk of nothing else is left
    out, as is one that is not stored at all.

    Parameters
    ----------
    volume
        Logits [C, Z, Y, X].
    stored
        Whether anything is stored in a box.
    """

    def __init__(self, volume: Volume, stored: Callable[[Box], bool]) -> None:
        self._volume, self._stored = volume, stored
        self._bare: dict[Box, NDArray[np.bool_]] = {}
        self._whole = Box.of(volume.info.shape_zyx)

    def read(self, tile: Tile) -> NDArray[np.float16] | None:
        """Logits [n_classes, *patch], zeros beyond the volume's end."""
        valid = tile.box & self._whole
        logits = self.box(valid)
        if logits is None:
            return None
        bare = np.asarray(~logits.any(axis=0))
        if bare.any():
            self._bare[valid] = bare
        if valid == tile.box:
            return logits
        full = np.zeros((len(logits), *tile.box.shape), logits.dtype)
        full[(slice(None), *valid.shift(tile.box.start, -1).slices)] = logits
        return full

    def outside(self, z: int, box: Box) -> NDArray[np.bool_] | None:
        """The voxels of plane ``z`` whose logits are all 0; planes are asked for in ascending order."""
        self._bare = {b: m for b, m in self._bare.items() if b.stop[0] > z}
        if not self._bare:
            return None
        found = np.zeros(box.shape[1:], np.bool_)
        for tile, bare in self._bare.items():
            shared = tile & box
            if shared.n_voxels and shared.start[0] <= z < shared.stop[0]:
                _, ys, xs = shared.shift(tile.start, -1).slices
                np.copyto(found[shared.shift(box.start, -1).slices[1:]], bare[z - tile.start[0], ys, xs])
        return found

    def box(self, box: Box) -> NDArray[np.float16] | None:
        """Logits [n_classes, ...] of a box as they are stored, or None where all are 0."""
        if not self._stored(box):
            return None
        logits = self._volume.read(box)
        return logits if logits.any() else None


class StoredQueue:
    """Takes the place of the network in a sweep: reads logits a few patches ahead and weaves them in grid order."""

    def __init__(self, stored: TileLogits, weaver: Weaver, tally: Tally) -> None:
        self._stored, self._weaver, self._tally = stored, weaver, tally
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="voxweft-patches")
        self._pending: deque[tuple[Tile, Future[NDArray[np.float16] | None]]] = deque()

    def __enter__(self) -> StoredQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def need(self, lo: int, hi: int) -> None:
        """Nothing to hold: patches are read one by one."""

    def add(self, tile: Tile) -> None:
        """Begin to read a patch; weave the oldest one in when enough are on their way."""
        self._pending.append((tile, self._threads.submit(self._stored.read, tile)))
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

        tile, future = self._pending.popleft()
        with self._tally.timed("wait for input"):
            logits = future.result()
        with self._tally.timed("weave"):
            if logits is None:
                self._weaver.skip(tile)
                self._tally.n_skipped += 1
                return
            self._weaver.add(tile, torch.from_numpy(logits.astype(np.float32)))
        self._tally.n_patches += 1
        self._tally.bytes_read += logits.nbytes
