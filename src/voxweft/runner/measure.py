"""Numbers of a whole volume that a plan needs: blocks that are computed before it."""

from __future__ import annotations

from voxweft.engine.blocks import compute_blocks, moments_block
from voxweft.engine.calibrate import block_of_chunks
from voxweft.engine.commit import Commit
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Op
from voxweft.engine.opened import OpenedBlocks, OpenedVolume
from voxweft.engine.plan import VOLUME
from voxweft.engine.planning import Schemes
from voxweft.engine.stage import Blocks, Source
from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume
from voxweft.ops.normalize import Statistics
from voxweft.stores.memory import MemoryRecords

AT_ONCE = 2  # blocks of up to 2^25 voxels, each with a copy in float64


def measure_volume(volume: Volume, asked: tuple[Schemes, ...], emit: Emit = silent) -> tuple[Schemes, ...]:
    """Fill in the numbers that schemes take from the whole volume; it is read once for all models."""
    if not any(scheme.needs_statistics for schemes in asked for scheme in schemes):
        return asked
    info, statistics = volume.info, Statistics(volume.info.n_channels)
    stage = Blocks(
        name="measure",
        op=Op.of(moments_block),
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
            statistics.add(ledger.table(stage.name, unit))
        emit(Event("statistics", "measuring the volume", {"done": units.stop, "total": stage.n_units}))
    full = (s * info.n_channels if len(s) == 1 else s for s in asked)
    return tuple(
        tuple(statistics.filled(scheme, c) for c, scheme in enumerate(schemes))
        if any(scheme.needs_statistics for scheme in schemes)
        else asked[n]
        for n, schemes in enumerate(full)
    )
