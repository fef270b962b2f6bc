"""What earlier stages left on disk, opened as the tiles of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import Plan
from voxweft.engine.staged import StoredChunks, StoredLogits, TileLogits
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.stores import open_volume
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.patches import ZarrPatches
from voxweft.stores.url import records_at

PATCHES, CHUNKS = "patch logits", "merged logits"
CZYX = 4  # axes of a merged array
STORED = (PATCHES, CHUNKS)
EQUAL = ("patch_size", "overlap", "original_volume_shape", "num_parts", "tta", "tta_type", "plan_digest", "target_info")


def records_of(folder: str) -> str:
    """Where the records of a folder of parts lie."""
    return f"{folder.rstrip('/')}/voxweft-records"


def open_stored(plan: Plan) -> TileLogits:
    """The stored logits that a plan works on."""
    source = plan.source
    if source.format == PATCHES:
        parts = open_parts(source.url)
        return StoredLogits(parts, plan.grid, plan.region, absent=absent_parts(parts))
    files, size = ChunkFiles(source.url), source.chunk_zyx
    plain = not source.details.get("shard_zyx") and all(len(index) == CZYX for index in files.keys)

    def stored(box: Box) -> bool:
        if not plain:
            return True
        ranges = [range(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, size, strict=True)]
        return any((c, *i) in files.keys for i in itertools.product(*ranges) for c in range(source.n_channels))

    return StoredChunks(open_volume(source.url), stored)


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
        mine, theirs = ({k: p.attributes.get(k) for k in EQUAL} for p in (first, part))
        mine |= {"patch": first.patch_zyx, "number of classes": first.n_classes}
        theirs |= {"patch": part.patch_zyx, "number of classes": part.n_classes}
        problems += [
            f"{k} is {mine[k]} in part {numbers[0]}, {theirs[k]} in part {number}" for k in mine if mine[k] != theirs[k]
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
    ours = ledger.plan() is not None
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
            lost = set(range(len(part.starts))) - part.stored() - ledger.skipped(part.number) if ours else set()
            if lost:
                raise VolumeError(f"{folder}: part {part.number} has lost the logits of patch {min(lost)}")
        except VolumeError as error:
            if not ours:
                raise
            ledger.forget_part(part.number, n_parts)
            raise VolumeError(str(error), f"Run voxweft predict --part_id {part.number} again.") from error


def absent_parts(parts: Sequence[ZarrPatches]) -> list[int]:
    """Numbers of parts that should be there and are not."""
    present = {p.number for p in parts}
    return [i for i in range(int(parts[0].attributes.get("num_parts", 0))) if i not in present]
