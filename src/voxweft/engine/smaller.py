"""A plan that needs less memory of the device: half the batch, then half the column."""

from __future__ import annotations

from dataclasses import replace

from voxweft.engine.plan import Plan
from voxweft.engine.stage import Pass, Stage, Sweep


def smaller(plan: Plan) -> tuple[Plan, str] | None:
    """The plan with half the batch, or with half the column where the batch is one patch, and what was done in words.

    None where nothing can be halved: batches that a model fixes, columns of one shard.
    """
    for halve in (_batches, _columns):
        found = [
            (stage, *halve(plan, stage)) if isinstance(stage, Sweep) else (stage, stage, "") for stage in plan.stages
        ]
        if text := next((text for _, _, text in found if text), ""):
            note = f"the device ran out of memory; {text}"
            return replace(plan, stages=tuple(stage for _, stage, _ in found), notes=(*plan.notes, note)), note
    return None


def _batches(plan: Plan, stage: Sweep) -> tuple[Stage, str]:
    def halved(one: Pass) -> Pass:
        fixed = plan.models[one.model].card.batch_size
        n = one.setting.batch_size
        return one if fixed or n < 2 else replace(one, setting=replace(one.setting, batch_size=n // 2))

    passes = tuple(map(halved, stage.passes))
    if passes == stage.passes:
        return stage, ""
    before, now = (max(one.setting.batch_size for one in of) for of in (stage.passes, passes))
    return replace(stage, passes=passes), f"the batch is now {now} instead of {before}"


def _columns(_plan: Plan, stage: Sweep) -> tuple[Stage, str]:
    if stage.stores or not stage.outputs:
        return stage, ""
    before, shard = stage.columns.column_yx, stage.spec.shard_zyx[1:]
    rows, columns = (-(-n // s) for n, s in zip(before, shard, strict=True))
    if max(rows, columns) < 2:
        return stage, ""
    rows, columns = (-(-rows // 2), columns) if rows >= columns else (rows, -(-columns // 2))
    now = rows * shard[0], columns * shard[1]
    text = f"columns are now {now[0]} x {now[1]} voxels (y x) instead of {before[0]} x {before[1]}"
    return replace(stage, columns=replace(stage.columns, column_yx=now)), text
