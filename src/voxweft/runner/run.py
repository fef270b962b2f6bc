"""From a plan to a finished output: parts, executors, resolution levels, reports."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from voxweft.apps.parts import compute
from voxweft.apps.prepare import Prepared, adopt
from voxweft.apps.workers import WorkerOptions, Workers
from voxweft.engine.attempts import LEVELS, Attempt, attempt, redone
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.job import Tally
from voxweft.engine.ledger import REPORT_KEY, Ledger
from voxweft.engine.options import option
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report, environment, peak_memory_bytes, tally_dict
from voxweft.errors import IncompleteError, ReadError, RequestError, RunError
from voxweft.geometry.box import Box
from voxweft.image.protocols import Sink
from voxweft.stores import open_sink
from voxweft.stores.url import absolute, records_at
from voxweft.version import __version__

COMPLETE, PARTIAL, FAILED = "complete", "partial", "failed"
IN_MEMORY = "memory://"


@dataclass(frozen=True, slots=True)
class Execution(WorkerOptions):
    """Where the work is done; nothing here changes a bit of the output.

    Attributes
    ----------
    executor, scheduler, workers
        "serial", "processes", "dask" (workers of its own, or those of a scheduler), or any
        :class:`concurrent.futures.Executor`; how many workers (0: one a device, or one a core).
    num_parts, part_id
        Do only share ``part_id`` of ``num_parts``; -1: all of them.
    overwrite
        Delete what an earlier run wrote to the same output.
    prepare
        Only store the plan and make the empty output; parts that begin later need not plan again.
    command
        The command line, for the record.

    Examples
    --------
    >>> Execution(num_parts=4, part_id=1).executor
    'auto'
    >>> Execution(part_id=1)
    Traceback (most recent call last):
    voxweft.errors.RequestError: --part-id 1 needs --num-parts
    """

    num_parts: int = option(0, "Divide the work into N parts; 0: up to 8 a worker.")
    part_id: int = option(-1, "Do only this part, 0 to N-1, for one job of many; -1: all of them.")
    overwrite: bool = option(False, "Delete what an earlier run wrote to OUTPUT.")
    prepare: bool = option(False, "Store the plan and make the empty OUTPUT, for parts to follow; compute nothing.")
    command: str = ""

    def __post_init__(self) -> None:
        WorkerOptions.__post_init__(self)
        problems = []
        if self.num_parts < 0:
            problems.append(f"--num-parts {self.num_parts} is negative")
        if self.part_id >= 0 and self.num_parts < 1:
            problems.append(f"--part-id {self.part_id} needs --num-parts")
        elif self.part_id < -1 or self.part_id >= max(self.num_parts, 1):
            problems.append(
                f"--part-id {self.part_id} with --num-parts {self.num_parts}: use 0 to {max(self.num_parts, 1) - 1}"
            )
        if self.prepare and self.part_id >= 0:
            problems.append("--prepare comes before the parts; leave --part-id out")
        if self.overwrite and self.part_id >= 0:
            problems.append(
                "--overwrite with --part-id would delete what the other parts wrote; delete OUTPUT and its records"
            )
        if problems:
            raise RequestError(*problems)


def execute(prepared: Prepared, sink: Sink, workers: Workers, execution: Execution, emit: Emit) -> Report:
    """Store or adopt the plan, compute what is missing, complete the output if all is there.

    Raises
    ------
    RunError
        If parts failed; the others are complete, and the report names those that are not.
    """
    started = time.perf_counter()
    if workers.kind != "serial" and IN_MEMORY in (sink.url, prepared.plan.source.url, prepared.plan.mask):
        raise RequestError("other processes cannot see what lies in this one's memory; give paths, or executor serial")
    for url in (prepared.plan.source.url, prepared.plan.mask):
        require_apart(url, sink.url)
    if execution.overwrite:
        sink.remove()
    ledger = Ledger(sink.records)
    prepared, first = settle(prepared, ledger, workers.devices[0], emit)
    plan = prepared.plan
    sink.create(plan.spec)
    if first:
        sink.set_attributes({**provenance(plan, execution.command), **plan.card.attributes})
    emit(Event("begin", data={"n_slabs": plan.columns.n_units, "n_done": len(ledger.slabs())}))
    share = (execution.num_parts, execution.part_id)
    parts, failures = ([], {}) if execution.prepare else compute(prepared, sink, share, workers, emit)
    done = len(ledger.slabs())
    status = FAILED if failures else COMPLETE if done == plan.columns.n_units else PARTIAL
    n_bytes = build_levels(sink, ledger, plan, emit) if status == COMPLETE else 0
    outcome = (status, done, n_bytes, time.perf_counter() - started)
    report = _report(plan, sink, parts, outcome, workers.devices[0], execution.command)
    told = {str(n): str(error) for n, error in failures.items()}
    report = replace(report, failures=told, redone=redone(ledger, plan.columns))
    name = REPORT_KEY if execution.part_id < 0 else f"parts/{execution.part_id}-of-{execution.num_parts}.json"
    if not execution.prepare:
        ledger.put_report(name, report.to_dict())
    if status == COMPLETE and name != REPORT_KEY:
        ledger.put_report(REPORT_KEY, _of_all_parts(report, ledger).to_dict())
    emit(Event("done", status, report.to_dict()))
    if failures:
        if len(failures) == 1 and workers.kind == "serial":
            raise failures.popitem()[1]
        raise _failure(failures, len(parts))
    return report


def _failure(failures: dict[int, Exception], n_complete: int) -> RunError:
    """An error that names the parts that failed."""
    reasons: dict[str, list[int]] = {}
    for n, error in sorted(failures.items()):
        reasons.setdefault(str(error).splitlines()[0] if str(error) else type(error).__name__, []).append(n)
    told = [f"part {', '.join(map(str, numbers))}: {reason}" for reason, numbers in [*reasons.items()][:2]]
    others = "The others are complete. " if n_complete else ""
    return RunError(
        f"{len(failures)} of {len(failures) + n_complete} parts failed and were set aside; "
        f"{'; '.join(told).rstrip('.')}.\n"
        f"{others}See report.json beside the output, and run the same command again for the rest."
    )


def settle(prepared: Prepared, ledger: Ledger, device: str, emit: Emit) -> tuple[Prepared, bool]:
    """Store the plan, or follow the one that is stored; whether this was the first."""
    mine = prepared.plan.to_json()
    stored = ledger.adopt_plan(mine)
    if stored != mine and Plan.from_json(stored) != prepared.plan:
        prepared = adopt(Plan.from_json(stored), prepared.plan, prepared, device)
    plan = prepared.plan
    emit(Event("plan", f"{plan.columns.n_units} slabs, {plan.n_patches_computed} patches", {"digest": plan.digest}))
    for note in plan.notes:
        emit(Event("note", note))
    return prepared, stored == mine


def require_apart(source: str, output: str) -> None:
    """Refuse an output that is the input, holds it, or lies inside its array."""
    if not source or IN_MEMORY in (source, output):
        return
    read, written = (f"{absolute(url).rstrip('/')}/" for url in (source, output))
    if read.startswith(written) or (written.startswith(read) and read.endswith(".zarr/")):
        raise RequestError(f"{output} and {source}, which is read, lie in each other; choose another place to write")


def check_output(sink: Sink, execution: Execution) -> None:
    """Refuse an output that is not voxweft's, or of which only the records are left."""
    if execution.overwrite:
        return
    require_no_old_records(sink.url)
    ledger = Ledger(sink.records)
    if not sink.exists() and ledger.slabs():
        raise RequestError(
            f"{sink.url} is gone, but the records of its slabs in {sink.url}.voxweft are there.",
            "Delete them too, or give --overwrite.",
        )
    if sink.exists() and ledger.plan() is None:
        raise RequestError(f"{sink.url} exists and is not the output of a voxweft run; choose another OUTPUT")


