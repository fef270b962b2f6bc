"""Patches that are kept unwoven: the network over layers of patches, their logits to a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.forward import ForwardQueue, cores_each, planes_of
from voxweft.engine.masking import MaskPlanes
from voxweft.engine.opened import OpenedSweep
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile
from voxweft.image.protocols import PatchLogits
from voxweft.ops.activate import to_half

if TYPE_CHECKING:
    import torch

AHEAD, WRITERS = 8, 4


def keep_patches(opened: OpenedSweep, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Run the network on the patches of consecutive layers of one part and write their logits.

    A layer is complete when the logits of all its patches are durable; its record names those that were skipped.

    Raises
    ------
    RunError
        If the network returns values that are not finite, or a store refuses.
    """
    import torch

    stage, totals, kept = opened.stage, commit.totals, opened.stage.kept
    if kept is None or opened.store_of is None:
        raise RunError(f"stage {stage.name} has no place to keep patches")
    part, _ = kept.place(units.start)
    whole, unit, first = Box.of(stage.info.shape_zyx), kept.layers_of(part).start, 0
    with (
        torch.inference_mode(),
        cores_each(opened.device, opened.n_threads),
        _PatchWriter(opened.store_of(part)) as writer,
    ):
        for column in kept.tiles(part):
            todo = []
            for layer in column:
                if unit in units:
                    todo.append((unit, first, layer))
                unit, first = unit + 1, first + len(layer)
            if not todo:
                continue
            reach = reach_of(layer for _, _, layer in todo) & whole
            with (
                ForwardQueue(opened, writer, totals, planes_of(opened, reach, whole)) as queue,
                MaskPlanes(opened.mask, reach, stage.info.shape_zyx) as mask,
            ):
                for number, start, layer in todo:
                    if not goes_on(number):
                        break
                    planes = layer[0].box & whole
                    with totals.timed("wait for input"):
                        queue.need(planes.start[0], planes.stop[0])
                        mask.need(planes.start[0], planes.stop[0])
                    writer.expect(layer, start)
                    queue.expect(0, [tile for tile in layer if not mask.misses(tile.box & whole)])
                    for tile in layer:
                        if mask.misses(tile.box & whole):
                            writer.skip(0, tile)
                            totals.n_skipped += 1
                        else:
                            queue.add(0, tile)
                    queue.flush()
                    record = {"n_patches": len(layer), "skipped": writer.skipped}
                    writer.then(partial(commit, number, record=record))
    totals.bytes_written += writer.bytes_written


def reach_of(layers: Iterable[Sequence[Tile]]) -> Box:
    """The smallest box around patches."""
    starts, stops = zip(*((tile.box.start, tile.box.stop) for layer in layers for tile in layer), strict=True)
    return Box(
        tuple(map(min, zip(*starts, strict=True))),
        tuple(map(max, zip(*stops, strict=True))),
    )


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
                self._await_oldest()
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def expect(self, layer: Sequence[Tile], first: int) -> None:
        """The patches that come next; the first of them has this number in the store."""
        self._numbers = {tile.index: first + i for i, tile in enumerate(layer)}
        self.skipped = []

    def add(self, _one: int, tile: Tile, logits: torch.Tensor) -> None:
        """Write the logits of a patch."""
        if not bool(logits.sum().isfinite()):
            raise RunError(
                f"the network returned NaN or Inf for the patch at {tile.box}",
                "Look at the input there, or use --precision fp32.",
            )
        values = to_half(logits.cpu().numpy())
        if not values.any():
            self.skip(_one, tile)
            return
        self.bytes_written += values.nbytes
        self._pending.append(self._threads.submit(self._target.write, self._numbers[tile.index], values))
        while len(self._pending) > AHEAD:
            self._await_oldest()

    def skip(self, _one: int, tile: Tile) -> None:
        """A skipped patch has no logits on disk; nor has one whose logits are all 0."""
        self.skipped.append(self._numbers[tile.index])

    def then(self, action: Callable[[], None]) -> None:
        """Do something once all that was added so far is written."""
        self._pending.append(action)

    def _await_oldest(self) -> None:
        oldest = self._pending.popleft()
        if isinstance(oldest, Future):
            oldest.result()
        else:
            oldest()
