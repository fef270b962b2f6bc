"""All three stages: one sweep, or one after the other with logits on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from voxweft.apps.scroll.blend import blend
from voxweft.apps.scroll.finalize import component_stages_of, finalize, tell_components
from voxweft.apps.scroll.options import (
    BlendOptions,
    ClassOptions,
    FinalizeOptions,
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    PipelineOptions,
    SourceOptions,
)
from voxweft.apps.scroll.predict import predict, remove_parts, stage_options
from voxweft.apps.scroll.source import is_air, open_source, open_support, scope_of
from voxweft.backends import load_model
from voxweft.engine.events import Emit, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.options import RunOptions
from voxweft.engine.part import State
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.errors import RequestError, RunError
from voxweft.image.protocols import Volume
from voxweft.launch import open_executor, run_parts
from voxweft.model.protocols import Model
from voxweft.runner.devices import devices_of, n_gpus
from voxweft.runner.execution import Execution
from voxweft.runner.forecast import Forecast, forecast_for
from voxweft.runner.objects import object_places
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import check_output
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink
from voxweft.stores.url import exists, remove_if_empty

Options = tuple[SourceOptions, NetworkOptions, ClassOptions, PipelineOptions, PartOptions]


def pipeline(
    source: Any,
    output: str,
    model: Any,
    options: Options | None = None,
    *,
    command: str = "",
    emit: Emit = silent,
) -> Report:
    """Predict, blend and finalize; fused into one sweep unless ``staged`` is asked for.

    Parameters
    ----------
    source, output, model
        As for :func:`voxweft.run`.
    options
        Where the volume comes from, how the network is run, what becomes of the logits, how the stages are run.
    command, emit
        For the record; told of every event.
    """
    options = options or (SourceOptions(), NetworkOptions(), ClassOptions(), PipelineOptions(), PartOptions())
    options = (options[0], _on_gpus(options[1], options[3].gpus), *options[2:])
    _, network, classes, pipeline_options, part = options
    if pipeline_options.staged or network.compat:
        return _staged(source, output, model, options, command, emit)
    volume, found, engine = opened_inputs(source, model, options, emit)
    execution = Execution(
        **part.share,
        executor=pipeline_options.executor,
        scheduler=pipeline_options.scheduler,
        workers=pipeline_options.num_workers,
        overwrite=part.overwrite,
        prepare=part.prepare,
        command=command,
    )
    sink = open_sink(output)
    check_output(sink, execution)
    app = AppRequest(
        "pipeline",
        scope_of(found.card, network.normalization, emit),
        then=lambda sweep: component_stages_of(classes, sweep.name, sweep.spec, sweep.finish.output),
    )
    mask, records = open_support(engine.mask, volume), None if part.overwrite else sink.records
    place = Place.of(sink, object_places(sink.url))
    with Workers.of(execution, devices_of(engine.device)).started() as workers:
        n = workers.n_sharing
        opened = plan_run(volume, [found], engine, app=app, mask=mask, records=records, n_workers=n, emit=emit)
        report = run_plan(opened, place, workers, execution, emit)
    tell_components(classes, place, emit)
    return report


def _on_gpus(network: NetworkOptions, gpus: str) -> NetworkOptions:
    """The devices that ``gpus`` means, where none was named; one GPU or none is left to the engine."""
    if network.device != "auto" or (gpus == "all" and n_gpus() < 2):
        return network
    return replace(network, device=f"cuda:{gpus if gpus != 'all' else ','.join(map(str, range(n_gpus())))}")


def opened_inputs(source: Any, model: Any, options: Options, emit: Emit = silent) -> tuple[Volume, Model, RunOptions]:
    """Volume, model and engine options of the fused pipeline."""
    source_options, network, classes, pipeline_options, _ = options
    engine = stage_options(
        source_options,
        network,
        mode=classes.mode,
        output=classes.output,
        threshold=classes.threshold,
        normals=classes.normals,
        chunk=pipeline_options.chunk_size,
        pyramid=pipeline_options.pyramid,
        uncertainty=pipeline_options.uncertainty,
        **{name: value for name, value in classes.after.items() if name != "threshold"},
    )
    found = load_model(model, token=network.hf_token, targets=network.targets)
    return open_source(source, source_options), found, engine


def estimate(source: Any, model: Any, options: Options, emit: Emit = silent) -> tuple[Plan, Forecast]:
    """What the fused pipeline will cost; nothing is written."""
    volume, found, engine = opened_inputs(source, model, options, emit)
    schemes = scope_of(found.card, options[1].normalization, emit)
    return forecast_for(volume, [found], engine, normalization=schemes, emit=emit)


def _staged(source: Any, output: str, model: Any, options: Options, command: str, emit: Emit) -> Report:
    """The stages one after the other; everything that can be refused is refused before the first."""
    source_options, network, classes, pipeline_options, part = options
    if pipeline_options.uncertainty:
        raise RequestError(
            f"--uncertainty with --compat {network.compat}, which works in stages; leave one of both out"
        )
    if part.num_parts > 1 or part.prepare:
        raise RequestError("--num-parts and --prepare with --staged: give them to voxweft predict, blend and finalize")
    if pipeline_options.scheduler:
        raise RequestError("--scheduler with --staged: leave --staged out, or run the stages by themselves")
    work = (pipeline_options.workdir or f"{output.rstrip('/').removesuffix('.zarr')}_work").rstrip("/")
    parts, merged = f"{work}/parts", f"{work}/blended.zarr"
    blending = BlendOptions(
        pipeline_options.executor,
        num_workers=pipeline_options.num_workers,
        memory=network.memory,
        compat=network.compat,
    )
    finishing = FinalizeOptions(
        pipeline_options.executor,
        chunk_size="" if network.compat else pipeline_options.chunk_size,
        num_workers=pipeline_options.num_workers,
        mask="" if is_air(network.mask) else network.mask,  # the parts say which scan is meant
        pyramid=pipeline_options.pyramid,
        memory=network.memory,
        compat=network.compat,
        delete_intermediates=not pipeline_options.keep_intermediates,
    )
    stage_options(source_options, network, mode=classes.mode, output=classes.output, chunk=pipeline_options.chunk_size)
    sink = open_sink(output, layout="vesuvius" if network.compat else "ome-zarr")
    check_output(sink, Execution(overwrite=part.overwrite))
    complete = sink.exists() and bool(Ledger(sink.records).report()) and not exists(work)
    reports = []
    if not pipeline_options.skip_predict and (part.overwrite or not complete):
        reports += _predict_all(source, parts, model, options, command, emit)
    if not pipeline_options.skip_blend and (part.overwrite or not complete):
        again = PartOptions(overwrite=part.overwrite)
        reports.append(blend(parts, merged, blending, part=again, command=command, emit=emit))
    if not pipeline_options.skip_finalize:
        reports.append(finalize(merged, output, (classes, finishing), part=part, command=command, emit=emit))
        if not pipeline_options.keep_intermediates and reports[-1].status == State.COMPLETE:
            remove_parts(parts)
            remove_if_empty(parts)
            remove_if_empty(work)
    return replace(reports[-1], warnings=tuple(dict.fromkeys(w for r in reports for w in r.warnings)))


def _predict_all(source: Any, parts: str, model: Any, options: Options, command: str, emit: Emit) -> list[Report]:
    """All parts, several devices at once."""
    source_options, network, _, pipeline_options, part = options
    devices = devices_of(network.device)
    n_parts = 1 if pipeline_options.single_part else len(devices) * pipeline_options.parts_per_gpu
    tasks = [
        PredictTask(
            source,
            parts,
            model,
            (source_options, replace(network, device=devices[n % len(devices)]), PatchStoreOptions()),
            PartOptions(n_parts, n, part.overwrite and n_parts == 1),
            command,
        )
        for n in range(n_parts)
    ]
    if part.overwrite and n_parts > 1:
        remove_parts(parts)
    if len(devices) == 1:
        return [task(emit) for task in tasks]
    reports, failures = list[Report](), list[str]()
    with open_executor(pipeline_options.kind(len(devices)), len(devices)) as (executor, at_once):
        for task, outcome in run_parts(executor, PredictTask.__call__, tasks, at_once):
            if isinstance(outcome, Exception):
                failures.append(f"part {task.part.part_id}: {outcome}")
            else:
                reports.append(outcome)
    if failures:
        raise RunError(f"{'; '.join(failures)}.\nThe other parts are complete; run the same command again.")
    return reports


@dataclass(frozen=True, slots=True)
class PredictTask:
    """One part of a staged run, for a process of its own."""

    source: Any
    folder: str
    model: Any
    options: tuple[SourceOptions, NetworkOptions, PatchStoreOptions]
    part: PartOptions
    command: str

    def __call__(self, emit: Emit = silent) -> Report:
        """Predict it."""
        return predict(
            self.source, self.folder, self.model, self.options, part=self.part, command=self.command, emit=emit
        )
