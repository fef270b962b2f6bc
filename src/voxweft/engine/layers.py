"""Layers of patches: those of one pass that begin on one plane."""

from __future__ import annotations

from dataclasses import dataclass, replace

from voxweft.engine.stage import Sweep
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import Tile


@dataclass(frozen=True, slots=True)
class PatchLayer:
    """The patches of one pass that begin on one plane of a column.

    Attributes
    ----------
    one, z_index
        The pass, and the index along z.
    planes
        First plane of the patches, and the one after their last; they may leave the volume.
    end
        Planes below are final after it.
    tiles
        The patches.
    """

    one: int
    z_index: int
    planes: tuple[int, int]
    end: int
    tiles: tuple[Tile, ...] = ()

    def with_tiles(self, tiles: tuple[Tile, ...]) -> PatchLayer:
        """The same with patches."""
        return replace(self, tiles=tiles)


def layer_heads(stage: Sweep, box: Box) -> list[PatchLayer]:
    """The layers of all passes that meet a box, in the order of their first planes, still without patches."""
    found = []
    for one, pass_ in enumerate(stage.passes):
        grid = pass_.grid
        for z in grid.touching(box)[0]:
            start = grid.axes[0].start(z) + grid.origin[0]
            found.append((start, one, z, start + grid.patch[0]))
    found.sort()
    ends = [*(start for start, *_ in found[1:]), box.stop[0]]
    return [
        PatchLayer(one, z, (start, stop), min(end, box.stop[0]))
        for (start, one, z, stop), end in zip(found, ends, strict=True)
    ]


def patch_layers(stage: Sweep, box: Box) -> list[PatchLayer]:
    """The layers of all passes that meet a box, with all patches that meet it."""
    across = [one.grid.touching(box)[1:] for one in stage.passes]
    layers = []
    for head in layer_heads(stage, box):
        (ys, xs), grid = across[head.one], stage.passes[head.one].grid
        layers.append(head.with_tiles(tuple(grid.tile((head.z_index, y, x)) for y in ys for x in xs)))
    return layers
