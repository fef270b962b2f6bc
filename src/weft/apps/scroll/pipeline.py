"""All three stages: one sweep, or one after the other with logits on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weft.apps.execute import COMPLETE, Execution, check_output, execute, verify, workers_for
from weft.apps.prepare import devices_of, prepare
from weft.apps.scroll.blend import blend
from weft.apps.scroll.finalize import finalize
from weft.apps.scroll.options import (
    BlendOptions,
    ClassOptions,
    FinalizeOptions,
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    PipelineOptions,
    SourceOptions,
)
from weft.apps.scroll.predict import predict, stage_options
from weft.apps.scroll.source import open_source, with_scope
from weft.backends import load_model
from weft.engine.events import Emit, silent
from weft.engine.options import RunOptions
from weft.engine.report import Report
from weft.image.protocols import Volume
from weft.model.protocols import Model
from weft.stores import open_sink, open_volume
from weft.stores.url import remove

Options = tuple[SourceOptions, NetworkOptions, ClassOptions, PipelineOptions]


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
        As for :func:`weft.run`.
    options
        Where the volume comes from, how the network is run, what becomes of the logits, how the stages are run.
    command, emit
        For the record; told of every event.
    """
    options = options or (SourceOptions(), NetworkOptions(), ClassOptions(), PipelineOptions())
    _, network, _, how = options
    if how.gpus != "all":
        options = (options[0], replace(network, device=f"cuda:{how.gpus}"), *options[2:])
    if how.staged or network.compat:
        return _staged(source, output, model, options, command, emit)
    volume, found, engine = request(source, model, options, emit)
    devices = devices_of(engine.device)
    several = how.num_workers > 1 or len(devices) > 1
    execution = Execution(
        executor="processes" if several else "serial",
        workers=how.num_workers,
        overwrite=how.overwrite,
        command=command,
    )
    sink = open_sink(output)
    check_output(sink, execution)
    mask = open_volume(engine.mask) if engine.mask else None
    n_workers = workers_for(execution, devices)
    records = None if how.overwrite else sink.records
    prepared = prepare(volume, found, engine, mask=mask, records=records, n_workers=n_workers, emit=emit)
    return execute(prepared, sink, engine.device, execution, emit)


def request(source: Any, model: Any, options: Options, emit: Emit = silent) -> tuple[Volume, Model, RunOptions]:
    """Volume, model and engine options of the fused pipeline."""
    where, network, classes, how = options
    engine = stage_options(
        where,
        network,
        mode=classes.mode,
        output=classes.output,
        threshold=classes.threshold_value,
        chunk=how.chunk_size,
        pyramid=how.pyramid,
    )
    found = with_scope(load_model(model, token=network.hf_token), network.normalization, emit)
    return open_source(source, where), found, engine


def _staged(source: Any, output: str, model: Any, options: Options, command: str, emit: Emit) -> Report:
    where, network, classes, how = options
    work = (how.workdir or f"{output.rstrip('/').removesuffix('.zarr')}_work").rstrip("/")
    parts, merged = f"{work}/parts", f"{work}/blended.zarr"
    n_parts = 1 if how.single_part else max(1, len(devices_of(network.device)) * how.parts_per_gpu)
    if how.overwrite:
        remove(work)
    report = None
    if not how.skip_predict:
        for number in range(n_parts):
            report = predict(
                source,
                parts,
                model,
                (where, network, PatchStoreOptions()),
                part=PartOptions(n_parts, number),
                command=command,
                emit=emit,
            )
    if not how.skip_blend:
        blending = BlendOptions(num_workers=how.num_workers, memory=network.memory, compat=network.compat)
        report = blend(parts, merged, blending, command=command, emit=emit)
    if not how.skip_finalize:
        finishing = FinalizeOptions(
            chunk_size="" if network.compat else how.chunk_size,
            num_workers=how.num_workers,
            mask=network.mask,
            pyramid=how.pyramid,
            memory=network.memory,
            compat=network.compat,
        )
        part = PartOptions(overwrite=how.overwrite)
        report = finalize(merged, output, (classes, finishing), part=part, command=command, emit=emit)
        if not how.keep_intermediates and report.status == COMPLETE:
            verify(output, emit)
            remove(work)
    if report is None:
        from weft.errors import RequestError

        raise RequestError("--skip-predict, --skip-blend and --skip-finalize together leave nothing to do")
    return report
