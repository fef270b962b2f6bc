"""Step two: the network over the surface, and step three: the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from voxweft.apps.ink.names import (
    base_name,
    check_note,
    find_model,
    find_unfinished,
    picture_at,
    prepared_at,
    require,
    source_of,
    unfinished,
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
    box_of_roi,
)
from voxweft.apps.ink.picture import PICTURE, RESULT_NOTE, check_place, picture_stage, with_suffix
from voxweft.apps.ink.prepare import prepare
from voxweft.apps.ink.surface import open_surface, piecewise
from voxweft.backends import load_model
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import all_decisive
from voxweft.engine.part import Part
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.errors import IncompleteError, ModelError, RequestError
from voxweft.image.protocols import Sink, Volume
from voxweft.model.card import Normalization
from voxweft.model.protocols import Model
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.forecast import Forecast, forecast
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import check_output, plan_of, report_of
from voxweft.runner.run import run_plan
from voxweft.runner.verify import verify
from voxweft.runner.workers import WorkerOptions, Workers
from voxweft.stores import open_sink
from voxweft.stores.url import absolute

Options = tuple[LayerOptions, InkModelOptions, InkOptions]
SIGMA_SCALE = 2.5  # tile / sigma
WINDOWS = {"gaussian": "gaussian-centred"}  # the engine's word; its gaussian is nnU-Net's


@dataclass(frozen=True, slots=True)
class InkResult:
    """What became of a run: its report, the OME-Zarr, and the picture ("" where parts are still to come)."""

    report: Report
    zarr: str
    picture: str = ""


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
        With several parts without a picture; ``reduce`` makes it.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    part, picture_options = part or InkPartOptions(), picture_options or PictureOptions()
    picture, sink = _places(options, part, picture_options)
    execution = _execution(part, worker_options or WorkerOptions(), command)
    check_output(sink, execution)
    volume, model, (engine, schemes) = opened_inputs(options, picture_options)
    volume = _in_pieces(volume, options[0], part, picture_options, emit)
    workers = Workers.of(execution, devices_of(engine.device))
    said = options[0].segment_id, picture_options.pixel_resolution_um
    opened = plan_run(
        volume,
        [model],
        engine,
        app=AppRequest("ink", schemes, then=lambda sweep: [picture_stage(sweep.name, *said)]),
        records=None if part.overwrite else sink.records,
        n_workers=workers.n_sharing,
        emit=emit,
    )
    report = run_plan(opened, Place.of(sink), workers, execution, emit)
    return finish(sink, picture, report, picture_options, emit) if part.is_whole else InkResult(report, sink.url)


def _places(options: Options, part: InkPartOptions, picture_options: PictureOptions) -> tuple[str, Sink]:
    """Where the picture goes ("" where parts are still to come), and the OME-Zarr that it is made from."""
    layers, model_options, ink_options = options
    check_note(picture_options.runtime_dir, RESULT_NOTE)
    require(model_options, layers)
    name = base_name(model_options.model, layers)
    as_zarr = picture_options.output_path.endswith(".zarr")
    picture = picture_at(name, layers, picture_options) if part.is_whole or as_zarr else ""
    if part.is_whole:
        check_place(picture)
    asked = [
        find_model(model_options),
        layers.reverse,
        layers.level,
        model_options.model_type,
        picture_options.use_zarr_compression,
        all_decisive(ink_options),
    ]
    zarr = picture if as_zarr else unfinished(name, source_of(layers), part, asked if part.is_whole else [])
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
    """What a run will cost; nothing is written.

    Raises
    ------
    RequestError
        Also where the layers have to be prepared first.
    """
    require(options[1], options[0])
    volume, model, (engine, schemes) = opened_inputs(options, PictureOptions())
    if not piecewise(volume):
        raise RequestError(
            f"{volume.info.url} cannot be read in pieces; run voxweft ink prepare, then --estimate on that"
        )
    return forecast(volume, model, engine, normalization=schemes, overlaps=_strides(model, options[2]), emit=emit)


def _strides(model: Model, ink_options: InkOptions) -> dict[str, float]:
    """Other strides, and the overlap that each means."""
    side = (model.card.patch_zyx or (0,))[0]
    return {f"--stride {s}": 1 - s / side for s in (ink_options.stride // 2, ink_options.stride * 2) if 1 <= s <= side}


def opened_inputs(
    options: Options, picture_options: PictureOptions
) -> tuple[Volume, Model, tuple[SweepOptions, tuple[Normalization, ...]]]:
    """Volume, model, and of a sweep the engine's options and the normalisation."""
    layers, model_options, ink_options = options
    volume = _open(source_of(layers), layers)
    model = load_model(
        find_model(model_options),
        token=model_options.hf_token,
        model_type=model_options.model_type,
        n_layers=layers.end_layer - layers.start_layer,
        tile=ink_options.tile_size,
        trust_code=model_options.trust_code,
    )
    card = model.card
    if not card.format.startswith("ink") or card.patch_zyx is None or card.divisor is None:
        raise ModelError(f"{card.path} is a {card.format} model, no network for ink; voxweft run takes it")
    divisor = float(ink_options.divisor or card.divisor)
    scheme = Normalization("ct", mean=0.0, std=divisor, lower=0.0, upper=divisor)
    tile, (height, _, width) = card.patch_zyx[0], volume.info.shape_zyx
    if ink_options.stride > tile:
        raise RequestError(f"--stride {ink_options.stride} leaves gaps between tiles of {tile}; use at most that")
    engine = SweepOptions(
        overlap=1.0 - ink_options.stride / tile,
        window=WINDOWS.get(ink_options.window, ink_options.window),
        sigma_scale=tile / (ink_options.gaussian_sigma or max(1.0, tile / SIGMA_SCALE)),
        fit="snap",
        tta=ink_options.tta,
        batch_size=ink_options.batch_size,
        skip_empty=ink_options.skip_empty,
        output="probability" if ink_options.bits == 8 else "probability16",
        bbox=_bbox(ink_options.roi, height, width),
        chunk="256,1,1024",
        compressor="zstd"
        if picture_options.output_path.endswith(".zarr") or picture_options.use_zarr_compression
        else "none",
        accept_labels=True,
        runtime=_runtime(ink_options),
        compile_mode=ink_options.compile_mode,
        precision=ink_options.precision,
        device=ink_options.device,
        memory=ink_options.memory,
        divisor=divisor,
        layers=f"{layers.start_layer}:{layers.end_layer}{' reversed' if layers.reverse else ''}",
    )
    return volume, model, (engine, (scheme,))


