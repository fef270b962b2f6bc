"""Numbers of a whole volume that a plan needs: blocks that are computed before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume
from voxweft.ops.normalize import Statistics
from voxweft.stores.memory import MemoryRecords

AT_ONCE = 2  # blocks of up to 2^25 voxels, each with a copy in float64


def statistics_of(volume: Volume, op: Op, emit: Emit = silent) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The tables of an operation on all blocks of a volume, in their order; it is read once."""
    info = volume.info
    stage = Blocks(
        name="measure",
        op=op,
        sources=(Source(VOLUME),),
        outputs=(),
        shape_zyx=info.shape_zyx,
        region=Box.of(info.shape_zyx),
        block_zyx=block_of_chunks(info.shape_zyx, info.chunk_zyx),
        at_once=AT_ONCE,
    )
    opened = OpenedBlocks(stage, (OpenedVolume(volume),))
    for units in stage.runs(range(stage.n_units)):
        ledger = Ledger(MemoryRecords())
        compute_blocks(opened, units, Commit(stage, (), ledger, silent), lambda _unit: True)
        for unit in units:  # in their order, which decides the last bits
            yield ledger.table(stage.name, unit)
        emit(Event("statistics", "measuring the volume", {"done": units.stop, "total": stage.n_units}))


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
    if not any(scheme.needs_statistics for schemes in asked for scheme in schemes):
        return asked
    statistics = moments_of(volume, emit=emit)
    full = (s * volume.info.n_channels if len(s) == 1 else s for s in asked)
    return tuple(
        tuple(statistics.filled(scheme, c) for c, scheme in enumerate(schemes))
        if any(scheme.needs_statistics for scheme in schemes)
        else asked[n]
        for n, schemes in enumerate(full)
    )
