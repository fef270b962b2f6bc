"""Stage one: the network over one share of the patches, their logits to disk."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from voxweft.apps.scroll.options import (
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    SourceOptions,
    StageOptions,
    overlap_of,
    tta_of,
)
from voxweft.apps.scroll.source import find_volume, open_source, open_support, scope_of, support_text
from voxweft.backends import load_model
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.part import Part, State
from voxweft.engine.plan import MASK, Plan
from voxweft.engine.report import Report, environment, peak_memory_bytes
from voxweft.engine.stage import Stores
from voxweft.engine.totals import Totals, lanes_for
from voxweft.errors import RequestError
from voxweft.image.protocols import Records
from voxweft.model.targets import target_info
from voxweft.runner.devices import devices_of
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.patches import records_of
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import require_apart
from voxweft.runner.run import store_or_follow, warnings_of
from voxweft.stores.patches import ZarrPatches
from voxweft.stores.url import records_at, remove
from voxweft.version import __version__


def predict(
    source: Any,
    output_dir: str,
    model: Any,
    options: tuple[SourceOptions, NetworkOptions, PatchStoreOptions] | None = None,
    *,
    part: PartOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> Report:
    """Predict one part: ``logits_part_X.zarr`` and ``coordinates_part_X.zarr`` in a folder.

    Parameters
    ----------
    source, model
        As for :func:`voxweft.run`.
    output_dir
        Folder, local or s3://, that all parts share.
    options
        Where the volume comes from, how the network is run, how logits are stored.
    part
        Which part; parts have equal loads and none is empty unless there are fewer patches than parts.
    command
        For the record.
    emit
        Told of every event.

    Returns
    -------
    Report
        Its units are layers of patches of this part.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    started = time.perf_counter()
    options, part = options or (SourceOptions(), NetworkOptions(), PatchStoreOptions()), part or PartOptions()
    records, network = records_at(records_of(output_dir)), options[1]
    _check_folder(output_dir, records, part)
    opened = _opened(source, model, options, part, output_dir, emit)
    if part.overwrite:
        remove_parts(output_dir)
    device = devices_of(network.device)[0]
    place = Place(output_dir, records, store_of=lambda index: _part_store(output_dir, opened.plan, index, network))
    opened, ledger, _ = store_or_follow(opened, place, device, emit)
    place = replace(place, generation=ledger.generation)
    stage = opened.plan.sweep
    own = Part(stage.name, part.part_id, part.num_parts, stage.share(part.part_id, part.num_parts))
    if part.prepare:
        return _report(place, opened.plan, (own, Totals(), State.PARTIAL), started, (device, command))
    n_done = len(ledger.done(stage.name).intersection(own.units))
    emit(Event("begin", data={"stage": stage.name, "n_units": len(own.units), "n_done": n_done, "noun": stage.noun}))
    _part_store(output_dir, opened.plan, part.part_id, network)  # also of a part without patches
    record = compute_part(opened, stage, own, place, (device, lanes_for(device)), emit=emit)
    report = _report(place, opened.plan, (own, Totals(**record.totals), State.COMPLETE), started, (device, command))
    ledger.put_report(f"parts/{part.part_id}-of-{part.num_parts}.json", report.to_dict())
    emit(Event("done", report.status, report.to_dict()))
    return report


def _opened(
    source: Any,
    model: Any,
    options: tuple[SourceOptions, NetworkOptions, PatchStoreOptions],
    part: PartOptions,
    output_dir: str,
    emit: Emit,
) -> Opened:
    """The plan that keeps patches in a folder, or the one that the folder already holds; with what it needs opened."""
    source_options, network, storage = options
    engine = stage_options(source_options, network, output="patches", num_parts=part.num_parts)
    volume = open_source(source, source_options)
    require_apart(volume.info.url, output_dir)
    found = load_model(model, token=network.hf_token, targets=network.targets)
    compressor = (storage.zarr_compressor, storage.zarr_compression_level)
    schemes = scope_of(found.card, network.normalization, emit)
    return plan_run(
        volume,
        [found],
        engine,
        app=AppRequest("predict", schemes, Stores(part.num_parts, compressor)),
        mask=open_support(network.mask, volume),
        records=None if part.overwrite else records_at(records_of(output_dir)),
        emit=emit,
    )


