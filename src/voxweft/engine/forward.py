"""Forward passes in lanes: several at once, their logits handed over in the order in which the patches came.

On a CPU every pass runs on one core and as many run at once as there are cores. That is faster than one pass on all
cores, and the bits of a pass do not depend on how many cores there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from voxweft.engine.budget import VIEWS_BYTES
from voxweft.engine.known import KnownPlanes
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.passes import Pass
from voxweft.engine.reader import PlaneReader, Reader
from voxweft.engine.totals import Totals
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile
from voxweft.model.protocols import Predictor
from voxweft.ops.augment import View
from voxweft.ops.normalize import normalize

if TYPE_CHECKING:
    import torch

SLOTS_PER_LANE = 2


class PatchTarget(Protocol):
    """Takes what becomes of patches, in the order in which they came."""

    def add(self, one: int, tile: Tile, logits: torch.Tensor) -> None:
        """The logits [n_classes, *patch] of a patch of pass ``one``."""

    def skip(self, one: int, tile: Tile) -> None:
        """A patch that did not run."""


def planes_of(opened: OpenedSweep, reach: Box, own: Box, known: KnownPlanes | None = None) -> PlaneReader:
    """The reader of a column: all voxels that its patches will need; those whose non-finite values it counts.

    ``known`` is told of what is read.
    """
    if opened.volume is None:
        raise RunError(f"stage {opened.stage.name} works on stored logits; it has no volume")
    saw = known.saw if known else None
    return PlaneReader(opened.volume, reach, opened.stage.plane_block, opened.device, own, saw)


class ForwardQueue:
    """Gathers patches, runs the networks in lanes, hands the logits over in order.

    Batches always have the same shape, so that the same patch gives the same bits; a batch holds patches of one pass.

        add -> [slot] -> lane 1: forward -+
        add -> [slot] -> lane 2: forward -+-> target, oldest first, and what ``then`` put between them

    Parameters
    ----------
    opened, totals
        What is swept; where it is counted.
    target
        Who gets the logits: a weaver, or a store of patches.
    reader
        Where voxels come from; closed in the end.
    """

    def __init__(self, opened: OpenedSweep, target: PatchTarget, totals: Totals, reader: Reader) -> None:
        import torch

        stage = opened.stage
        if len(opened.predictors) < len(stage.passes):
            raise RunError(f"stage {stage.name} works on stored logits; it has no network to run")
        self._opened, self._stage, self._target, self._totals = opened, stage, target, totals
        self._reader = reader
        self._whole = Box.of(stage.info.shape_zyx)
        self._free = [
            deque(
                torch.zeros((patches_at_once(p), stage.n_channels_of(p), *p.grid.patch), device=opened.device)
                for _ in range(SLOTS_PER_LANE * opened.n_lanes)
            )
            for p in stage.passes
        ]
        self._one = 0  # the pass whose batch is being gathered
        self._entries: list[Tile | Callable[[], None]] = []
        self._n_tiles = 0
        self._empty: dict[tuple[int, Tile], bool] = {}
        self._pending: deque[tuple[int, list[Tile | Callable[[], None]], torch.Tensor, Logits]] = deque()
        self._lanes = ThreadPoolExecutor(opened.n_lanes, thread_name_prefix="voxweft-forward")

    def __enter__(self) -> ForwardQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lanes.shutdown(wait=True, cancel_futures=True)
        self._reader.__exit__(kind, error, tb)
        self._totals.n_nonfinite += self._reader.n_nonfinite
        self._totals.bytes_read += self._reader.bytes_read

    def need(self, lo: int, hi: int) -> None:
        """Hold the planes ``lo <= z < hi`` of the input."""
        self._reader.need(lo, hi)

    def expect(self, one: int, tiles: Sequence[Tile]) -> None:
        """Look at patches of a layer before they are added: an accelerator is asked once which are empty."""
        if self._stage.skip_empty and self._opened.device != "cpu":
            boxes = [tile.box & self._whole for tile in tiles]
            found = self._reader.constant(boxes, self._stage.passes[one].channels)
            self._empty = {(one, tile): empty for tile, empty in zip(tiles, found, strict=True)}

    def add(self, one: int, tile: Tile) -> None:
        """Gather and normalise a patch of pass ``one``; start a forward pass when the batch is full."""
        if one != self._one:
            self._submit_rest()
            self._one = one
        pass_ = self._stage.passes[one]
        while not self._free[one]:
            self._collect()
        with self._totals.timed("gather"):
            valid = tile.box & self._whole
            empty = self._empty.get((one, tile)) if self._stage.skip_empty else False
            if empty:
                self._leave_out(one, tile)
                return
            slot = self._free[one][0][self._n_tiles]
            if valid != tile.box:
                slot.zero_()
            patch = slot[(slice(None), *valid.shift(tile.box.start, -1).slices)]
            self._reader.copy(valid, patch, pass_.channels)
            if empty is None and _constant(patch):
                self._leave_out(one, tile)
                return
            normalize(patch, pass_.normalization)
            if pass_.pad_with == "edge" and valid != tile.box:
                _fill_from_edges(slot, valid.shift(tile.box.start, -1))
        self._entries.append(tile)
        self._n_tiles += 1
        if self._n_tiles == patches_at_once(pass_):
            self._submit()

    def _leave_out(self, one: int, tile: Tile) -> None:
        self.then(partial(self._target.skip, one, tile))
        self._totals.n_skipped += 1

    def then(self, action: Callable[[], None]) -> None:
        """Do something as soon as all patches before it were handed over; patches after it may run meanwhile."""
        while self._pending and self._pending[0][-1].done():
            self._collect()
        if self._n_tiles:
            self._entries.append(action)
        elif self._pending:
            self._pending[-1][1].append(action)
        else:
            action()

    def flush(self) -> None:
        """Run what is gathered and hand over all that is pending."""
        self._submit_rest()
        while self._pending:
            self._collect()

    def _submit_rest(self) -> None:
        if self._n_tiles:
            self._free[self._one][0][self._n_tiles :].zero_()
            self._submit()

    def _submit(self) -> None:
        slot, pass_ = self._free[self._one].popleft(), self._stage.passes[self._one]
        predictor = self._opened.predictors[self._one]
        n_bytes = 4 * self._stage.finish.n_classes * slot[:, :1].numel() * SLOTS_PER_LANE * self._opened.n_lanes
        together = len(slot) < pass_.setting.batch_size
        apart = self._opened.device == "cpu" and not together and n_bytes * len(pass_.views) <= VIEWS_BYTES
        groups = [(view,) for view in pass_.views] if apart else [pass_.views]
        run = sum_of_joint_views if together else sum_of_views
        futures = [self._lanes.submit(run, predictor, slot, group, pass_.vectors) for group in groups]
        self._pending.append((self._one, self._entries, slot, Logits(futures, len(pass_.views))))
        self._entries, self._n_tiles = [], 0

    def _collect(self) -> None:
        one, entries, slot, mean = self._pending.popleft()
        with self._totals.timed("wait for network"):
            logits = iter(mean.result())
        for entry in entries:
            if isinstance(entry, Tile):
                with self._totals.timed("weave"):
                    self._target.add(one, entry, next(logits))
                self._totals.n_patches += 1
            else:
                entry()
        self._free[one].append(slot)


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits of a batch on their way: sums over views, in their order, which is that of one sum over all of them."""

    futures: list[Future[torch.Tensor]]
    n_views: int

    def done(self) -> bool:
        """Whether all are there."""
        return all(future.done() for future in self.futures)

    def result(self) -> torch.Tensor:
        """The mean over all views [B, n_classes, Z, Y, X]."""
        total = self.futures[0].result()
        if self.n_views == 1:
            return total
        for future in self.futures[1:]:
            total += future.result()
        return total.div_(self.n_views)


