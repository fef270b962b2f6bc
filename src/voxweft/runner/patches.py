"""Folders of patches that were kept: their parts, and whether they are whole."""

from __future__ import annotations

from collections.abc import Sequence

from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import PatchesRef, Plan
from voxweft.engine.planning import SWEEP
from voxweft.engine.stored import StoredLogits
from voxweft.errors import RequestError, VolumeError
from voxweft.stores.patches import ZarrPatches
from voxweft.stores.url import records_at

EQUAL = (
    "patch_size", "overlap", "original_volume_shape", "num_parts", "tta", "tta_type", "plan_digest", "target_info",
    "activation", "label_ids",
)  # fmt: skip


def records_of(folder: str) -> str:
    """Where the records of a folder of parts lie."""
    return f"{folder.rstrip('/')}/voxweft-records"


def open_patches(ref: PatchesRef) -> StoredLogits:
    """The patches of all parts, found by their place.

    Raises
    ------
    RequestError
        If parts are missing or do not belong together.
    """
    parts = open_parts(ref.folder)
    return StoredLogits(parts, ref.grid, ref.region, absent=absent_parts(parts))


def verify_parts(folder: str) -> dict[str, int] | None:
    """Check the parts of a folder and count them and their patches; None where it holds none.

    Raises
    ------
    RequestError
        As :func:`open_parts` and :func:`require_whole`; also where parts are missing.
    """
    if not ZarrPatches.numbers(folder):
        return None
    parts = open_parts(folder)
    require_whole(folder, parts)
    if absent := absent_parts(parts):
        raise RequestError(f"{folder}: parts {', '.join(map(str, absent))} are missing; predict them")
    return {"n_parts": len(parts), "n_patches": sum(len(p.starts) for p in parts)}


def open_parts(folder: str) -> list[ZarrPatches]:
    """All parts of a folder, after a look at whether they belong together.

    Raises
    ------
    RequestError
        If there is none, or parts differ in what they must share.
    """
    numbers = ZarrPatches.numbers(folder)
    if not numbers:
        raise VolumeError(
            f"{folder} holds no logits_part_*.zarr and coordinates_part_*.zarr; run voxweft predict first"
        )
    parts = [ZarrPatches.open(folder, n) for n in numbers]
    first = parts[0]
    problems = []
    for number, part in zip(numbers, parts, strict=True):
        first_said, theirs = ({k: p.attributes.get(k) for k in EQUAL} for p in (first, part))
        first_said |= {"patch": first.patch_zyx, "number of classes": first.n_classes}
        theirs |= {"patch": part.patch_zyx, "number of classes": part.n_classes}
        problems += [
            f"{k} is {first_said[k]} in part {numbers[0]}, {theirs[k]} in part {number}"
            for k in first_said
            if first_said[k] != theirs[k]
        ]
        if "patch_size" in part.attributes and tuple(part.attributes["patch_size"]) != part.patch_zyx:
            problems.append(f"part {number} says patch {part.attributes['patch_size']} and holds {part.patch_zyx}")
    for part in parts:
        count = part.attributes.get("num_parts", part.number + 1)
        if part.attributes.get("part_id", part.number) != part.number or part.number >= count:
            problems.append(f"part {part.number} says it is part {part.attributes.get('part_id')} of {count}")
    shape = first.attributes.get("original_volume_shape", ())
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        problems.append(f"part {numbers[0]} says that its original_volume_shape is {shape}")
    if problems:
        raise RequestError(f"{folder}: the parts do not belong together: {'; '.join(problems[:3])}")
    return parts


def require_whole(folder: str, parts: Sequence[ZarrPatches]) -> None:
    """Look through all stored chunks, once and before anything is written.

    A part of voxweft's that is damaged is struck from the ledger, so that its command predicts it again.

    Raises
    ------
    RequestError
        If a part is unfinished, or a chunk is cut short or lost.
    """
    ledger = Ledger(records_at(records_of(folder)))
    plan = ledger.plan()
    ours = plan is not None
    units = Plan.from_json(plan).sweep.pieces() if plan else ()
    n_parts = int(parts[0].attributes.get("num_parts", len(parts)))
    unfinished = [i for i in range(n_parts) if ours and not ledger.report(f"parts/{i}-of-{n_parts}.json")]
    if unfinished:
        named = ", ".join(map(str, unfinished[:10])) + (", ..." if len(unfinished) > 10 else "")
        raise RequestError(
            f"{folder}: not finished of {n_parts} parts: {named}. Run voxweft predict --part_id for each."
        )
    for part in parts:
        try:
            part.check()
            lost = (
                set(range(len(part.starts))) - part.stored() - _skipped(ledger, units[part.number]) if ours else set()
            )
            if lost:
                raise VolumeError(f"{folder}: part {part.number} has lost the logits of patch {min(lost)}")
        except VolumeError as error:
            if not ours:
                raise
            ledger.forget_report(f"parts/{part.number}-of-{n_parts}.json")
            for unit in units[part.number]:
                ledger.forget(SWEEP, unit)
            raise VolumeError(str(error), f"Run voxweft predict --part_id {part.number} again.") from error


def _skipped(ledger: Ledger, units: range) -> set[int]:
    """Numbers of the patches of a part that were skipped."""
    return {n for unit in units for n in ledger.record(SWEEP, unit).get("skipped", ())}


def absent_parts(parts: Sequence[ZarrPatches]) -> list[int]:
    """Numbers of parts that should be there and are not."""
    present = {p.number for p in parts}
    return [i for i in range(int(parts[0].attributes.get("num_parts", 0))) if i not in present]
