"""How often the chunks of a scroll are decoded, counted box by box; renews its table in RESULTS.md.

Usage: python benchmarks/read_amplification.py

The scroll of 24,297 x 7,593 x 7,593 voxels (uint8, chunks of 128^3, patches of 192^3) is not there and need not be:
the boxes that a run would read are counted chunk by chunk. Beside it stands what `voxweft plan` says of the same plan.
"""

from __future__ import annotations

import math

import numpy as np
from results import keep

from voxweft.apps.scroll.options import StageOptions
from voxweft.engine.budget import Budget
from voxweft.engine.keep import reach_of
from voxweft.engine.passes import Sweep
from voxweft.engine.planning import make_plan
from voxweft.engine.reader import plane_blocks
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.model.card import ModelCard

SHAPE, CHUNK, PATCH = (24297, 7593, 7593), (128, 128, 128), (192, 192, 192)


def count(stage: Sweep, boxes: list[Box]) -> float:
    """Chunk decodes / chunks, from the boxes that the reader fetches one by one."""
    grid = tuple(math.ceil(n / c) for n, c in zip(SHAPE, CHUNK, strict=True))
    decoded = np.zeros(grid, np.int32)
    for box in boxes:
        for block in plane_blocks(box, stage.plane_block):
            decoded[
                tuple(slice(a // c, -(-b // c)) for a, b, c in zip(block.start, block.stop, CHUNK, strict=True))
            ] += 1
    return float(decoded.sum() / decoded.size)


def main() -> None:
    info = VolumeInfo("scroll", "OME-Zarr 0.4", SHAPE, "uint8", chunk_zyx=CHUNK)
    card = ModelCard("surface", "nnU-Net v2", "", PATCH)
    whole = Box.of(SHAPE)
    lines = [
        "| stage | buffers, GB | columns | column y x | chunks decoded / chunks, counted | as `voxweft plan` says |",
        "|---|---|---|---|---|---|",
    ]
    for name, output in (("pipeline (fused)", "probability"), ("predict", "patches")):
        for gigabytes in (4, 8, 16, 32, 64, 128):
            budget = Budget(gigabytes * 10**9, gigabytes * 10**9)
            try:
                stage = make_plan(info, card, StageOptions(output=output), budget=budget).sweep
            except RequestError:
                continue
            if stage.kept:
                boxes = [reach_of(column) & whole for column in stage.kept.tiles(0)]
            else:
                boxes = [stage.reach(stage.swept(run)) for run in stage.runs(range(stage.n_units))]
            forecast = sum(stage.n_decoded(box) for box in boxes) / stage.n_decoded(whole)
            lines.append(
                f"| {name} | {gigabytes} | {stage.columns.n_columns} | {stage.columns.column_yx} | "
                f"{count(stage, boxes):.3f} | {forecast:.3f} |"
            )
    keep("read amplification", "\n".join(lines))


if __name__ == "__main__":
    main()
