"""How often the chunks of a scroll are decoded, counted box by box; renews its table in RESULTS.md.

Usage: python benchmarks/read_amplification.py

The scroll of 24,297 x 7,593 x 7,593 voxels (uint8, chunks of 128^3, patches of 192^3) is not there and need not be:
the boxes that a run would read are counted chunk by chunk. Beside it stands what `voxweft plan` says of the same plan.
"""

from __future__ import annotations

import math

import numpy as np
from results import keep
from voxweft.engine.staged import reach_of, tiles_of_part

from voxweft.apps.scroll.options import StageOptions
from voxweft.engine.budget import Budget
from voxweft.engine.plan import Plan
from voxweft.engine.planning import make_plan
from voxweft.engine.reader import layers
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.model.card import ModelCard

SHAPE, CHUNK, PATCH = (24297, 7593, 7593), (128, 128, 128), (192, 192, 192)


def count(plan: Plan, boxes: list[Box]) -> float:
    """Chunk decodes / chunks, from the boxes that the reader fetches one by one."""
    grid = tuple(math.ceil(n / c) for n, c in zip(SHAPE, CHUNK, strict=True))
    decoded = np.zeros(grid, np.int32)
    for box in boxes:
        for layer in layers(box, plan.layer_z):
            decoded[
                tuple(slice(a // c, -(-b // c)) for a, b, c in zip(layer.start, layer.stop, CHUNK, strict=True))
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
    for stage, output in (("pipeline (fused)", "probability"), ("predict", "patches")):
        for gigabytes in (4, 8, 16, 32, 64, 128):
            budget = Budget(gigabytes * 10**9, gigabytes * 10**9)
            try:
                plan = make_plan(info, card, StageOptions(output=output), budget=budget)
            except RequestError:
                continue
            columns = [plan.columns.box(c, range(plan.columns.n_slabs)) for c in range(plan.columns.n_columns)]
            if output == "patches":
                boxes = [reach_of(part.values()) & whole for part in tiles_of_part(plan, 0, 1)]
            else:
                boxes = [plan.reach(box) for box in columns]
            told = sum(plan.n_decoded(box) for box in boxes) / plan.n_decoded(whole)
            lines.append(
                f"| {stage} | {gigabytes} | {plan.columns.n_columns} | {plan.columns.column_yx} | "
                f"{count(plan, boxes):.3f} | {told:.3f} |"
            )
    keep("read amplification", "\n".join(lines))


if __name__ == "__main__":
    main()
