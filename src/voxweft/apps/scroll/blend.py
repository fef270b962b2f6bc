"""Stage two: the patches of all parts, blended into one array of logits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from voxweft.apps.scroll.options import BlendOptions, FinalizeOptions, PartOptions, StageOptions, overlap_of
from voxweft.engine.compat import blend_as_vesuvius
from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import decisive, defaults_of
from voxweft.engine.op import Op
from voxweft.engine.plan import VOLUME, InputRef, PatchesRef, Plan, Request
from voxweft.engine.planning import Findings, plan_sweep
from voxweft.engine.report import Report
from voxweft.engine.stage import Blocks, Output, Source, Sweep
from voxweft.engine.stored import StoredLogits
from voxweft.engine.totals import n_cores
from voxweft.errors import RequestError
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import Geometry, VolumeInfo
from voxweft.model.card import ModelCard
from voxweft.model.head import ACTIVATIONS
from voxweft.model.ref import ModelRef
from voxweft.runner.devices import budget_for
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.patches import absent_parts, open_parts, require_whole
from voxweft.runner.place import Place
from voxweft.runner.records import check_output
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink
from voxweft.stores.patches import ZarrPatches

PATCHES = "patch logits"


def blend(
    parent_dir: str,
    output_path: str,
    options: BlendOptions | None = None,
    *,
    part: PartOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> Report:
    """Blend the parts of a folder, voxweft's or the reference's: sum(w l) / sum(w) at every voxel.

    Parameters
    ----------
    parent_dir
        Folder with ``logits_part_X.zarr`` and ``coordinates_part_X.zarr``, local or s3://.
    output_path
        Array to write: zarr v2 float16 [C, Z, Y, X]; 0 in every class where no patch ran.
    options, part
        How; which share of the output's chunks.
    command, emit
        For the record; told of every event.

    Raises
    ------
    RequestError
        If parts are missing, cut short or do not belong together; nothing was written.
    """
    options, part = options or BlendOptions(), part or PartOptions()
    parts = open_parts(parent_dir)
    require_whole(parent_dir, parts)
    sink = open_sink(output_path, layout="vesuvius")
    execution = execution_of(part, options, command)
    workers = Workers.of(execution, ["cpu"])
    check_output(sink, execution)
    plan = blend_plan(parent_dir, parts, options, workers.n_sharing)
    ref = plan.inputs[0].ref
    if not isinstance(ref, PatchesRef):
        raise RequestError(f"{parent_dir} holds no patches")
    patches = StoredLogits(parts, ref.grid, ref.region, absent=absent_parts(parts))
    return run_plan(Opened(plan, patches={VOLUME: patches}), Place.of(sink), workers, execution, emit)


def blend_plan(parent_dir: str, parts: list[ZarrPatches], options: BlendOptions, n_workers: int) -> Plan:
    """The plan of a blend: pure arithmetic on what the parts say of themselves."""
    first = parts[0]
    attributes = first.attributes
    z, y, x = attributes["original_volume_shape"]
    digest = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for one in parts:
        digest.update(one.starts.tobytes() + one.stamps())
    bbox = attributes.get("bbox_zyx")
    engine = StageOptions(
        overlap=overlap_in(parts, (z, y, x), bool(options.compat)),
        sigma_scale=options.sigma_scale,
        output="merged",
        chunk=options.chunk_size or ",".join(map(str, first.patch_zyx)),
        compression_level=options.compression_level,
        pyramid=False,
        bbox=",".join(f"{a}:{b}" for a, b in zip(*bbox, strict=True)) if bbox else "",
        device="cpu",
        memory=options.memory,
        compat=options.compat,
    )
    activation, label_ids = activation_in(attributes, first.n_classes)
    card = ModelCard(
        path=parent_dir,
        format=PATCHES,
        digest=str(attributes.get("model_digest", "")),
        patch_zyx=first.patch_zyx,
        n_classes=first.n_classes,
        activation=activation,
        label_ids=label_ids,
        attributes=attributes | {"sigma_scale": options.sigma_scale},
    )
    source = VolumeInfo(
        parent_dir, PATCHES, (z, y, x), "float16", chunk_zyx=first.patch_zyx, geometry=geometry_in(attributes)
    )
    found = Findings(budget=budget_for(engine, "cpu", max(1, n_workers)), app="blend")
    plan = plan_sweep(source, (ModelRef(card),), engine, found)
    sweep = plan.sweep
    output = replace(sweep.outputs[0], spec=replace(sweep.spec, layout="vesuvius"))
    ref = PatchesRef(parent_dir, sweep.grid, sweep.region)
    return replace(
        plan,
        request=Request("blend", decisive(options), defaults_of(options)),
        inputs=(InputRef(VOLUME, ref, digest.hexdigest()),),
        stages=(_as_vesuvius(sweep, output) if options.compat else replace(sweep, outputs=(output,)),),
    )


def _as_vesuvius(sweep: Sweep, output: Output) -> Blocks:
    """The same by the numbers of the reference, chunk by chunk."""
    settings = {"n_classes": sweep.finish.n_classes, "sigma_scale": sweep.sigma_scale}
    return Blocks(
        name="blend",
        op=Op.of(blend_as_vesuvius, **settings),
        sources=(Source(VOLUME),),
        outputs=(output,),
        shape_zyx=sweep.spec.shape_zyx,
        region=sweep.region,
        block_zyx=sweep.spec.shard_zyx,
        cell_zyx=sweep.spec.chunk_zyx,
    )


def overlap_in(parts: list[ZarrPatches], shape: tuple[int, int, int], compat: bool) -> float:
    """The overlap that the coordinates follow: the reference takes the same number for the step.

    Raises
    ------
    RequestError
        If the coordinates are those of neither grid.
    """
    given = float(parts[0].attributes.get("overlap", 0.5))
    as_step = overlap_of(given, as_step=True)
    for overlap in (as_step, given) if compat else (given, as_step):
        if not 0 <= overlap < 1:
            continue
        grid = TileGrid.of(shape, parts[0].patch_zyx, overlap)
        places = [{a.start(i) + o for i in range(a.count)} for a, o in zip(grid.axes, grid.origin, strict=True)]
        if all(set(part.starts[:, a].tolist()) <= places[a] for part in parts for a in range(3)):
            return overlap
    raise RequestError(
        f"the coordinates do not fit a volume of {shape} with patches of {parts[0].patch_zyx} and overlap {given}; "
        "parts of another volume, or damaged"
    )


def activation_in(attributes: Mapping[str, Any], n_classes: int) -> tuple[str, tuple[int, ...]]:
    """Activation and label ids that logits were stored with; of other programs, which do not store them, theirs.

    Raises
    ------
    RequestError
        If they cannot be.
    """
    found = attributes.get("activation", "softmax" if n_classes > 1 else "sigmoid")
    ids = attributes.get("label_ids", [])
    if found not in ACTIVATIONS:
        raise RequestError(f"the logits say activation {found!r}; it can be {', '.join(ACTIVATIONS)}")
    numbers = isinstance(ids, list) and all(isinstance(n, int) and n >= 0 for n in ids)
    if not numbers or len(ids) not in (0, n_classes):
        raise RequestError(f"the logits say label_ids {ids}; it can be a number for each of {n_classes} classes")
    return found, tuple(ids)


def geometry_in(attributes: dict[str, Any]) -> Geometry:
    """Voxel size and origin from the attributes of a stage, if it told them."""
    if "voxel_size_zyx" not in attributes:
        return Geometry()
    return Geometry(
        tuple(attributes["voxel_size_zyx"]), attributes.get("unit", ""), tuple(attributes.get("origin_zyx", (0, 0, 0)))
    )


def execution_of(part: PartOptions, stage_options: BlendOptions | FinalizeOptions, command: str) -> Execution:
    """Where a stage is done: in so many processes as are asked for, at most one a core."""
    return Execution(
        **part.share,
        executor=stage_options.executor,
        scheduler=stage_options.scheduler,
        workers=min(stage_options.num_workers or max(1, n_cores() // 2), n_cores()),
        overwrite=part.overwrite,
        prepare=part.prepare,
        command=command,
    )
