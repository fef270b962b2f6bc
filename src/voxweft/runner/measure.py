"""Numbers of a whole volume that a plan needs: blocks that are computed before it, or a sample of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.blocks import compute_blocks, moments_block, nonzero_block
from voxweft.engine.commit import Commit
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Op
from voxweft.engine.opened import OpenedBlocks, OpenedVolume
from voxweft.engine.plan import VOLUME
from voxweft.engine.planning import Schemes
from voxweft.engine.samples import block_of_chunks
from voxweft.engine.stage import Blocks, Source
from voxweft.engine.totals import n_cores
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.sampling import spread_points
from voxweft.image.protocols import Volume
from voxweft.ops.normalize import Statistics, moments
from voxweft.stores.memory import MemoryRecords

HELD_BYTES = 1 << 30  # of blocks of up to 2^25 voxels that are held at once
FEW_VOXELS = 1 << 25  # of which all are measured, even where an estimate would do
N_SAMPLES, SAMPLE = 64, 128  # boxes, and their longest side
TRIES = 16  # places a sample, for one where anything is stored
Table = Mapping[str, NDArray[Any]]


def statistics_of(volume: Volume, op: Op, emit: Emit = silent) -> Iterator[Table]:
    """The tables of an operation on all blocks of a volume, in their order, computed on all cores; it is read once.

    Blocks of which nothing is stored hold one value: of each shape the first one is read, and stands for the others.
    """
    info = volume.info
    block = block_of_chunks(info.shape_zyx, info.chunk_zyx)
    n_bytes = math.prod(block) * info.n_channels * np.dtype(info.dtype).itemsize
    stage = Blocks(
        name="measure",
        op=op,
        sources=(Source(VOLUME),),
        outputs=(),
        shape_zyx=info.shape_zyx,
        region=Box.of(info.shape_zyx),
        block_zyx=block,
        at_once=max(2, min(n_cores(), HELD_BYTES // n_bytes)),
    )
    opened = OpenedBlocks(stage, (OpenedVolume(volume),))
    stores = stores_of(volume) if op == Op.of(moments_block) else _everywhere
    empty = dict[Zyx, Table]()
    for units in stage.runs(range(stage.n_units)):
        ledger, boxes = Ledger(MemoryRecords()), [stage.box(unit) for unit in units]
        vacant = [not stores(box) for box in boxes]
        known = [out and box.shape in empty for box, out in zip(boxes, vacant, strict=True)]
        todo = [unit for unit, there in zip(units, known, strict=True) if not there]
        for run in stage.runs(todo):
            compute_blocks(opened, run, Commit(stage, (), ledger, silent), lambda _unit: True)
        for unit, box, out, there in zip(units, boxes, vacant, known, strict=True):  # the order decides the last bits
            table = empty[box.shape] if there else ledger.table(stage.name, unit)
            if out:
                empty[box.shape] = table
            yield table
        emit(Event("statistics", "measuring the volume", {"done": units.stop, "total": stage.n_units}))


def _everywhere(_box: Box) -> bool:
    return True


def stores_of(volume: Volume) -> Callable[[Box], bool]:
    """Whether anything of a box is stored; true where a volume cannot tell."""
    return getattr(volume, "stores", _everywhere)


def nonzero_box(volume: Volume, emit: Emit = silent) -> Box:
    """The smallest box that holds all voxels which are not 0 in some channel; the whole volume where there are none."""
    tables = [t for t in statistics_of(volume, Op.of(nonzero_block), emit) if t["stop"].any()]
    if not tables:
        return Box.of(volume.info.shape_zyx)
    start = np.concatenate([t["start"] for t in tables]).min(axis=0)
    stop = np.concatenate([t["stop"] for t in tables]).max(axis=0)
    return Box(tuple(map(int, start)), tuple(map(int, stop)))  # type: ignore[arg-type]


def moments_of(volume: Volume, *, masked: bool = False, emit: Emit = silent) -> Statistics:
    """Moments of all voxels, or of those that are not 0 in some channel."""
    statistics = Statistics(volume.info.n_channels)
    for table in statistics_of(volume, Op.of(moments_block, masked=masked) if masked else Op.of(moments_block), emit):
        statistics.add(table)
    return statistics


def measure_volume(volume: Volume, asked: tuple[Schemes, ...], emit: Emit = silent) -> tuple[Schemes, ...]:
    """Fill in the numbers that schemes take from the whole volume; it is read once for all models."""
    return _filled(volume, asked, moments_of(volume, emit=emit)) if _needs(asked) else asked


def estimate_volume(volume: Volume, asked: tuple[Schemes, ...]) -> tuple[tuple[Schemes, ...], tuple[str, ...]]:
    """The same from a sample of chunks spread over the volume, and how far that may be from the truth, in words.

    A volume of which little is stored is measured.
    """
    info, stores = volume.info, stores_of(volume)
    if not _needs(asked) or math.prod(info.shape_zyx) <= FEW_VOXELS:
        return measure_volume(volume, asked), ()
    sample = _Sample(volume, stores)
    found = sample.statistics()
    error = sample.errors()
    numbers = [
        f"mean {found.mean[c]:.5g} +- {error[0, c]:.2g}, standard deviation {found.std(c):.5g} +- {error[1, c]:.2g}"
        for c in range(info.n_channels)
    ]
    if any(one.scheme == "global_minmax" for schemes in asked for one in schemes):
        numbers.append("the lowest and highest value are those of the sample")
    note = (
        f"estimated from {len(sample.tables)} chunks ({sample.share:.2%} of the volume is stored): "
        f"{'; '.join(numbers)}. voxweft run measures all that is stored, once"
    )
    return _filled(volume, asked, found), (note,)


class _Sample:
    """Moments of boxes that are spread over what is stored of a volume, and of what is not stored."""

    def __init__(self, volume: Volume, stores: Callable[[Box], bool]) -> None:
        self._n_channels = volume.info.n_channels
        boxes, vacant, self.share = _spread(volume, stores)
        self.tables: list[Table] = [moments(volume.read(box)) for box in boxes]
        self._vacant: Table | None = moments(volume.read(vacant)) if vacant else None

    def statistics(self, without: int = -1) -> Statistics:
        """Of the whole volume, judged by all boxes but one."""
        found = Statistics(self._n_channels)
        for n, table in enumerate(self.tables):
            if n != without:
                found.add(table)
        if self._vacant is not None:
            n = round(found.count * (1 / self.share - 1)) if self.share else 1
            found.add({**self._vacant, "count": np.array([max(1, n)]), "m2": np.zeros((1, self._n_channels))})
        return found

    def errors(self) -> NDArray[np.float64]:
        """Standard errors of mean and standard deviation of each channel, by leaving out one box after the other."""
        k = len(self.tables)
        if k < 2:
            return np.full((2, self._n_channels), np.inf if k else 0.0)
        some = [self.statistics(without=n) for n in range(k)]
        values = np.array([[s.mean, [s.std(c) for c in range(self._n_channels)]] for s in some])
        return np.asarray(np.sqrt((k - 1) * values.var(axis=0)))


def _spread(volume: Volume, stores: Callable[[Box], bool]) -> tuple[list[Box], Box | None, float]:
    """Boxes of stored chunks, one that is not stored, and the share of all chunks that are."""
    info, whole = volume.info, Box.of(volume.info.shape_zyx)
    listed = volume.stored_boxes(N_SAMPLES, SAMPLE) if hasattr(volume, "stored_boxes") else None
    if listed is not None:
        return listed  # type: ignore[no-any-return]
    found, vacant = list[Box](), None
    n_looked = 0
    for point in spread_points(whole, TRIES * N_SAMPLES):
        n_looked += 1
        start = tuple(p // c * c for p, c in zip(point, info.chunk_zyx, strict=True))
        stop = tuple(a + min(c, SAMPLE) for a, c in zip(start, info.chunk_zyx, strict=True))
        box = Box(start, stop) & whole  # type: ignore[arg-type]
        if stores(box):
            found.append(box)
        else:
            vacant = box
        if len(found) == N_SAMPLES:
            break
    return found, vacant, len(found) / n_looked


def _needs(asked: Sequence[Schemes]) -> bool:
    return any(scheme.needs_statistics for schemes in asked for scheme in schemes)


def _filled(volume: Volume, asked: tuple[Schemes, ...], statistics: Statistics) -> tuple[Schemes, ...]:
    full = (s * volume.info.n_channels if len(s) == 1 else s for s in asked)
    return tuple(
        tuple(statistics.filled(scheme, c) for c, scheme in enumerate(schemes)) if _needs([schemes]) else asked[n]
        for n, schemes in enumerate(full)
    )
