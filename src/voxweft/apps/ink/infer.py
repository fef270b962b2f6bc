"""Step two: the network over the surface, and step three: the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voxweft.apps.ink.inputs import (
    Job,
    Options,
    engine_options,
    named_layers,
    open_mask,
    open_windows,
    opened_jobs,
    schemes_of,
    stride_of,
    target_of,
)
from voxweft.apps.ink.names import (
    base_name,
    check_note,
    find_unfinished,
    picture_at,
    prepared_at,
    require,
    source_of,
    unfinished,
    with_ending,
    write_note,
)
from voxweft.apps.ink.options import (
    ROWS_FIRST,
    InkModelOptions,
    InkOptions,
    InkPartOptions,
    LayerOptions,
    PictureOptions,
    SweepOptions,
    asked_of,
)
from voxweft.apps.ink.picture import (
    KNOWN_PICTURE,
    PICTURE,
    RESULT_NOTE,
    check_place,
    drawn_with,
    picture_stages,
    with_suffix,
)
from voxweft.apps.ink.prepare import prepare
from voxweft.apps.ink.surface import piecewise
from voxweft.apps.ink.window import union
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import REPORT_KEY, Ledger
from voxweft.engine.part import Part
from voxweft.engine.passes import KNOWN
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.errors import IncompleteError, RequestError
from voxweft.image.protocols import Sink, Volume
from voxweft.image.views import Channels
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.forecast import Forecast, forecast_for
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import check_output, plan_of, report_of, require_apart
from voxweft.runner.run import run_plan
from voxweft.runner.verify import verify
from voxweft.runner.workers import WorkerOptions, Workers
from voxweft.stores import open_sink
from voxweft.stores.url import absolute


@dataclass(frozen=True, slots=True)
class InkResult:
    """What became of a run: its report, the OME-Zarr, and the picture ("" where parts are still to come).

    ``known`` is the picture of where anything is known: "" where that is everywhere, or there is no picture yet;
    ``also`` are the results of further directions.
    """

    report: Report
    zarr: str
    picture: str = ""
    known: str = ""
    also: tuple[InkResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Doing:
    """How runs are done: which share, where the results go, who computes, who is told."""

    part: InkPartOptions
    picture_options: PictureOptions
    worker_options: WorkerOptions
    command: str
    emit: Emit


def infer(
    options: Options,
    part: InkPartOptions | None = None,
    picture_options: PictureOptions | None = None,
    *,
    worker_options: WorkerOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> InkResult:
    """Find ink on a surface, or on one part of it; where all of it is done here, write the picture too.

    Every part owns rows of one OME-Zarr, which all of them share.

    Parameters
    ----------
    options
        Which layers, which network, how.
    part, picture_options
        Which share; where the result goes.
    worker_options
        Who computes; default: this process, or one process a device where there are several.
    command, emit
        For the record; told of every event.

    Returns
    -------
    InkResult
        With several parts without a picture; ``reduce`` makes it. Of both directions the first, with the other beside.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    picture_options = picture_options or PictureOptions()
    doing = Doing(part or InkPartOptions(), picture_options, worker_options or WorkerOptions(), command, emit)
    check_note(picture_options.runtime_dir, RESULT_NOTE)
    require(options[1], options[0])
    if picture_options.output_path and doing.part.is_whole:
        check_place(picture_options.output_path)
    jobs = opened_jobs(options, emit)
    engines = [engine_options(job, options[2], picture_options) for job in jobs]
    places = [_places(job, options, doing) for job in jobs]
    results = [_infer(*each, options[2], doing) for each in zip(jobs, engines, places, strict=True)]
    _leave_note(results, picture_options)
    return replace(results[0], also=tuple(results[1:]))


def _infer(job: Job, engine: SweepOptions, place: tuple[str, Sink], ink_options: InkOptions, doing: Doing) -> InkResult:
    """One direction."""
    (picture, sink), part = place, doing.part
    execution = _execution(part, doing.worker_options, doing.command)
    check_output(sink, execution)
    _check_beside(job, sink, ink_options.mask, part)
    workers = Workers.of(execution, devices_of(engine.device))
    opened = plan_run(
        _in_pieces(job, doing),
        job.models,
        engine,
        app=AppRequest(
            "ink",
            schemes_of(job, ink_options),
            then=lambda sweep: picture_stages(sweep.name, said_of(job.layers, doing.picture_options)),
            target=target_of(job, ink_options),
        ),
        mask=open_mask(ink_options.mask),
        records=None if part.overwrite else sink.records,
        n_workers=workers.n_sharing,
        emit=doing.emit,
    )
    report = run_plan(opened, Place.of(sink), workers, execution, doing.emit)
    said = said_of(job.layers, doing.picture_options)
    return finish(sink, picture, report, said, doing.emit) if part.is_whole else InkResult(report, sink.url)


