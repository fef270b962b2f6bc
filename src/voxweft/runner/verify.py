"""Whether everything is there, as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxweft.engine.commit import PIECES, checksum
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import Plan
from voxweft.engine.stage import Output, Stage
from voxweft.errors import IncompleteError, ReadError
from voxweft.geometry.box import Box
from voxweft.runner.place import Place
from voxweft.runner.records import plan_of, tells_another_plan
from voxweft.stores import open_sink


def verify(output: Any, emit: Emit = silent) -> dict[str, Any]:
    """Check that every voxel is there, from one plan, as it was written.

    Every unit of every stage that writes arrays is read back and its checksum compared with the ledger's; stages
    without arrays must be complete. A unit that is not what was written is struck from the ledger, with all that was
    made from it, so that the same command computes it again.

    Returns
    -------
    dict
        Counts, plain JSON values.

    Raises
    ------
    IncompleteError
        Naming the units that are missing or differ.

    Examples
    --------
    >>> import numpy as np, voxweft
    >>> sink, image = open_sink("memory://"), np.random.default_rng(0).random((20, 20, 20))
    >>> done = voxweft.run(image, sink, "fake://null?patch=16,16,16")
    >>> verify(sink)["n_units"]
    1
    """
    sink = open_sink(output)
    plan, ledger = plan_of(sink)
    place = Place.at(output, plan)
    place.open(plan)
    stages = [stage for stage in plan.stages if place.wants(stage)]
    problems = _problems(plan, ledger, stages, place, emit)
    if tells_another_plan(sink.url, ledger):
        problems.append("the plan in its attributes is not the one that it was made by")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise IncompleteError(
            f"{sink.url}: {'; '.join(problems[:5])}{more}. Run the same command again to complete it."
        )
    return {
        "output": sink.url,
        "plan_digest": plan.digest,
        "n_units": plan.main.n_units,
        "noun": plan.main.noun,
        "n_levels": place.sink.n_levels() if place.sink else 0,
        "stages": {stage.name: stage.n_units for stage in stages},
    }


def strike_lost(plan: Plan, ledger: Ledger, stages: Sequence[Stage], place: Place, emit: Emit) -> list[str]:
    """Strike the units of finished stages whose files are not there any more; what is wrong with them, in words.

    The files of each array are listed and their number compared with the ledger's; only where they differ the array is
    read.

    Raises
    ------
    VolumeError
        If the metadata of an array are not there.
    """
    place.open(plan)
    short = [stage for stage in stages if not _has_all_files(stage, place, ledger)]
    return _problems(plan, ledger, short, place, emit)


def _has_all_files(stage: Stage, place: Place, ledger: Ledger) -> bool:
    outputs = [output for output in stage.outputs if output.spec]
    counts = [record.get("n_files") or [None] * len(outputs) for record in ledger.records(stage.name).values()]
    for output, wanted in zip(outputs, zip(*counts, strict=True), strict=False):
        if None not in wanted and place.sink_of(output).n_files(output.level) != sum(wanted):
            return False
    return True


def _problems(plan: Plan, ledger: Ledger, stages: Sequence[Stage], place: Place, emit: Emit) -> list[str]:
    """What is missing or not what was written, in words; the latter is struck from the ledger."""
    n_all, n_seen, problems = sum(stage.n_units for stage in stages), 0, list[str]()
    for stage in stages:
        done = ledger.done(stage.name)
        for unit in range(stage.n_units):
            n_seen += 1
            if unit not in done:
                problems.append(f"{_named(stage, unit)} is missing")
            elif not _is_as_written(stage, unit, place, ledger):
                problems.append(f"{_named(stage, unit)} is not what was written")
                strike(plan, ledger, stage, unit)
            emit(Event("progress", "verifying", {"n_done": n_seen, "n_units": n_all}))
    return problems


def strike(plan: Plan, ledger: Ledger, stage: Stage, unit: int) -> None:
    """Take a unit from the ledger, and all units of later stages that read what it wrote."""
    ledger.forget(stage.name, unit)
    box = stage.box(unit)
    for later in plan.after(stage.name):
        done = ledger.done(later.name)
        for other in done:
            read = later.reads(other)[stage.name]
            if read is None or box is None or (read & box).n_voxels:
                strike(plan, ledger, later, other)


def _named(stage: Stage, unit: int) -> str:
    box = stage.box(unit)
    return f"{stage.label(unit)} ({box})" if box else stage.label(unit)


def _is_as_written(stage: Stage, unit: int, place: Place, ledger: Ledger) -> bool:
    """Whether what is stored of a unit has the checksum of the ledger."""
    box, outputs = stage.box(unit), [output for output in stage.outputs if output.spec]
    if box is None or not outputs:
        return True
    record, boxes = ledger.record(stage.name, unit), [box]
    if PIECES in record:
        corners = ledger.table(stage.name, unit).get(PIECES, ()) if record[PIECES] else ()
        boxes = [Box(tuple(corner[:3]), tuple(corner[3:])) for corner in np.asarray(corners).tolist()]
        if len(boxes) != record[PIECES]:
            return False
    return _checksums(outputs, boxes, place) == record.get("crc32")


def _checksums(outputs: list[Output], boxes: Sequence[Box], place: Place) -> list[int] | None:
    """crc32 of the voxels of boxes in each output; None where they cannot be read."""
    crc = [0] * len(outputs)
    try:
        for box in boxes:
            crc = [checksum(place.sink_of(o).read(box, o.level), c) for o, c in zip(outputs, crc, strict=True)]
    except ReadError:
        return None
    return crc
