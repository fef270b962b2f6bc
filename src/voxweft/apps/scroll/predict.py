"""Stage one: the network over one share of the patches, their logits to disk."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from voxweft.apps.execute import PARTIAL, require_apart, settle
from voxweft.apps.parts import open_job
from voxweft.apps.prepare import Prepared, devices_of, prepare
from voxweft.apps.scroll.options import (
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    SourceOptions,
    StageOptions,
    overlap_of,
    tta_of,
)
from voxweft.apps.scroll.source import find_volume, open_source, scope_of
from voxweft.apps.stored import records_of
from voxweft.backends import load_model
from voxweft.engine.attempts import Attempt, attempt
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.job import Tally
from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report, environment, peak_memory_bytes, tally_dict
from voxweft.engine.staged import Layers, predict_part, tiles_of_part
from voxweft.errors import RequestError
from voxweft.image.protocols import Records
from voxweft.model.targets import target_info
from voxweft.stores import open_sink, open_volume
from voxweft.stores.patches import ZarrPatches
from voxweft.stores.url import absolute, records_at, remove
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
        Its ``n_slabs`` are layers of patches.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    started = time.perf_counter()
    (where, network, storage), part = (
        options or (SourceOptions(), NetworkOptions(), PatchStoreOptions()),
        part or PartOptions(),
    )
    engine = stage_options(where, network, output="patches", num_parts=part.num_parts)
    records = records_at(records_of(output_dir))
    _check_folder(output_dir, records, part)
    volume = open_source(source, where)
    mask = open_volume(network.mask) if network.mask else None
    found = load_model(model, token=network.hf_token)
    schemes = scope_of(found.card, network.normalization, emit)
    require_apart(volume.info.url, output_dir)
    stored = None if part.overwrite else records
    prepared = prepare(volume, found, engine, mask=mask, records=stored, normalization=schemes, emit=emit)
    if part.overwrite:
        remove_parts(output_dir)
    device, ledger = devices_of(network.device)[0], Ledger(records)
    prepared, _ = settle(prepared, ledger, device, emit)
    if part.prepare:
        report = _report(output_dir, prepared, (Tally(), 0, time.perf_counter() - started), device, command)
        return replace(report, status=PARTIAL)
    columns = list(tiles_of_part(prepared.plan, part.part_id, part.num_parts))
    target = _part_store(output_dir, prepared.plan, columns, (part, network, storage))
    n_layers = sum(len(layers) for layers in columns)
    emit(
        Event(
            "begin", data={"n_slabs": n_layers, "n_done": len(ledger.layers(part.part_id)), "unit": "layers of patches"}
        )
    )
    tally = Tally()
    with attempt(ledger, Attempt(part.part_id, part.num_parts), emit) as counting:
        job = replace(open_job(prepared, open_sink("memory://"), device, counting), ledger=ledger)
        predict_part(job, columns, target, tally, part.part_id)
    report = _report(output_dir, prepared, (tally, n_layers, time.perf_counter() - started), device, command)
    ledger.put_report(f"parts/{part.part_id}-of-{part.num_parts}.json", report.to_dict())
    emit(Event("done", report.status, report.to_dict()))
    return report


def stage_options(where: SourceOptions, network: NetworkOptions, **more: Any) -> StageOptions:
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
        level=where.level,
        runtime=network.runtime,
        precision=network.precision,
        device=network.device,
        memory=network.memory,
        listed_volume=find_volume(where) if where.input_format == "volume" else "",
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
    gone = [n for n in range(part.num_parts) if Ledger(records).layers(n) and n not in ZarrPatches.numbers(folder)]
    if gone and not part.overwrite:
        raise RequestError(
            f"{folder}: part {gone[0]} is gone, but its records are there; delete {records_of(folder)} too"
        )


def remove_parts(folder: str) -> None:
    """Delete the parts that voxweft wrote in a folder, and their records; nothing else."""
    records = records_at(records_of(folder))
    if Ledger(records).plan() is not None:
        for number in ZarrPatches.numbers(folder):
            remove(f"{folder}/logits_part_{number}.zarr")
            remove(f"{folder}/coordinates_part_{number}.zarr")
        remove(records_of(folder))


def _part_store(
    folder: str,
    plan: Plan,
    columns: list[Layers],
    how: tuple[PartOptions, NetworkOptions, PatchStoreOptions],
) -> ZarrPatches:
    """The store of this part: a new one, or the one that an earlier run of it began."""
    part, network, storage = how
    starts = [tile.box.start for layers in columns for layer in layers.values() for tile in layer]
    attributes = {
        "patch_size": list(plan.grid.patch),
        "overlap": network.overlap,
        "part_id": part.part_id,
        "num_parts": part.num_parts,
        "original_volume_shape": list(plan.source.shape_zyx),
    }
    attributes |= settings_of(plan)
    return ZarrPatches.create(
        folder,
        part.part_id,
        np.array(starts, np.int32).reshape(-1, 3),
        (plan.card.n_classes, plan.grid.patch),
        attributes,
        (storage.zarr_compressor, storage.zarr_compression_level),
    )


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the parts and all that is made of them say of their making."""
    geometry = plan.source.geometry
    return {
        "tta": plan.tta != "none",
        "tta_type": plan.tta,
        "normalization": [n.scheme for n in plan.normalization],
        "skip_empty_patches": plan.skip_empty,
        "model": plan.card.path,
        "model_digest": plan.card.digest,
        "input": plan.source.url,
        "plan_digest": plan.digest,
        "support_volume": plan.mask and absolute(plan.mask),
        "voxweft_version": __version__,
        "voxel_size_zyx": list(geometry.voxel_size_zyx),
        "origin_zyx": list(geometry.origin_zyx),
        "unit": geometry.unit,
        **target_info(plan.card),
    } | ({"bbox_zyx": [list(plan.region.start), list(plan.region.stop)]} if plan.request.get("bbox") else {})


def _report(folder: str, prepared: Prepared, work: tuple[Tally, int, float], device: str, command: str) -> Report:
    tally, n_layers, elapsed_s = work
    warnings = []
    if tally.n_nonfinite:
        warnings.append(f"{tally.n_nonfinite} voxels of the input were NaN or Inf and were taken as 0")
    return Report(
        output=folder,
        plan_digest=prepared.plan.digest,
        status="complete",
        n_slabs=n_layers,
        n_slabs_done=n_layers,
        tally=tally_dict(tally),
        elapsed_s=round(elapsed_s, 3),
        peak_memory_bytes=peak_memory_bytes(),
        notes=prepared.plan.notes,
        warnings=tuple(warnings),
        environment=environment(device),
        command=command,
    )