def sum_of_views(
    predictor: Predictor, batch: torch.Tensor, views: tuple[View, ...], vectors: tuple[int, ...] = ()
) -> torch.Tensor:
    """The sum of the logits [B, n_classes, Z, Y, X] over views of a batch; ``vectors`` as in :class:`Pass`."""
    import torch

    with torch.inference_mode():
        if views == (View(),):
            return predictor(batch)
        total = views[0].inverse.of_vectors(predictor(views[0](batch).contiguous()), vectors).clone()
        for view in views[1:]:
            total += view.inverse.of_vectors(predictor(view(batch).contiguous()), vectors)
        return total


def patches_at_once(one: Pass) -> int:
    """Patches of a batch: the setting's batch size, or less where all views of a patch fit into one batch.

    >>> from voxweft.geometry.tiling import TileGrid
    >>> from voxweft.model.protocols import ForwardSetting
    >>> from voxweft.ops.augment import views
    >>> grid = TileGrid.of((8, 8, 8), (8, 8, 8), 0.5, "spread")
    >>> one = Pass(0, grid, ForwardSetting("torch", "cpu", "fp32", 16, (8, 8, 8)), (), views("mirroring"))
    >>> patches_at_once(one)
    2
    """
    n_views, batch = len(one.views), one.setting.batch_size
    patch = one.grid.patch
    keep_shape = all(patch[a] == patch[b] for view in one.views for a, b in [view.swap or (0, 0)])
    return batch // n_views if keep_shape and batch % n_views == 0 else batch


def sum_of_joint_views(
    predictor: Predictor, batch: torch.Tensor, views: tuple[View, ...], vectors: tuple[int, ...] = ()
) -> torch.Tensor:
    """As :func:`sum_of_views`, with all views in one batch [n_views x B, C, Z, Y, X], view after view."""
    import torch

    with torch.inference_mode():
        seen = predictor(torch.cat([view(batch) for view in views])).chunk(len(views))
        total = views[0].inverse.of_vectors(seen[0], vectors).clone()
        for view, logits in zip(views[1:], seen[1:], strict=True):
            total += view.inverse.of_vectors(logits, vectors)
        return total


@contextmanager
def cores_each(device: str, n_threads: int = 1) -> Iterator[None]:
    """Make torch use so many cores per call on a CPU, and set it back."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill_from_edges(slot: torch.Tensor, valid: Box) -> None:
    """Give what lies around a box of a patch [C, Z, Y, X] the values of its outermost voxels."""
    for axis, (lo, hi) in enumerate(zip(valid.start, valid.stop, strict=True), start=1):
        n = slot.shape[axis]
        slot.narrow(axis, 0, lo).copy_(slot.narrow(axis, lo, 1).expand_as(slot.narrow(axis, 0, lo)))
        slot.narrow(axis, hi, n - hi).copy_(slot.narrow(axis, hi - 1, 1).expand_as(slot.narrow(axis, hi, n - hi)))


def _constant(patch: torch.Tensor) -> bool:
    """Whether every channel of a patch on the host holds one value only; two voxels settle most cases."""
    for channel in patch.numpy():
        z, y, x = (n // 2 for n in channel.shape)
        if channel[0, 0, 0] != channel[z, y, x] or channel.min() != channel.max():
            return False
    return True
