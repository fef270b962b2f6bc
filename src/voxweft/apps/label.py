"""Connected components of a volume of any size: blocks by themselves, then joined, then written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import Options, decisive, defaults_of, like, option, parse_size, size_problems, unknown
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Cell, Made, Op, Table, block_op, gather_op
from voxweft.engine.options import RegionOptions, StorageOptions
from voxweft.engine.output import Output, Source
from voxweft.engine.plan import VOLUME, InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.stage import Blocks, Gather, Stage, level_stages
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.image.ref import volume_ref
from voxweft.image.views import Crop
from voxweft.ops.components import connected, require_components
from voxweft.ops.filters import within_limits
from voxweft.ops.join import joined_components, plane_parts
from voxweft.ops.objects import object_rows
from voxweft.ops.runs import merged, surface
from voxweft.runner.execution import Execution
from voxweft.runner.objects import MEASURES, object_places, object_stages
from voxweft.runner.opening import Opened
from voxweft.runner.planning import fingerprint_of
from voxweft.runner.run import run_job
from voxweft.runner.workers import Workers
from voxweft.stores import open_volume

BLOCK = 256
AT_ONCE = 2
JOIN, PAINT = "join", "paint"


@dataclass(frozen=True)
class LabelOptions(Options):
    """What is a component."""

    title: ClassVar[str] = "Components"

    threshold: str = option("", "Voxels of at least this value; default: all that are not 0.")
    low: str = option("", "Hysteresis: voxels of at least this, in components that reach --high.")
    high: str = option("", "Hysteresis: the value that a component must reach.")
    each_label: bool = option(False, "The volume holds labels: components of each of them.")
    connectivity: int = option(26, "Neighbours of a voxel: 6 (faces), 18 (edges too) or 26 (corners too).")
    min_size: int = option(0, "Least voxels of a component.")
    max_size: int = option(0, "Most voxels of a component; 0: no limit.")
    min_extent: int = option(0, "Least voxels of a component's box on each axis.")
    level: int = like(RegionOptions, "level")
    roi: str = option("", "Only this box of the volume, z0:z1,y0:y1,x0:x1; the result is as large as it.")
    chunk: str = like(StorageOptions, "chunk", default="128,128,128")
    compressor: str = like(StorageOptions, "compressor")
    compression_level: int = like(StorageOptions, "compression_level", default=1)
    pyramid: bool = like(StorageOptions, "pyramid")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = unknown(self, connectivity=(6, 18, 26), compressor=("zstd", "lz4", "zlib", "none"))  # type: ignore[arg-type]
        found += size_problems("chunk", self.chunk)
        for name in ("threshold", "low", "high"):
            try:
                if (text := getattr(self, name)) and not np.isfinite(float(text)):
                    raise ValueError
            except ValueError:
                found.append(f"--{name} {getattr(self, name)!r} is no number")
        if bool(self.low) != bool(self.high):
            found.append("--low and --high go together: voxels of at least --low, in components that reach --high")
        if self.threshold and self.low:
            found.append("--threshold and --low: give one of both")
        if self.each_label and (self.threshold or self.low):
            found.append("--each-label takes the values as they are; leave thresholds out")
        if not found and self.low and float(self.low) > float(self.high):
            found.append(f"--low {self.low} is above --high {self.high}")
        for name in ("min_size", "max_size", "min_extent"):
            if getattr(self, name) < 0:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is negative")
        return found

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Least value of a voxel, and what a component must reach; None for all that is not 0, and for nothing."""
        if self.low:
            return float(self.low), float(self.high)
        return (float(self.threshold) if self.threshold else None), None