def said_of(layers: LayerOptions, picture_options: PictureOptions) -> dict[str, Any]:
    """What a picture's record is told beside the plan."""
    said: dict[str, Any] = {"segment": layers.segment_id} if layers.segment_id else {}
    um = picture_options.pixel_resolution_um
    return said | ({"pixel_um": um} if um else {})


def _check_beside(job: Job, sink: Sink, mask: str, part: InkPartOptions) -> None:
    """Refuse to write the ink of layers where something lies that this run did not begin."""
    begun = Ledger(sink.records).plan() is not None
    for url in job.places.values():
        for other in (job.volume.info.url, job.layers.s3_path, job.layers.surface_volume_zarr, mask, sink.url):
            require_apart(other, url)
        if not begun and not part.overwrite and open_sink(url).exists():
            raise RequestError(f"--depth-output {url} exists; choose another place, or give --overwrite")


def _places(job: Job, options: Options, doing: Doing) -> tuple[str, Sink]:
    """Where the picture goes ("" where parts are still to come), and the OME-Zarr that it is made from."""
    part, picture_options = doing.part, doing.picture_options
    name = base_name(options[1].model, job.layers) + job.ending
    picture_options = replace(picture_options, output_path=with_ending(picture_options.output_path, job.ending))
    as_zarr = picture_options.output_path.endswith(".zarr")
    picture = picture_at(name, job.layers, picture_options) if part.is_whole or as_zarr else ""
    if part.is_whole:
        check_place(picture)
    asked = [
        ",".join(job.urls),
        job.reverse,
        job.layers.level,
        options[1].model_type,
        picture_options.use_zarr_compression,
        asked_of(options[2]),
    ]
    zarr = picture if as_zarr else unfinished(name, source_of(job.layers), part, asked if part.is_whole else [])
    return picture, open_sink(zarr, order=ROWS_FIRST)


def _execution(part: InkPartOptions, worker_options: WorkerOptions, command: str) -> Execution:
    return Execution(
        worker_options.executor,
        worker_options.scheduler,
        worker_options.workers,
        num_parts=0 if part.is_whole else part.num_parts,
        part_id=-1 if part.is_whole else part.part_id,
        overwrite=part.overwrite,
        command=command,
    )


