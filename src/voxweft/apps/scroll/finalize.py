"""Stage three: logits to probabilities, masks or class ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from voxweft.apps.execute import COMPLETE, check_output, execute, report_of, verify
from voxweft.apps.prepare import Prepared, mask_fingerprint
from voxweft.apps.scroll.blend import execution_of, geometry_in, stage_plan
from voxweft.apps.scroll.options import ClassOptions, FinalizeOptions, PartOptions, StageOptions
from voxweft.apps.stored import CHUNKS, open_stored
from voxweft.apps.workers import Workers
from voxweft.engine.events import Emit, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.masking import mask_scale
from voxweft.engine.options import flags_of
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Sink
from voxweft.model.card import ModelCard
from voxweft.stores import open_sink, open_volume
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.url import exists, records_at, remove
from voxweft.stores.zarr import attributes_of

DEFAULT = ClassOptions().threshold


def finalize(
    input_path: str,
    output_path: str,
    options: tuple[ClassOptions, FinalizeOptions] | None = None,
    *,
    part: PartOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> Report:
    """Turn merged logits, voxweft's or the reference's, into the final segmentation.

    Parameters
    ----------
    input_path
        Logits [C, Z, Y, X] as :func:`blend` writes them; chunks that are not stored are not visited.
    output_path
        OME-Zarr to write, uint8: floor(255 p) or 0 / 255; with mode "multiclass" floor(255 p) of every class and then
        the class ids, or the ids alone.
    options, part
        What and how; which share of the output.
    command, emit
        For the record; told of every event.

    Raises
    ------
    RequestError
        If the logits are missing or unfinished, or do not fit the mode; nothing was written.
    """
    (classes, how), part = options or (ClassOptions(), FinalizeOptions()), part or PartOptions()
    if how.compat and classes.threshold != DEFAULT:
        raise RequestError(f"--compat {how.compat} knows no --threshold-value")
    layout = "vesuvius" if how.compat else "ome-zarr"
    sink = open_sink(output_path, layout=layout)
    execution = execution_of(part, how, command)
    workers = Workers.of(execution, ["cpu"])
    check_output(sink, execution)
    if how.delete_intermediates and not exists(input_path) and (done := _done_before(sink, classes, how)):
        return done
    volume = open_volume(input_path)
    if not volume.info.dtype.startswith("float"):
        raise RequestError(f"{input_path} holds {volume.info.dtype} values; logits are float16 or float32")
    _require_finished(input_path)
    said = attributes_of(input_path)
    how = replace(how, mask=how.mask or ("" if how.compat else said.get("support_volume", "")))
    mask = open_volume(how.mask) if how.mask else None
    if mask is not None:
        mask_scale(mask.info, volume.info.shape_zyx)
    plan = finalize_plan(volume.info, said, (classes, how), workers.n_sharing)
    if mask is not None:
        plan = replace(plan, mask_fingerprint=mask_fingerprint(mask))
    prepared = Prepared(plan, None, None, mask, stored=open_stored(plan))
    report = execute(prepared, sink, workers, execution, emit)
    if how.delete_intermediates and report.status == COMPLETE:
        verify(output_path, emit)
        remove(input_path)
        remove(f"{input_path.rstrip('/')}.voxweft")
    return report


def _done_before(sink: Sink, classes: ClassOptions, how: FinalizeOptions) -> Report | None:
    """The report of an earlier run of the same command, whose input was deleted after it."""
    ledger = Ledger(sink.records)
    stored = ledger.plan()
    if stored is None or not sink.exists():
        return None
    plan = Plan.from_json(stored)
    asked = flags_of(classes) | flags_of(how) | {"mask": how.mask or plan.request.get("mask")}
    differ = [
        f"{k}: stored {plan.request.get(k)!r}, asked for {v!r}" for k, v in asked.items() if plan.request.get(k) != v
    ]
    if differ:
        raise PlanMismatchError(f"{sink.url} holds the work of another plan: {'; '.join(differ)}.", "Give --overwrite.")
    if len(ledger.slabs()) < plan.columns.n_units:
        return None
    return report_of(ledger)


def finalize_plan(
    source: VolumeInfo, said: Mapping[str, Any], options: tuple[ClassOptions, FinalizeOptions], n_workers: int
) -> Plan:
    """The plan of a finalize: a sweep over the stored chunks, which do not overlap."""
    classes, how = options
    told = said.get("target_info", {}).values()
    targets = tuple(sorted((int(t["start_channel"]), int(t["end_channel"])) for t in told))
    if targets and classes.mode == "multiclass":
        raise RequestError("--mode multiclass with the logits of several tasks; use --mode binary")
    engine = StageOptions(
        overlap=0.0,
        window="uniform",
        fit="abut",
        mode=classes.mode,
        output=classes.output,
        threshold=classes.threshold,
        mask=how.mask,
        chunk=how.chunk_size or ",".join(map(str, source.chunk_zyx)),
        pyramid=how.pyramid and not how.compat,
        device="cpu",
        memory=how.memory,
        compat=how.compat,
    )
    card = ModelCard(
        path=source.url,
        format=CHUNKS,
        digest=str(said.get("model_digest", "")),
        patch_zyx=source.chunk_zyx,
        n_inputs=source.n_channels,
        n_classes=source.n_channels,
        activation="softmax" if source.n_channels > 1 else "sigmoid",
        targets=targets,
        attributes=_attributes(said, classes),
    )
    info = VolumeInfo(
        url=source.url,
        format=CHUNKS,
        shape_zyx=source.shape_zyx,
        dtype=source.dtype,
        n_channels=source.n_channels,
        chunk_zyx=source.chunk_zyx,
        geometry=geometry_in(dict(said)),
        details=source.details,
    )
    asked = flags_of(classes) | flags_of(how)
    return stage_plan(info, card, engine, _fingerprint(info), n_workers, asked)


def _attributes(said: Mapping[str, Any], classes: ClassOptions) -> dict[str, Any]:
    return {**said, "processing_mode": classes.mode, "threshold_applied": classes.hard}


def _fingerprint(info: VolumeInfo) -> str:
    """A digest of names, sizes and times of the stored chunks: a merged array that changed is another input."""
    head = f"{info.shape_zyx} {info.n_channels} {info.dtype}"
    return hashlib.sha256(head.encode() + ChunkFiles(info.url).stamps()).hexdigest()


def _require_finished(url: str) -> None:
    """Refuse logits that voxweft has not blended to the end."""
    ledger = Ledger(records_at(f"{url.rstrip('/')}.voxweft"))
    stored = ledger.plan()
    if stored is None:
        return
    columns, done = Plan.from_json(stored).columns, ledger.slabs()
    missing = [
        f"slab {s} of column {c}"
        for c in range(columns.n_columns)
        for s in range(columns.n_slabs)
        if (c, s) not in done
    ]
    if missing:
        raise RequestError(
            f"{url} is not blended to the end: {', '.join(missing[:5])} of {columns.n_units} slabs missing. "
            "Run voxweft blend for the parts that did not end."
        )
