"""A volume along a surface: a picture of a result, or the layers of a scroll for a network that wants them flat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.near import check_inside, check_origin, chunk_of
from voxweft.apps.ink.options import OUTPUT_SUFFIXES, ROWS_FIRST
from voxweft.apps.ink.picture import PICTURE, check_place, picture_stage
from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import Options, decisive, defaults_of, like, option, unknown
from voxweft.engine.op import Cell, Made, Op, block_op
from voxweft.engine.options import RegionOptions, StorageOptions
from voxweft.engine.output import Output, Source
from voxweft.engine.part import State
from voxweft.engine.plan import VOLUME, InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.stage import Blocks, Stage, level_stages
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import SMALL, OutputSpec, VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.image.views import AsChannels, Permute
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.planning import fingerprint_of
from voxweft.runner.records import require_apart
from voxweft.runner.run import run_job
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume
from voxweft.stores.segments import INTERPOLATIONS, Flattened
from voxweft.stores.surface import survey
from voxweft.stores.url import absolute

APP, STAGE = "ink flatten", "flatten"
REDUCE = ("max", "mean", "none")
MOST_LAYERS = 4096
TILE = 256  # of rows and columns that are sampled at once
ROWS_OF_LAYERS = 64  # of a chunk that holds all layers


@dataclass(frozen=True)
class FlattenOptions(Options):
    """How a volume is sampled along a surface."""

    title: ClassVar[str] = "Sampling"

    depth: int = option(16, "Layers, half of them on either side of the surface.")
    step: float = option(1.0, "Distance of layers, in voxels of the level.")
    spacing: float = option(1.0, "Distance of pixels, in voxels of the level.")
    reduce: str = option("max", "max or mean over the layers, or none: all of them, as voxweft ink infer takes them.")
    interpolation: str = option("linear", "linear (of eight voxels) or nearest.")
    level: int = like(RegionOptions, "level")
    channel: int = like(RegionOptions, "channel")
    compressor: str = like(StorageOptions, "compressor")
    compression_level: int = like(StorageOptions, "compression_level")
    surface_voxel_size: float = option(
        0.0, "Voxel size of the volume that the surface was made on, in micrometres; 0: as VOLUME.", decides=False
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, reduce=REDUCE, interpolation=INTERPOLATIONS)
        if not 1 <= self.depth <= MOST_LAYERS:
            problems.append(f"--depth {self.depth} is not 1 to {MOST_LAYERS} layers")
        problems += [
            f"--{name} {getattr(self, name)} is no distance; use a number of voxels above 0"
            for name in ("step", "spacing")
            if not 0 < getattr(self, name) < float("inf")
        ]
        return problems


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """What became of it: the report, the OME-Zarr, and the picture ("" where there is none)."""

    report: Report
    zarr: str
    picture: str = ""


def flatten(
    source: Any,
    segment: str,
    output: str,
    options: FlattenOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> FlattenResult:
    """Sample a volume along the surface of a segment.

    Parameters
    ----------
    source
        Volume of one channel: a result of ``voxweft ink volume``, or a scroll.
    segment
        A tifxyz folder, an obj or a ppm, in voxels of the volume's finest level.
    output
        ``.zarr``, or a picture: PNG or TIFF, with an OME-Zarr of the same name beside it.
    options, execution
        How; where to compute it.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    options, execution = options or FlattenOptions(), execution or Execution()
    picture, zarr = _places(output, options)
    volume = open_volume(source, level=options.level)
    _check(volume.info, options)
    for read, written in product((volume.info.url, segment), filter(None, (zarr, picture))):
        require_apart(read, written)
    seen = Flattened(
        segment,
        volume,
        level=options.level,
        depth=options.depth,
        step=options.step,
        spacing=options.spacing,
        interpolation=options.interpolation,
        exact=options.reduce == "mean",
    )
    met = survey(seen.surface, options.level, chunk_of(volume.info), volume.info.shape_zyx)
    check_inside(met, segment, volume.info, emit)
    about = (
        seen.surface.info if options.reduce == "none" else replace(seen.surface.info, source="")
    )  # a result has another name
    check_origin(about, volume.info, options.surface_voxel_size, emit)
    opened, attributes = _opened(seen, segment, options, volume.info.dtype)
    workers = Workers.of(execution, ["cpu"])
    report = run_job(opened, zarr, lambda _url: {PICTURE: picture} if picture else {}, workers, execution, emit)
    if attributes and report.status == State.COMPLETE:
        sink = open_sink(zarr)
        sink.open()
        sink.set_attributes({"voxweft": attributes | {"complete": True}})
    return FlattenResult(report, zarr, picture if report.status == State.COMPLETE else "")


def _places(output: str, options: FlattenOptions) -> tuple[str, str]:
    """The picture, or "", and the OME-Zarr."""
    if not output.endswith(OUTPUT_SUFFIXES):
        raise RequestError(f"cannot write {output!r}: it must end in {', '.join(OUTPUT_SUFFIXES)}")
    if output.endswith(".zarr"):
        return "", output
    if options.reduce == "none":
        raise RequestError(f"--reduce none keeps all layers, which {output} cannot hold; give OUT.zarr")
    check_place(output)
    return output, re.sub(r"\.\w+$", ".zarr", output)


