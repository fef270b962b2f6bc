"""Step one: numbered layers to a surface volume in OME-Zarr, several layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from voxweft.apps.ink.names import check_note, prepared_at, require, write_note
from voxweft.apps.ink.options import UNSET, InkPartOptions, LayerOptions, PictureOptions
from voxweft.engine.events import Emit, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Cell, Made, Op, block_op
from voxweft.engine.part import State
from voxweft.engine.plan import VOLUME, InputRef, Plan, Request, differing
from voxweft.engine.stage import Blocks, Output, Source
from voxweft.engine.totals import n_cores
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Sink
from voxweft.image.ref import volume_ref
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink
from voxweft.stores.layers import AT_ONCE, LayersVolume, layers_there
from voxweft.stores.url import absolute

PATH_NOTE = "surface_volume_zarr_path.txt"
CHUNK_YX, SHARD_CHUNKS = (256, 1024), 4
PER_PIXEL = 4  # bytes that a 16-bit layer takes while it is decoded, scaled and written


def prepare(
    layers: LayerOptions,
    part: InkPartOptions | None = None,
    picture_options: PictureOptions | None = None,
    *,
    emit: Emit = silent,
) -> str:
    """Write the layers of a segment as a surface volume [layer, row, column] that records which layers it holds.

    Layers that are there from an earlier run are not read again.

    Returns
    -------
    str
        Where it lies; also left in ``surface_volume_zarr_path.txt``.

    Raises
    ------
    RequestError
        If layers are missing or do not fit each other, or another volume lies there; nothing was written. Of files on
        a server only the first is looked at before.
    RunError
        If a layer cannot be read or written; the same call continues.
    """
    part, picture_options = part or InkPartOptions(), picture_options or PictureOptions()
    check_note(picture_options.runtime_dir, PATH_NOTE)
    url = _place(layers, part)
    layers = _with_range(layers)
    volume = LayersVolume(layers.s3_path, layers.start_layer, layers.end_layer)
    sink = open_sink(url)
    if part.overwrite:
        sink.remove()
    description = {
        "layers": [layers.start_layer, layers.end_layer],
        "source": absolute(volume.url),
        "files": volume.info.stamp,
        "shape": list(volume.info.shape_zyx),
        "scaling": "value >> 8" if volume.info.details["stored_as"] == "uint16" else "none",
    }
    _check(sink, description)
    codec = "lz4" if picture_options.use_zarr_compression else "none"
    opened = Opened(_plan(volume, description, codec, layers), {VOLUME: volume})
    execution = Execution("serial")
    report = run_plan(opened, Place.of(sink), Workers.of(execution, ["cpu"]), execution, emit)
    sink.set_attributes({"voxweft": description | {"complete": report.status == State.COMPLETE}})
    write_note(picture_options.runtime_dir, PATH_NOTE, absolute(url))
    return url


def _with_range(layers: LayerOptions) -> LayerOptions:
    """Without START_LAYER all layers from the first to the last that is there, without END_LAYER all from the start."""
    if layers.end_layer != UNSET:
        return layers
    there = layers_there(layers.s3_path.rstrip("/"))
    start = there.start if layers.start_layer == UNSET else layers.start_layer
    if start >= there.stop:
        raise RequestError(f"No layers found: {layers.s3_path} ends with layer {there.stop - 1}, before {start}.")
    return replace(layers, start_layer=start, end_layer=there.stop)


def _place(layers: LayerOptions, part: InkPartOptions) -> str:
    require(None, layers)
    if not layers.s3_path:
        raise RequestError(
            "S3_PATH is missing: set it, or give the segment as INPUT; SURFACE_VOLUME_ZARR is written to"
        )
    url = prepared_at(layers, part)
    if not url.endswith(".zarr"):
        raise RequestError(f"SURFACE_VOLUME_ZARR {url!r} must end in .zarr")
    return url


def _plan(volume: LayersVolume, description: dict[str, Any], codec: str, layers: LayerOptions) -> Plan:
    """One stage: a unit a layer."""
    shape = volume.info.shape_zyx
    _, height, width = shape
    side = layers.surface_volume_chunk_size
    chunk, shard = _sizes(height, width, (side, side) if side else CHUNK_YX)
    spec = OutputSpec(shape, 1, "uint8", chunk, shard, codec, 1, "none")
    stage = Blocks(
        name="prepare",
        op=Op.of(copy_layer),
        sources=(Source(VOLUME),),
        outputs=(Output(spec=spec, attributes={"voxweft": description | {"complete": False}}),),
        shape_zyx=shape,
        region=Box.of(shape),
        block_zyx=(1, -(-height // shard[1]) * shard[1], -(-width // shard[2]) * shard[2]),
        at_once=_n_at_once(height * width, layers.prepare_max_workers or AT_ONCE),
        noun="layers",
    )
    return Plan(Request("ink prepare", description), (InputRef(VOLUME, volume_ref(volume)),), (), (stage,))


@block_op
def copy_layer(sources: Sequence[NDArray[Any]], _cell: Cell) -> Made:
    """One layer as it was decoded."""
    return Made((sources[0],))


def _check(sink: Sink, description: dict[str, Any]) -> None:
    """Refuse a place that holds something else than what is prepared here."""
    stored = Ledger(sink.records).plan()
    if not sink.exists():  # records without a volume say nothing
        sink.records.clear()
        return
    if stored is None:
        raise RequestError(f"{sink.url} exists and voxweft ink prepare did not write it; choose another place")
    if differ := differing(Plan.from_json(stored).request, Request("ink prepare", description)):
        what = "the layers changed since" if all(line.startswith("files:") for line in differ) else "; ".join(differ)
        raise PlanMismatchError(f"{sink.url} holds another surface volume: {what}.", "Give --overwrite.")


def _n_at_once(n_pixels: int, most: int) -> int:
    """As many layers as cores and free memory allow, ``most`` at most."""
    import psutil

    fitting = psutil.virtual_memory().available // 2 // (PER_PIXEL * n_pixels)
    return int(max(1, min(most, AT_ONCE, n_cores(), fitting)))


def _sizes(height: int, width: int, most_yx: tuple[int, int]) -> tuple[Zyx, Zyx]:
    """Chunk and shard: equal shares of a layer of up to ``most_yx`` pixels, and up to 4 x 4 of them."""
    chunk = [-(-n // -(-n // c)) for n, c in zip((height, width), most_yx, strict=True)]
    shard = [c * min(SHARD_CHUNKS, -(-n // c)) for n, c in zip((height, width), chunk, strict=True)]
    return (1, chunk[0], chunk[1]), (1, shard[0], shard[1])