def label(
    source: Any,
    output: Any,
    options: LabelOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Connected components of a mask, of labels, or of values above a threshold.

    Parameters
    ----------
    source
        URL or path of a volume of one channel, or an array [Z, Y, X].
    output
        URL or path of the OME-Zarr to write, uint32 [Z, Y, X]: 1 to N in the order of the blocks in which components
        begin. ``NAME_objects.csv`` is written beside it.
    options, execution
        What a component is; where to compute it.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.

    Examples
    --------
    >>> import voxweft
    >>> sink = voxweft.open_sink("memory://")
    >>> report = label(np.array([[[1, 1, 0, 1]]], np.uint8), sink)
    >>> sink.read(voxweft.Box.of((1, 1, 4))).ravel()
    array([1, 1, 0, 2], dtype=uint32)
    """
    options, execution = options or LabelOptions(), execution or Execution()
    require_components()
    volume = open_volume(source, level=options.level)
    _check(volume.info, options)
    if options.roi:
        volume = Crop(Box.parse(options.roi, volume.info.shape_zyx)).of(volume)
    info, workers = volume.info, Workers.of(execution, ["cpu"])
    plan = Plan(
        Request("label", decisive(options), defaults_of(options)),
        (InputRef(VOLUME, volume_ref(volume), fingerprint_of(info, volume.read(_corner(info)))),),
        (),
        tuple(_stages(info, options)),
    )
    return run_job(Opened(plan, {VOLUME: volume}), output, object_places, workers, execution, emit)


def _check(info: VolumeInfo, options: LabelOptions) -> None:
    kind = np.dtype(info.dtype).kind
    if info.n_channels != 1:
        raise VolumeError(f"{info.url} has {info.n_channels} channels; components are those of one")
    if not min(info.shape_zyx) or kind not in "iufb":
        raise VolumeError(f"{info.url} holds {info.shape_zyx} voxels of {info.dtype}; nothing there can be labelled")
    if options.each_label and kind not in "iu":
        raise VolumeError(f"{info.url} holds {info.dtype} values; --each-label wants integers")
    for bound in options.bounds:
        if bound is not None and 0 < bound < 1 and kind in "iu":
            most = np.iinfo(info.dtype).max
            stored = f"A probability of {bound:g} is stored as {round(bound * most)} there; give that."
            raise RequestError(
                f"a threshold of {bound:g} on {info.dtype} values takes every voxel that is not 0.",
                stored if most < 1 << 16 else "Give a whole number.",
            )


def _corner(info: VolumeInfo) -> Box:
    z, y, x = (min(n, c) for n, c in zip(info.shape_zyx, info.chunk_zyx, strict=True))
    return Box.of((z, y, x))


def _stages(info: VolumeInfo, options: LabelOptions) -> list[Stage]:
    shape = info.shape_zyx
    asked = parse_size(options.chunk) or (128, 128, 128)
    chunk: Zyx = tuple(min(c, -(-n // 16) * 16) for c, n in zip(asked, shape, strict=True))  # type: ignore[assignment]
    block: Zyx = tuple(max(1, BLOCK // c) * c for c in chunk)  # type: ignore[assignment]
    spec = OutputSpec(
        shape_zyx=shape,
        n_channels=1,
        dtype="uint32",
        chunk_zyx=chunk,
        shard_zyx=block,
        compressor=options.compressor,
        compression_level=options.compression_level,
        pyramid="nearest" if options.pyramid else "none",
        geometry=info.geometry,
        is_label=True,
    )
    low, high = options.bounds
    how = asdict(Foreground(low, high, options.each_label, options.connectivity, block))
    limits = {"min_size": options.min_size, "max_size": options.max_size, "min_extent": options.min_extent}
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    source = (Source(VOLUME, halo_zyx=(1, 1, 1)),)
    common: dict[str, Any] = {"shape_zyx": shape, "region": Box.of(shape), "block_zyx": block, "at_once": AT_ONCE}
    main = Output(spec=spec)
    return [
        Blocks(name="components", op=Op.of(find_components, how=how), sources=source, outputs=(), **common),
        Gather(JOIN, Op.of(join_components, grid=grid, seeds=high is not None, **limits), ("components",)),
        Blocks(
            name=PAINT,
            op=Op.of(paint_components, grid=grid, how=how),
            sources=(Source(VOLUME, halo_zyx=(1, 1, 1), only_after=True),),
            outputs=(main,),
            needs=(JOIN,),
            tables=(JOIN,),
            **common,
        ),
        *object_stages(JOIN, info.geometry, shape, {1: "component"}),
        *level_stages(main, Box.of(shape), PAINT),
    ]


@dataclass(frozen=True, slots=True)
class Foreground:
    """Which voxels belong to components: those of at least ``low``, all that are not 0, or with ``each`` equal ones.

    ``high``: what a component must reach; ``connectivity``: neighbours of a voxel; ``block``: voxels of a block.
    """

    low: float | None
    high: float | None
    each: bool
    connectivity: int
    block: Sequence[int]

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is labelled of values."""
        return values if self.each else (values != 0 if self.low is None else values >= self.low)


@block_op
def find_components(sources: Sequence[NDArray[Any] | None], cell: Cell, *, how: Mapping[str, Any]) -> Made:
    """The components of a block: how many, where, and which parts of shared planes they have; rows of tables."""
    rule = Foreground(**how)
    values, seeds, own = _inside(sources[0], cell, rule)
    ids = connected(values, rule.connectivity)
    table: dict[str, Any] = {"count": np.array([ids.max(initial=0)], np.int64)}
    for axis in range(3):
        table[f"low_{axis}"] = plane_parts(values, ids, axis, 0, rule.connectivity)
        behind = own[axis] < values.shape[axis]
        table[f"high_{axis}"] = (
            plane_parts(values, ids, axis, own[axis], rule.connectivity) if behind else np.zeros(0, np.int64)
        )
    inner = ids[: own[0], : own[1], : own[2]]
    near = np.zeros(own, np.bool_)
    if sources[0] is not None:  # the foreground beside a voxel is of its component
        near = surface(rule(sources[0][0]), cell.box.shift(cell.reads[0].start, -1).slices)
    rows = object_rows(inner, cell.box, near)
    seeded = np.ones(len(rows["label"]), np.int64)
    if seeds is not None:
        seeded = np.isin(rows["label"], np.unique(inner[seeds])).astype(np.int64)
    return Made(table=table | rows | {"seeds": seeded})


@gather_op
def join_components(
    gathered: Gathered, *, grid: Sequence[int], seeds: bool, min_size: int, max_size: int, min_extent: int
) -> Made:
    """The object of every component of every block: 1 to N, 0 for what is left out."""
    tables = [table for _, table in gathered.tables("components")]
    counts = [int(table["count"][0]) for table in tables]
    first, whole = joined_components(counts, (grid[0], grid[1], grid[2]), tables)
    at = np.concatenate([base + table["label"] - 1 for base, table in zip(first, tables, strict=False)])
    measures = {n: np.concatenate([t[n] for t in tables]) for n in (*MEASURES, "seeds")}
    (found,), table = merged([whole[at]], measures)
    kept = within_limits(table, min_size, min_extent, max_size)
    if seeds:
        kept &= table["seeds"] > 0
    number = np.zeros(int(whole.max(initial=-1)) + 1, np.int64)
    number[found] = np.where(kept, np.cumsum(kept), 0)
    rows = {name: table[name][kept] for name in MEASURES}
    label = np.arange(1, kept.sum() + 1)
    return Made(table={"first": first, "object": number[whole], "class": np.ones_like(label), "label": label, **rows})


@block_op
def paint_components(
    sources: Sequence[NDArray[Any] | None],
    cell: Cell,
    *,
    how: Mapping[str, Any],
    grid: Sequence[int],
    tables: Mapping[str, Table],
) -> Made:
    """The same components once more, as the objects that they belong to."""
    rule = Foreground(**how)
    values, _, own = _inside(sources[0], cell, rule)
    ids = connected(values, rule.connectivity)
    z, y, x = (a // b for a, b in zip(cell.box.start, rule.block, strict=True))
    unit = (z * grid[1] + y) * grid[2] + x
    lo, hi = tables[JOIN]["first"][unit : unit + 2]
    lut = np.concatenate([[0], tables[JOIN]["object"][lo:hi]]).astype(np.uint32)
    labels = lut[ids[: own[0], : own[1], : own[2]]]
    return Made((labels[None],))


def _inside(
    read: NDArray[Any] | None, cell: Cell, rule: Foreground
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, Zyx]:
    """What is labelled, with one plane more behind the block; where components may begin; the block's own extent."""
    box, own = cell.box, cell.box.shape
    start = tuple(a - b for a, b in zip(box.start, cell.reads[0].start, strict=True))
    whole = tuple(slice(a, None) for a in start)
    if read is None:
        stop = tuple(min(n + 1, b - a) for n, a, b in zip(own, box.start, cell.reads[0].stop, strict=True))
        return np.zeros(stop, np.uint8), None, own
    values = read[0][whole]
    inner = values[: own[0], : own[1], : own[2]]
    seeds = inner >= rule.high if rule.high is not None else None
    return np.ascontiguousarray(rule(values)), seeds, own