def require_no_old_records(url: str) -> None:
    """Refuse an output of release 0.1.0, whose command was called weft; its records cannot be continued or read."""
    if url != IN_MEMORY and records_at(f"{url}.weft").get("plan.json") is not None:
        raise RequestError(
            f"{url} was written by release 0.1.0 (command weft), whose records in {url}.weft this release cannot use.",
            f"The result itself opens as before. To compute it anew, delete {url} and {url}.weft.",
        )


def build_levels(sink: Sink, ledger: Ledger, plan: Plan, emit: Emit = silent) -> int:
    """Make the halved resolution levels of the region, shard by shard; those that are there are left. Bytes written."""
    n_bytes = 0
    for level in range(1, sink.n_levels()):
        shards, done = _level_shards(sink, plan, level), ledger.blocks(level)
        todo = [n for n in range(len(shards)) if n not in done]
        with attempt(ledger, Attempt(LEVELS, 0)) if todo else nullcontext():
            for n in todo:
                sink.build_level(level, shards[n])
                ledger.mark_block(level, n)
                n_bytes += shards[n].n_voxels * plan.spec.n_channels * np.dtype(plan.spec.dtype).itemsize
        emit(Event("level", f"resolution level {level}", {"level": level, "shape": sink.shape(level)}))
    return n_bytes


