"""The sweep: read, forward, weave, finish, write; planes go in at one end and finished slabs come out at the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.finishing import finishing
from voxweft.engine.forward import ForwardQueue, one_core_each
from voxweft.engine.known import KnownPlanes
from voxweft.engine.masking import MaskPlanes
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.stage import Sweep
from voxweft.engine.stored import StoredQueue
from voxweft.engine.totals import Totals
from voxweft.engine.weave import Weaver
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile

AHEAD = 1  # patch layers that may be begun while an earlier one is not finished


@dataclass(frozen=True, slots=True)
class PatchLayer:
    """The patches of one pass that begin on one plane of a column; ``end``: planes below are final after it."""

    one: int
    z_index: int
    tiles: tuple[Tile, ...]
    end: int


def patch_layers(stage: Sweep, box: Box) -> list[PatchLayer]:
    """The layers of all passes that meet a box, in the order of their first planes."""
    found = []
    for one, pass_ in enumerate(stage.passes):
        zs, ys, xs = pass_.grid.touching(box)
        for z in zs:
            tiles = tuple(pass_.grid.tile((z, y, x)) for y in ys for x in xs)
            found.append((tiles[0].box.start[0], one, z, tiles))
    found.sort(key=lambda layer: layer[:3])
    ends = [*(start for start, *_ in found[1:]), box.stop[0]]
    return [
        PatchLayer(one, z, tiles, min(end, box.stop[0])) for (_, one, z, tiles), end in zip(found, ends, strict=True)
    ]


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
    made, whole = stage.swept(units), Box.of(stage.info.shape_zyx)
    box, reach = stage.source_box(made), stage.reach(made)
    weaver = Weaver(stage, box, opened.device)
    known = KnownPlanes(box) if stage.tells_known else None
    with (
        torch.inference_mode(),
        MaskPlanes(opened.mask, reach, stage.info.shape_zyx) as mask,
        SlabWriter(stage, units, commit) as writer,
        one_core_each(opened.device),
        _source(opened, weaver, totals, (reach, box), known) as patches,
    ):
        finish = finishing(stage, made, weaver, mask, writer, known)
        n_finished, cursor = 0, box.start[0]  # patch layers that are finished; the first plane that is not
        unit = writer.unit
        for n, layer in enumerate(patch_layers(stage, box)):
            if writer.unit != unit:
                unit = writer.unit
                if unit is not None and not goes_on(unit):
                    break
            planes = layer.tiles[0].box & whole
            with totals.timed("wait for input"):
                patches.need(planes.start[0], planes.stop[0])
                mask.need(min(cursor, planes.start[0]), planes.stop[0])
            patches.then(partial(weaver.begin_layer, layer.one, layer.z_index))
            for tile in layer.tiles:
                if mask.misses(tile.box & box):
                    patches.then(partial(weaver.skip, layer.one, tile))
                    totals.n_skipped += 1
                else:
                    patches.add(layer.one, tile)

            def end_layer(end: int = layer.end) -> None:
                nonlocal cursor, n_finished
                n_finished += 1
                cursor = max(cursor, end)
                with totals.timed("finish"):
                    finish.to(end)

            patches.then(end_layer)
            if n - n_finished >= AHEAD:
                patches.flush()
        patches.flush()


def _source(
    opened: OpenedSweep, weaver: Weaver, totals: Totals, boxes: tuple[Box, Box], known: KnownPlanes | None
) -> ForwardQueue | StoredQueue:
    """Where logits come from: the network, or patches that were kept."""
    if opened.patches is not None:
        return StoredQueue(opened.patches, weaver, totals)
    return ForwardQueue(opened, weaver, totals, *boxes, known)
