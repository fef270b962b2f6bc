"""Stage two: the patches of all parts, blended into one array of logits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from voxweft.apps.execute import Execution, check_output, execute
from voxweft.apps.prepare import Prepared, budget_for
from voxweft.apps.scroll.options import BlendOptions, FinalizeOptions, PartOptions, StageOptions, overlap_of
from voxweft.apps.stored import PATCHES, absent_parts, open_parts, require_whole
from voxweft.apps.workers import Workers
from voxweft.engine.events import Emit, silent
from voxweft.engine.job import n_cores
from voxweft.engine.options import RunOptions, flags_of
from voxweft.engine.plan import Plan, make_plan
from voxweft.engine.report import Report
from voxweft.engine.staged import StoredLogits
from voxweft.errors import RequestError
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import Geometry, VolumeInfo
from voxweft.model.card import ModelCard
from voxweft.stores import open_sink
from voxweft.stores.patches import ZarrPatches


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
    stored = StoredLogits(parts, plan.grid, plan.region, absent=absent_parts(parts))
    return execute(Prepared(plan, None, None, stored=stored), sink, workers, execution, emit)


def blend_plan(parent_dir: str, parts: list[ZarrPatches], options: BlendOptions, n_workers: int) -> Plan:
    """The plan of a blend: pure arithmetic on what the parts say of themselves."""
    first = parts[0]
    said = first.attributes
    z, y, x = said["original_volume_shape"]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for one in parts:
        digest.update(one.starts.tobytes() + one.stamps())
    bbox = said.get("bbox_zyx")
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
    card = ModelCard(
        path=parent_dir,
        format=PATCHES,
        digest=str(said.get("model_digest", "")),
        patch_zyx=first.patch_zyx,
        n_classes=first.n_classes,
        activation="softmax" if first.n_classes > 1 else "sigmoid",
        attributes=said | {"sigma_scale": options.sigma_scale},
    )
    source = VolumeInfo(
        parent_dir, PATCHES, (z, y, x), "float16", chunk_zyx=first.patch_zyx, geometry=geometry_in(said)
    )
    return stage_plan(source, card, engine, digest.hexdigest(), n_workers, flags_of(options))


def stage_plan(
    source: VolumeInfo,
    card: ModelCard,
    engine: RunOptions,
    fingerprint: str,
    n_workers: int,
    asked: dict[str, Any],
) -> Plan:
    """A plan for stored logits, in the arrays of the scroll pipeline where that is asked for."""
    plan = make_plan(source, card, engine, fingerprint=fingerprint, budget=budget_for(engine, "cpu", max(1, n_workers)))
    vesuvius = plan.finish.output == "merged" or bool(asked.get("compat"))
    spec = replace(plan.spec, layout="vesuvius") if vesuvius else plan.spec
    return replace(plan, spec=spec, request={**plan.request, **asked})


def overlap_in(parts: list[ZarrPatches], shape: tuple[int, int, int], compat: bool) -> float:
    """The overlap that the coordinates follow: the reference takes the same number for the step.

    Raises
    ------
    RequestError
        If the coordinates are those of neither grid.
    """
    said = float(parts[0].attributes.get("overlap", 0.5))
    as_step = overlap_of(said, as_step=True)
    for overlap in (as_step, said) if compat else (said, as_step):
        if not 0 <= overlap < 1:
            continue
        grid = TileGrid.of(shape, parts[0].patch_zyx, overlap)
        places = [{a.start(i) + o for i in range(a.count)} for a, o in zip(grid.axes, grid.origin, strict=True)]
        if all(set(part.starts[:, a].tolist()) <= places[a] for part in parts for a in range(3)):
            return overlap
    raise RequestError(
        f"the coordinates do not fit a volume of {shape} with patches of {parts[0].patch_zyx} and overlap {said}; "
        "parts of another volume, or damaged"
    )


def geometry_in(attributes: dict[str, Any]) -> Geometry:
    """Voxel size and origin from the attributes of a stage, if it told them."""
    if "voxel_size_zyx" not in attributes:
        return Geometry()
    return Geometry(
        tuple(attributes["voxel_size_zyx"]), attributes.get("unit", ""), tuple(attributes.get("origin_zyx", (0, 0, 0)))
    )


def execution_of(part: PartOptions, how: BlendOptions | FinalizeOptions, command: str) -> Execution:
    """Where a stage is done: in so many processes as are asked for, at most one a core."""
    return Execution(
        **part.share,
        executor=how.executor,
        scheduler=how.scheduler,
        workers=min(how.num_workers or max(1, n_cores() // 2), n_cores()),
        overwrite=part.overwrite,
        prepare=part.prepare,
        command=command,
    )