def _check(info: VolumeInfo, options: FlattenOptions) -> None:
    if info.n_channels != 1:
        raise VolumeError(f"{info.url} has {info.n_channels} channels; what is flattened has one")
    if info.dtype not in ("uint8", "uint16") and options.reduce != "none":
        raise VolumeError(f"{info.url} holds {info.dtype} values; a picture has 8 or 16 bits. --reduce none keeps them")


def _opened(seen: Flattened, segment: str, options: FlattenOptions, dtype: str) -> tuple[Opened, dict[str, Any]]:
    """The plan of the job, with its volume; and what a surface volume says of itself. ``dtype``: of a picture."""
    shape, volume = seen.info.shape_zyx, seen
    attributes: dict[str, Any] = {}
    if options.reduce == "none":
        attributes = {
            "layers": [0, shape[0]],
            "source": absolute(segment),
            "files": seen.info.stamp,
            "shape": list(shape),
            "scaling": "none",
        }
        stages = _layers(seen.info, options, attributes)
    else:
        volume = Permute((1, 0, 2)).of(AsChannels(0).of(seen))  # type: ignore[assignment]
        stages = _picture(replace(volume.info, dtype=dtype), options)
    fingerprint = fingerprint_of(seen.info, _corner(seen))
    plan = Plan(
        Request(APP, decisive(options) | {"segment": absolute(segment)}, defaults_of(options)),
        (InputRef(VOLUME, volume_ref(volume), fingerprint),),
        (),
        tuple(stages),
    )
    return Opened(plan, {VOLUME: volume}), attributes


def _corner(volume: Volume) -> NDArray[Any]:
    """A few pixels of the middle."""
    depth, rows, columns = volume.info.shape_zyx
    y, x = max(0, rows // 2 - 8), max(0, columns // 2 - 8)
    return volume.read(Box((0, y, x), (depth, min(rows, y + 16), min(columns, x + 16))))


def _picture(info: VolumeInfo, options: FlattenOptions) -> list[Stage]:
    """One layer of what is left of all of them, rows first, its resolution levels, and the picture."""
    rows, _, columns = info.shape_zyx
    chunk = (min(TILE, -(-rows // 16) * 16), 1, min(TILE, -(-columns // 16) * 16))
    main = Output(spec=replace(_spec((rows, 1, columns), info, options, chunk), order=ROWS_FIRST, pyramid="mean"))
    blocks = Blocks(
        name=STAGE,
        op=Op.of(reduce_layers, how=options.reduce),
        sources=(Source(VOLUME),),
        outputs=(main,),
        shape_zyx=(rows, 1, columns),
        region=Box.of((rows, 1, columns)),
        block_zyx=chunk,
        noun="tiles",
    )
    return [blocks, *level_stages(main, blocks.region, STAGE), picture_stage(STAGE)]


def _layers(info: VolumeInfo, options: FlattenOptions, attributes: dict[str, Any]) -> list[Stage]:
    """All layers, in chunks that hold every one of them."""
    depth, rows, columns = shape = info.shape_zyx
    chunk = (depth, min(ROWS_OF_LAYERS, -(-rows // 16) * 16), min(TILE, -(-columns // 16) * 16))
    output = Output(spec=_spec(shape, info, options, chunk), attributes={"voxweft": attributes | {"complete": False}})
    blocks = Blocks(
        name=STAGE,
        op=Op.of(keep_layers),
        sources=(Source(VOLUME),),
        outputs=(output,),
        shape_zyx=shape,
        region=Box.of(shape),
        block_zyx=(depth, chunk[1] * (TILE // chunk[1]), chunk[2]),
        noun="tiles",
    )
    return [blocks]


def _spec(shape: Zyx, info: VolumeInfo, options: FlattenOptions, chunk: Zyx) -> OutputSpec:
    return OutputSpec(
        shape_zyx=shape,
        n_channels=1,
        dtype=info.dtype,
        chunk_zyx=chunk,
        shard_zyx=chunk,
        compressor=options.compressor,
        compression_level=options.compression_level,
        pyramid="none",
        geometry=info.geometry,
        smallest=SMALL,
        by_size=True,
    )


@block_op
def reduce_layers(sources: Sequence[NDArray[Any]], _cell: Cell, *, how: str) -> Made:
    """The maximum or the mean of the layers, which come as channels."""
    layers = sources[0]
    if how == "max":
        return Made((layers.max(axis=0, keepdims=True),))
    return Made((np.rint(layers.mean(axis=0, keepdims=True, dtype=np.float64)),))


@block_op
def keep_layers(sources: Sequence[NDArray[Any]], _cell: Cell) -> Made:
    """The layers as they were sampled."""
    return Made((sources[0],))