def estimate(options: Options, emit: Emit = silent) -> tuple[Plan, Forecast]:
    """What a run will cost; nothing is written. Windows, models and directions are taken to cost the same.

    Raises
    ------
    RequestError
        Also where the layers have to be prepared first.
    """
    jobs = opened_jobs(options, emit)
    job, ink_options = jobs[0], options[2]
    engine = engine_options(job, ink_options, PictureOptions())
    volume, channels = job.volume, job.target.channels
    if not piecewise(volume):
        raise RequestError(
            f"{volume.info.url} cannot be read in pieces; run voxweft ink prepare, then --estimate on that"
        )
    side, stride = (job.models[0].card.patch_zyx or (0,))[0], stride_of(job, ink_options)
    others = {f"--stride {s}": 1 - s / side for s in (stride // 2, stride * 2) if 1 <= s <= side}
    seen = Channels(channels[0]).of(volume) if channels else volume
    schemes = schemes_of(job, ink_options)
    plan, cost = forecast_for(
        seen, job.models[:1], replace(engine, mask=""), normalization=schemes, overlaps=others, emit=emit
    )
    n = len(jobs) * len(job.models) * len(job.windows)
    many = {name: getattr(cost, name) * n for name in ("n_patches", "n_patches_computed", "n_forwards", "seconds")}
    return plan, replace(cost, **many)


def _in_pieces(job: Job, doing: Doing) -> Volume:
    """The layers of a job, prepared first where a few rows of them cannot be read by themselves."""
    source, part = job.volume.info.url, doing.part
    if piecewise(job.volume):
        return job.volume
    if part.num_parts > 1:
        raise RequestError(f"{source} cannot be read in pieces by several parts; run voxweft ink prepare first")
    wanted = union(job.windows)
    layers = replace(
        job.layers, s3_path=source, surface_volume_zarr="", start_layer=wanted.start, end_layer=wanted.stop
    )
    doing.emit(
        Event("note", f"{source} cannot be read in pieces and is prepared first, to {prepared_at(layers, part)}")
    )
    made = prepare(layers, part, doing.picture_options, emit=doing.emit)
    return open_windows(layers, job.windows, job.reverse, made)


def reduce(
    options: tuple[LayerOptions, InkModelOptions],
    part: InkPartOptions | None = None,
    picture_options: PictureOptions | None = None,
    *,
    source: str = "",
    emit: Emit = silent,
) -> InkResult:
    """Check that all parts are there, as they were written, and write the picture.

    Parameters
    ----------
    options
        Which layers and which network: they make up the names.
    part, picture_options
        Where the parts lie; where the picture goes.
    source
        The OME-Zarr of the parts, if it is not to be looked for.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        If nothing was inferred there.
    IncompleteError
        If parts are missing; nothing was written.
    """
    (layers, model_options), part = options, part or InkPartOptions()
    picture_options = picture_options or PictureOptions()
    check_note(picture_options.runtime_dir, RESULT_NOTE)
    name = "prediction"
    if not (source and picture_options.output_path):
        require(model_options, layers, source=not picture_options.output_path)
        layers = named_layers(layers, model_options)
        name = base_name(model_options.model, layers)
    found = []
    for ending, _ in layers.directions if not source else (("", False),):
        place = replace(picture_options, output_path=with_ending(picture_options.output_path, ending))
        picture = picture_at(name + ending, layers, place)
        zarr = source or (picture if picture.endswith(".zarr") else find_unfinished(name + ending, layers, part))
        check_place(picture)
        found.append((zarr, picture))
    said = said_of(layers, picture_options)
    results = [_reduce(zarr, picture, said, emit) for zarr, picture in found]
    _leave_note(results, picture_options)
    return replace(results[0], also=tuple(results[1:]))


def _reduce(zarr: str, picture: str, said: Mapping[str, Any], emit: Emit) -> InkResult:
    """The picture of one result, if it is complete."""
    sink = open_sink(zarr, order=ROWS_FIRST)
    plan, ledger = plan_of(sink)
    if plan.request.app != "ink":
        raise RequestError(f"{zarr} is no result of voxweft ink infer")
    stage, done = plan.sweep, ledger.done(plan.sweep.name)
    if missing := [stage.slab_box(unit) for unit in range(stage.n_units) if unit not in done]:
        raise IncompleteError(
            f"{zarr} is not complete: {len(missing)} of {stage.n_units} bands of rows are missing, the first one "
            f"begins at row {missing[0].start[0]}. Run voxweft ink infer for the parts that did not end."
        )
    verify(zarr, emit)
    return finish(sink, picture, report_of(ledger), said, emit)


def finish(sink: Sink, picture: str, report: Report, said: Mapping[str, Any], emit: Emit) -> InkResult:
    """The picture of a complete result; beside it, where something is not known, the picture of what is."""
    plan, ledger = plan_of(sink)
    height, _, width = plan.sweep.spec.shape_zyx
    url = with_suffix(picture, height, width)
    if url != sink.url:
        _draw(plan, Place.of(sink, {PICTURE: url}), said, emit)
    n_known = n_known_pixels(plan, ledger)
    if n_known is None or n_known == height * width:
        return InkResult(report, sink.url, url)
    known = Place.of(sink).beside(KNOWN)
    if url != sink.url:
        known = with_ending(url, f"_{KNOWN}")
        _draw(plan, Place.of(sink, {KNOWN_PICTURE: known}), said, emit)
    share = 1 - n_known / (height * width)
    line = f"{max(share, 1e-4):.2%} of the pixels are unknown (no data, or not asked for) and 0 in the result: {known}"
    emit(Event("note", line))
    if line not in report.notes:
        report = replace(report, notes=(*report.notes, line))
        ledger.put_report(REPORT_KEY, report.to_dict())
    return InkResult(report, sink.url, url, known)


def _draw(plan: Plan, place: Place, said: Mapping[str, Any], emit: Emit) -> None:
    """Make one picture anew, with what is said now: whoever asks for it gets it, also where one was made before."""
    ((name, url),) = place.files.items()
    place.open(plan)
    Ledger(place.records).forget(name, 0)
    compute_part(Opened(plan), drawn_with(plan.stage(name), said), Part(name, 0, 1, range(1)), place, ("cpu", 1))
    emit(Event("picture", url))


def n_known_pixels(plan: Plan, ledger: Ledger) -> int | None:
    """Pixels of which anything is known; None for a result of a release that did not count them."""
    if not plan.sweep.tells_known:
        return None
    units = range(plan.sweep.n_units)
    return sum(int(ledger.table(plan.sweep.name, unit).get("known", np.zeros(1)).sum()) for unit in units)


def _leave_note(results: Sequence[InkResult], picture_options: PictureOptions) -> None:
    """Where the pictures lie, a line each, for the workflow engine."""
    if pictures := [absolute(result.picture) for result in results if result.picture]:
        write_note(picture_options.runtime_dir, RESULT_NOTE, "\n".join(pictures))