def stage_options(source_options: SourceOptions, network: NetworkOptions, **more: Any) -> StageOptions:
    """The engine's options for what was asked of the scroll pipeline."""
    return StageOptions(
        overlap=overlap_of(network.overlap, as_step=bool(network.compat)),
        tta=tta_of(network),
        patch_size=network.patch_size,
        batch_size=network.batch_size,
        normalization=network.normalization,
        skip_empty=network.skip_empty_patches,
        bbox=network.bbox,
        mask=network.mask,
        level=source_options.level,
        runtime=network.runtime,
        precision=network.precision,
        tolerance=network.tolerance,
        device=network.device,
        memory=network.memory,
        targets=network.targets,
        listed_volume=find_volume(source_options) if source_options.input_format == "volume" else "",
        **more,
    )


def _check_folder(folder: str, records: Records, part: PartOptions) -> None:
    if records_at(f"{folder.rstrip('/')}/weft-records").get("plan.json") is not None:
        raise RequestError(
            f"{folder} was written by release 0.1.0 (command weft), whose records this release cannot use.",
            "Its parts can still be blended. To predict them anew, give another --output-dir, or delete the folder.",
        )
    if Ledger(records).plan() is None and ZarrPatches.numbers(folder):
        raise RequestError(f"{folder} holds parts that another program wrote; choose another --output-dir")
    if gone := [] if part.overwrite else _gone(folder, records):
        raise RequestError(
            f"{folder}: part {gone[0]} is gone, but its records are there; delete {records_of(folder)} too"
        )


def _gone(folder: str, records: Records) -> list[int]:
    """The parts whose records are there, but not their patches."""
    ledger, there = Ledger(records), ZarrPatches.numbers(folder)
    stored = ledger.plan()
    if stored is None:
        return []
    stage = Plan.from_json(stored).sweep
    done = ledger.done(stage.name)
    return [n for n, units in enumerate(stage.pieces()) if n not in there and done.intersection(units)]


def remove_parts(folder: str) -> None:
    """Delete the parts that voxweft wrote in a folder, and their records; nothing else."""
    records = records_at(records_of(folder))
    if Ledger(records).plan() is not None:
        for number in ZarrPatches.numbers(folder):
            remove(f"{folder}/logits_part_{number}.zarr")
            remove(f"{folder}/coordinates_part_{number}.zarr")
        remove(records_of(folder))


def _part_store(folder: str, plan: Plan, part: int, network: NetworkOptions) -> ZarrPatches:
    """The store of a part: a new one, or the one that an earlier run of it began."""
    stage = plan.sweep
    kept, stores = stage.kept, stage.stores or Stores(1)
    starts = [t.box.start for layers in (kept.tiles(part) if kept else ()) for layer in layers for t in layer]
    attributes = {
        "patch_size": list(stage.grid.patch),
        "overlap": network.overlap,
        "part_id": part,
        "num_parts": stores.n_parts,
        "original_volume_shape": list(stage.info.shape_zyx),
    }
    return ZarrPatches.create(
        folder,
        part,
        np.array(starts, np.int32).reshape(-1, 3),
        (stage.finish.n_classes, stage.grid.patch),
        attributes | settings_of(plan),
        stores.compressor,
    )


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the parts and all that is made of them say of their making."""
    stage, card, mask = plan.sweep, plan.models[0].card, plan.input(MASK)
    geometry, (one, *_) = stage.info.geometry, stage.passes
    return {
        "tta": one.tta != "none",
        "tta_type": one.tta,
        "normalization": [n.scheme for n in one.normalization],
        "skip_empty_patches": stage.skip_empty,
        "model": card.path,
        "model_digest": card.digest,
        "activation": card.activation,
        "label_ids": list(card.label_ids),
        "input": stage.info.url,
        "plan_digest": plan.digest,
        "support_volume": support_text(mask),
        "voxweft_version": __version__,
        "voxel_size_zyx": list(geometry.voxel_size_zyx),
        "origin_zyx": list(geometry.origin_zyx),
        "unit": geometry.unit,
        **target_info(card),
    } | ({"bbox_zyx": [list(stage.region.start), list(stage.region.stop)]} if plan.request.get("bbox") else {})


def _report(
    place: Place, plan: Plan, work: tuple[Part, Totals, State], started: float, made: tuple[str, str]
) -> Report:
    (part, totals, status), (device, command) = work, made
    n_done = len(Ledger(place.records).done(part.stage).intersection(part.units))
    return Report(
        output=place.url,
        plan_digest=plan.digest,
        status=status,
        n_units=len(part.units),
        n_units_done=n_done,
        totals=totals.to_dict(),
        elapsed_s=round(time.perf_counter() - started, 3),
        peak_memory_bytes=peak_memory_bytes(),
        notes=plan.notes,
        warnings=warnings_of(totals),
        environment=environment(device),
        command=command,
    )