def _open(source: str, layers: LayerOptions) -> Volume:
    window = {"start": layers.start_layer, "stop": layers.end_layer}
    return open_surface(source, layers.level, **window, reverse=layers.reverse)


def _in_pieces(
    volume: Volume, layers: LayerOptions, part: InkPartOptions, picture_options: PictureOptions, emit: Emit
) -> Volume:
    """The volume, prepared first where a few rows of it cannot be read by themselves."""
    source = volume.info.url
    if piecewise(volume):
        return volume
    if part.num_parts > 1:
        raise RequestError(f"{source} cannot be read in pieces by several parts; run voxweft ink prepare first")
    layers = replace(layers, s3_path=source, surface_volume_zarr="")
    emit(Event("note", f"{source} cannot be read in pieces and is prepared first, to {prepared_at(layers, part)}"))
    return _open(prepare(layers, part, picture_options, emit=emit), layers)


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
    if not (source and picture_options.output_path):
        require(model_options, layers, source=not picture_options.output_path)
    name = base_name(model_options.model, layers) if model_options.model else "prediction"
    picture = picture_at(name, layers, picture_options)
    zarr = source or (picture if picture.endswith(".zarr") else find_unfinished(name, layers, part))
    check_place(picture)
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
    return finish(sink, picture, report_of(ledger), picture_options, emit)


def finish(sink: Sink, picture: str, report: Report, picture_options: PictureOptions, emit: Emit) -> InkResult:
    """The picture of a complete result, and the note for the workflow engine."""
    plan, ledger = plan_of(sink)
    height, _, width = plan.sweep.spec.shape_zyx
    url = with_suffix(picture, height, width)
    if url != sink.url:
        sink.open()
        ledger.forget(PICTURE, 0)  # whoever asks for a picture gets it, also where one was made before
        place = Place.of(sink, {PICTURE: url})
        compute_part(Opened(plan), plan.stage(PICTURE), Part(PICTURE, 0, 1, range(1)), place, ("cpu", 1))
        emit(Event("picture", url))
    write_note(picture_options.runtime_dir, RESULT_NOTE, absolute(url))
    return InkResult(report, sink.url, url)


def _runtime(ink_options: InkOptions) -> str:
    """What the engine may choose from: without COMPILE on a GPU only plain torch."""
    if ink_options.runtime != "auto" or ink_options.compile or devices_of(ink_options.device)[0] == "cpu":
        return ink_options.runtime
    return "torch"


def _bbox(roi: str, height: int, width: int) -> str:
    if not roi:
        return ""
    x0, y0, x1, y1 = box_of_roi(roi) or (0, 0, width, height)
    if x1 > width or y1 > height:
        raise RequestError(f"--roi {roi} leaves the surface of {width} x {height} pixels")
    return f"{y0}:{y1},0:1,{x0}:{x1}"