def _level_shards(sink: Sink, plan: Plan, level: int) -> list[Box]:
    """The shards of a level that the region meets."""
    whole = Box.of(sink.shape(level))
    start, stop = (tuple(-(-n // 2**level) for n in corner) for corner in (plan.region.start, plan.region.stop))
    region = Box(tuple(max(0, a - 1) for a in start), stop) & whole
    return [cell & whole for cell in region.cells(plan.spec.shard_zyx)]


def report_of(ledger: Ledger) -> Report:
    """The report that a finished run left."""
    stored = ledger.report()
    known = {f.name for f in fields(Report)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    return Report(**values)


def provenance(plan: Plan, command: str = "") -> dict[str, Any]:
    """What an output says of its making; enough for ``voxweft run --plan`` to repeat it."""
    return {
        "voxweft": {
            "version": __version__,
            "command": command,
            "plan_digest": plan.digest,
            "model_digest": plan.card.digest,
            "input_fingerprint": plan.fingerprint,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "plan": json.loads(plan.to_json()),
        }
    }


def plan_of(sink: Sink) -> tuple[Plan, Ledger]:
    """The plan of an output and its ledger.

    Raises
    ------
    RequestError
        If voxweft did not write it.
    """
    ledger = Ledger(sink.records)
    stored = ledger.plan()
    if stored is None:
        require_no_old_records(sink.url)
        raise RequestError(f"{sink.url} is not the output of a voxweft run: no plan lies beside it")
    return Plan.from_json(stored), ledger


def verify(output: Any, emit: Emit = silent) -> dict[str, Any]:
    """Check that every voxel is there, from one plan, as it was written.

    Every slab is read back and its checksum compared with the ledger's; every resolution level must be complete. A slab
    that is not what was written is struck from the ledger, so that the same command computes it again.

    Returns
    -------
    dict
        Counts, plain JSON values.

    Raises
    ------
    IncompleteError
        Naming the slabs or levels that are missing or differ.

    Examples
    --------
    >>> import numpy as np, voxweft
    >>> sink, image = open_sink("memory://"), np.random.default_rng(0).random((20, 20, 20))
    >>> done = voxweft.run(image, sink, "fake://null?patch=16,16,16")
    >>> verify(sink)["n_slabs"]
    1
    """
    sink = open_sink(output)
    plan, ledger = plan_of(sink)
    sink = open_sink(output, layout=plan.spec.layout, order=plan.spec.order)
    sink.open()
    done, problems = ledger.slabs(), []
    units = [(c, s) for c in range(plan.columns.n_columns) for s in range(plan.columns.n_slabs)]
    for n, (column, slab) in enumerate(units, start=1):
        box = plan.columns.box(column, range(slab, slab + 1))
        if (column, slab) not in done:
            problems.append(f"slab {slab} of column {column} ({box}) is missing")
        elif _checksum(sink, box) != ledger.slab_record(column, slab).get("crc32"):
            problems.append(f"slab {slab} of column {column} ({box}) is not what was written")
            ledger.forget_slab(column, slab)
        emit(Event("progress", "verifying", {"n_done": n, "n_slabs": len(units)}))
    if not problems:
        made = {k: len(ledger.blocks(k)) == len(_level_shards(sink, plan, k)) for k in range(1, sink.n_levels())}
        problems = [f"resolution level {k} is missing" for k, complete in made.items() if not complete]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise IncompleteError(
            f"{sink.url}: {'; '.join(problems[:5])}{more}. Run the same command again to complete it."
        )
    return {"output": sink.url, "plan_digest": plan.digest, "n_slabs": len(units), "n_levels": sink.n_levels()}


def _checksum(sink: Sink, box: Box) -> int | None:
    """crc32 of the voxels of a box; None where they cannot be read."""
    import zlib

    try:
        return zlib.crc32(sink.read(box).tobytes())
    except ReadError:
        return None


def _of_all_parts(last: Report, ledger: Ledger) -> Report:
    """The report of the part that ended last, with the work of all parts."""
    reports, total = ledger.part_reports(), Tally()
    for report in reports:
        total.add(Tally(**report["tally"]))
    return replace(
        last,
        tally=tally_dict(total),
        elapsed_s=max(r["elapsed_s"] for r in reports),
        peak_memory_bytes=max(r["peak_memory_bytes"] for r in reports),
        parts=tuple(p for r in reports for p in r["parts"]),
    )


def _report(
    plan: Plan,
    sink: Sink,
    parts: Sequence[dict[str, Any]],
    outcome: tuple[str, int, int, float],
    device: str,
    command: str,
) -> Report:
    status, done, n_bytes, elapsed_s = outcome
    total = Tally(bytes_written=n_bytes)
    for part in parts:
        total.add(part["tally"])
    warnings = []
    if total.n_nonfinite:
        warnings.append(f"{total.n_nonfinite} voxels of the input were NaN or Inf and were taken as 0")
    peak = max([peak_memory_bytes(), *(part["peak_memory_bytes"] for part in parts)])
    return Report(
        output=sink.url,
        plan_digest=plan.digest,
        status=status,
        n_slabs=plan.columns.n_units,
        n_slabs_done=done,
        tally=tally_dict(total),
        elapsed_s=round(elapsed_s, 3),
        peak_memory_bytes=peak,
        notes=plan.notes,
        warnings=tuple(warnings),
        parts=tuple({**part, "tally": tally_dict(part["tally"])} for part in parts),
        environment=environment(device),
        command=command,
    )
