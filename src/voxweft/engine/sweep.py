"""The sweep: read, forward, weave, finish, write; planes go in at one end and finished slabs come out at the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from voxweft.engine.cells import CellMask
from voxweft.engine.checkpoint import Checkpoints
from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.finishing import Finishing, SameGrid, finishing
from voxweft.engine.finishing_device import OnDevice
from voxweft.engine.forward import ForwardQueue, cores_each, planes_of
from voxweft.engine.known import KnownPlanes
from voxweft.engine.layers import PatchLayer, patch_layers
from voxweft.engine.masking import Mask, MaskPlanes
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.sparse import CellFinishing, CellWeaver, CellWriter, ChunkReader, sparse_layers
from voxweft.engine.stage import Sweep
from voxweft.engine.stored import StoredQueue
from voxweft.engine.totals import Totals
from voxweft.engine.weave import Weaver
from voxweft.errors import RunError
from voxweft.geometry.box import Box

AHEAD = 1  # patch layers that may be begun while an earlier one is not finished


def sweep(opened: OpenedSweep, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Compute consecutive slabs of a column and write each one once; fewer where the work does not go on.

    Raises
    ------
    ReadError, WriteError
        From the stores; what was written before stays and is not computed again.
    RunError
        If the network returns values that are not finite.
    """
    import torch

    stage, totals = opened.stage, commit.totals
    made = stage.swept(units)
    box, reach = stage.source_box(made), stage.reach(made)
    if stage.sparse:
        _sweep_cells(opened, units, made, commit, goes_on)
        return
    weaver = Weaver(stage, box, opened.device)
    known = KnownPlanes(box) if stage.tells_known else None
    with (
        torch.inference_mode(),
        MaskPlanes(opened.mask, reach, stage.info.shape_zyx) as mask,
        SlabWriter(stage, units, commit) as writer,
        cores_each(opened.device, opened.n_threads),
        _source(opened, weaver, totals, (reach, box), known) as patches,
    ):
        there = opened.device != "cpu" and stage.regrid is None
        finish = (OnDevice if there else finishing)(stage, made, weaver, mask, writer, known)
        loom = Loom(stage, box, patches, weaver, mask, writer, finish)
        if stage.keeps_sums and isinstance(finish, SameGrid) and not opened.patches:
            loom = replace(loom, kept=Checkpoints(stage, commit, weaver, finish, writer))
        _weave(patch_layers(stage, box), loom, totals, goes_on)
    if loom.kept:
        loom.kept.forget()


def _sweep_cells(opened: OpenedSweep, units: range, made: Box, commit: Commit, goes_on: GoesOn) -> None:
    """The same for a sweep that visits only what its mask touches."""
    import torch

    stage, totals = opened.stage, commit.totals
    if opened.mask is None or opened.volume is None:
        raise RunError(f"stage {stage.name} is sparse and needs a mask and a volume")
    cell = stage.spec.chunk_zyx
    mask = CellMask(opened.mask, stage.info.shape_zyx, cell, made)
    weaver, reader = CellWeaver(stage, mask, opened.device), ChunkReader(opened.volume, made, opened.device)
    with (
        torch.inference_mode(),
        CellWriter(stage, units, commit, cell) as writer,
        cores_each(opened.device, opened.n_threads),
        ForwardQueue(opened, weaver, totals, reader) as patches,
    ):
        finish = CellFinishing(stage, made, weaver, mask, writer)
        layers = sparse_layers(stage, made, mask, reader)
        _weave(layers, Loom(stage, made, patches, weaver, mask, writer, finish), totals, goes_on)


@dataclass(frozen=True, slots=True)
class Loom:
    """What a column is woven with; all of them work on the same patches, and the same planes."""

    stage: Sweep
    box: Box
    patches: ForwardQueue | StoredQueue
    weaver: Weaver | CellWeaver
    mask: Mask
    writer: SlabWriter
    finish: Finishing
    kept: Checkpoints | None = None


def _weave(layers: Iterable[PatchLayer], loom: Loom, totals: Totals, goes_on: GoesOn) -> None:
    """Layer by layer: hold its planes, run its patches, finish what is final after it."""
    patches, weaver, mask, extent = loom.patches, loom.weaver, loom.mask, loom.stage.info.shape_zyx[0]
    n_finished, cursor, unit = 0, loom.box.start[0], loom.writer.unit  # finished layers; the first plane that is not
    n_before = 0
    if loom.kept:
        every = list(layers)
        layers, n_before = loom.kept.find(every)
        totals.n_restored += sum(len(layer.tiles) for layer in every[: len(every) - len(layers)]) + n_before
        cursor = loom.kept.cursor
    for n, layer in enumerate(layers):
        if loom.writer.unit != unit:
            unit = loom.writer.unit
            if unit is not None and not goes_on(unit):
                break
        first, last = max(0, layer.planes[0]), min(extent, layer.planes[1])
        with totals.timed("wait for input"):
            patches.need(first, last)
            mask.need(min(cursor, first), last)
        if not n_before:
            patches.then(partial(weaver.begin_layer, layer.one, layer.z_index))
        tiles, n_before, n_left_out = layer.tiles[n_before:], 0, n_before
        missed = [mask.misses(tile.box & loom.box) for tile in tiles]
        patches.expect(layer.one, [tile for tile, out in zip(tiles, missed, strict=True) if not out])
        for k, (tile, out) in enumerate(zip(tiles, missed, strict=True), start=n_left_out + 1):
            if out:
                patches.then(partial(weaver.skip, layer.one, tile))
                totals.n_skipped += 1
            else:
                patches.add(layer.one, tile)
            if loom.kept:
                patches.then(partial(loom.kept.look, layer, k))

        def end_layer(end: int = layer.end) -> None:
            nonlocal cursor, n_finished
            n_finished += 1
            cursor = max(cursor, end)
            with totals.timed("finish"):
                loom.finish.to(end)
            if loom.kept:
                loom.kept.forget()

        patches.then(end_layer)
        if n - n_finished >= AHEAD:
            patches.flush()
    patches.flush()
    with totals.timed("finish"):
        loom.finish.end()


def _source(
    opened: OpenedSweep, weaver: Weaver, totals: Totals, boxes: tuple[Box, Box], known: KnownPlanes | None
) -> ForwardQueue | StoredQueue:
    """Where logits come from: the network, or patches that were kept."""
    if opened.patches is not None:
        return StoredQueue(opened.patches, weaver, totals)
    return ForwardQueue(opened, weaver, totals, planes_of(opened, *boxes, known))
