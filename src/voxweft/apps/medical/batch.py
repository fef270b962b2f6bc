"""A folder of images in, a folder of segmentations out: every case a plan of its own, all cases one batch.

OUTPUT/NAME.nii.gz                 labels, on the grid of the input
OUTPUT/statistics/NAME.json        volume, place and grey values of every label
OUTPUT/summary.csv, summary.json   what became of every case
OUTPUT/.voxweft/cases/             the ledger: a record a case
OUTPUT/.voxweft/work/              cases that are not finished
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from voxweft.apps.medical.book import RECORDS, CaseBook, CaseResult
from voxweft.apps.medical.cases import Case, find_cases, require_files
from voxweft.apps.medical.job import Job
from voxweft.apps.medical.models import ensemble_of, require_window
from voxweft.apps.medical.options import BatchExecution, MedicalOptions
from voxweft.apps.medical.places import label_names, places_of
from voxweft.apps.medical.summary import write_summary
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.forward import cores_each
from voxweft.engine.totals import n_cores
from voxweft.errors import RequestError, VoxweftError
from voxweft.model.protocols import ForwardSetting
from voxweft.runner.batch import ItemsError, for_each
from voxweft.runner.devices import devices_of, n_gpus
from voxweft.runner.parts import absolute_model
from voxweft.runner.workers import Workers
from voxweft.stores.durable import replace as replace_file
from voxweft.version import __version__

SMALL_BYTES = 1 << 24  # of the files of a case: several of them at once do not matter to the memory


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch did.

    Attributes
    ----------
    output
        The folder.
    cases
        In the order of their names.
    seconds
        Wall clock.
    notes
        What the user should know.
    """

    output: str
    cases: tuple[CaseResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def n_failed(self) -> int:
        """Cases without a result."""
        return sum(case.status == "failed" for case in self.cases)


def batch(
    source: str | Path,
    output: str | Path,
    options: MedicalOptions,
    *,
    execution: BatchExecution | None = None,
    emit: Emit = silent,
) -> BatchReport:
    """Segment the images of a folder.

    Parameters
    ----------
    source, output
        Folders; ``source`` may be one image, or a folder of DICOM series.
    options, execution
        What is computed; where.
    emit
        Told of every event.

    Returns
    -------
    BatchReport
        Also of the cases that failed; they are no exception.

    Raises
    ------
    RequestError
        If the whole request is wrong; nothing was written.
    """
    execution, began = execution or BatchExecution(), time.perf_counter()
    source, output = Path(source), Path(output)
    models = ensemble_of(options)
    require_window(models.card, options)
    cases = find_cases(
        source,
        n_channels=models.card.n_inputs,
        recursive=options.recursive,
        by_channel=models.is_nnunet,
        listed=options.list,
    )
    require_apart(source, output)
    workers, more = _workers(options, execution)
    request = json.dumps([options.request(), [ref.digest for ref in models.refs]], sort_keys=True, default=str)
    book = CaseBook(output, request)
    mine = range(execution.part_id, len(cases), execution.num_parts)
    finished = {} if execution.overwrite else {n: done for n in mine if (done := book.finished(cases[n]))}
    left = [n for n in mine if n not in finished]
    if not execution.overwrite:
        book.require_ours({places_of(cases[n], options)["result"]: cases[n] for n in left})
    for note in (notes := [*models.notes, *more]):
        emit(Event("note", note))
    refs = tuple(absolute_model(ref) for ref in models.refs)
    job = Job(refs, models.is_nnunet, options, str(output.resolve()), request, execution.command)
    job.check()
    _writable(output)
    pending = [replace(cases[n], files=tuple(_absolute(f) for f in cases[n].files)) for n in left]
    results = finished | dict(zip(left, _all(pending, job, workers, emit), strict=True))
    for n in sorted({*range(len(cases))} - {*mine}):  # those of other parts
        results[n] = book.finished(cases[n]) or CaseResult(cases[n].key, "waiting")
    found = tuple(result for _, result in sorted(results.items()))
    write_summary(output, found, [*label_names(models.refs[0]).values()], confidence=options.save_conf)
    if options.bids:
        about = {"Name": "voxweft", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
        about_made_by = {"GeneratedBy": [{"Name": "voxweft", "Version": __version__}]}
        replace_file(output / "dataset_description.json", json.dumps(about | about_made_by, indent=1).encode())
    _clean(output)
    return BatchReport(str(output), found, time.perf_counter() - began, tuple(notes))


def _all(cases: Sequence[Case], job: Job, workers: Workers, emit: Emit) -> list[CaseResult]:
    """What becomes of every case; one that fails does not stop the others."""
    if not cases:
        return []
    job = replace(job, n_cases=len(cases))
    job = replace(job, settings=_settled(cases, job, workers))
    try:
        with _overlapping(cases, workers) as crew:
            outcomes = for_each(cases, job, crew, num_parts=1, cost=_cost, emit=emit)
    except ItemsError as error:
        outcomes = list(error.outcomes)
    book, found = CaseBook(Path(job.output), job.request), []
    for case, outcome in zip(cases, outcomes, strict=True):
        done = None if outcome.errors else book.finished(case)
        if done:
            found.append(replace(done, status="done"))
            continue
        reason = outcome.errors[0] if outcome.errors else "its result is gone"
        message = "; ".join(line.strip() for line in reason.splitlines()[:2])
        found.append(CaseResult(case.key, "failed", round(outcome.seconds, 3), message))
    return found


def require_apart(source: Path, output: Path) -> None:
    """Refuse an output folder that is the input folder, or lies inside it, or holds it."""
    read, written = source.resolve(), output.resolve()
    if written == read or (source.is_dir() and written.is_relative_to(read)) or read.parent == written:
        raise RequestError(f"the output folder {output} is, or lies in, the input folder {source}; give another place")
    if output.exists() and not output.is_dir():
        raise RequestError(f"-o {output} is a file; give a folder")


def _writable(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"-o {output} cannot be made: {error.strerror}") from error
    if not os.access(output, os.W_OK):
        raise RequestError(f"-o {output} cannot be written to")


@contextmanager
def _overlapping(cases: Sequence[Case], workers: Workers) -> Iterator[Workers]:
    """Several small cases at once in this process, so that no core waits while a file is read or written."""
    n = n_cores()
    small = all(_cost(case) <= SMALL_BYTES for case in cases)
    if workers.kind != "serial" or workers.devices[0] != "cpu" or min(n, len(cases)) < 2 or not small:
        yield workers
        return
    with ThreadPoolExecutor(n, thread_name_prefix="voxweft-case") as threads, cores_each("cpu"):
        yield replace(workers, kind=threads, n=n, n_sharing=n)


def _settled(cases: Sequence[Case], job: Job, workers: Workers) -> tuple[ForwardSetting, ...]:
    """How each network is run: decided once for all cases, on the first that can be read, and kept in the ledger."""

    def decide() -> Sequence[ForwardSetting]:
        for case in cases:
            try:
                require_files(case, job.refs[0].card.n_inputs)
                sweep = job.opened(case, workers).plan.sweep
            except (VoxweftError, OSError):  # it will be named when its turn comes
                continue
            return tuple({one.model: one.setting for one in sweep.passes}.values())
        return ()

    return CaseBook(Path(job.output), job.request).settings(workers.devices[0], decide)


def _workers(options: MedicalOptions, execution: BatchExecution) -> tuple[Workers, list[str]]:
    """Who works on the cases, and what to note of it."""
    notes, here = [], n_gpus()
    devices = devices_of(options.device)
    if execution.gpus and options.device == "auto":
        if here:
            devices = [f"cuda:{n}" for n in range(min(here, execution.gpus))]
        if execution.gpus > here:
            notes.append(f"--gpus {execution.gpus}: this machine has {here or 'none'}; it works with what there is")
    if options.fp16 and devices[0] == "cpu":
        notes.append("--fp16: on a CPU 16-bit arithmetic is not faster; 32 bits are used")
    n = max(execution.num_proc, len(devices))
    kind = execution.kind(n)
    n = 1 if kind == "serial" else n
    return Workers(kind, n, n, tuple(devices), execution.scheduler), notes


def _cost(case: Case) -> float:
    return float(sum(n for _, n, _ in case.stamp))


def _absolute(path: str) -> str:
    folder, mark, series = path.partition("::")
    return str(Path(folder).resolve()) + mark + series


def _clean(output: Path) -> None:
    """Take away what killed runs left, once no case is on its way."""
    work, temporary = (output / RECORDS / name for name in ("work", "tmp"))
    if not work.is_dir() or not any(work.iterdir()):
        for folder in (work, temporary):
            shutil.rmtree(folder, ignore_errors=True)
