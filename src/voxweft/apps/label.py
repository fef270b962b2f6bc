"""Connected components of a volume of any size: blocks by themselves, then joined, then written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import Options, decisive, defaults_of, like, option, parse_size, size_problems, unknown
from voxweft.engine.named import takes_options, with_both
from voxweft.engine.options import RegionOptions, StorageOptions
from voxweft.engine.plan import VOLUME, InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.stage import Stage
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import SMALL, OutputSpec, VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.image.views import Crop
from voxweft.ops.components import require_components
from voxweft.runner.components import (  # operations of older plans are found here
    BLOCK,
    Rule,
    component_stages,
    find_components,
    join_components,
    paint_components,
)
from voxweft.runner.execution import Execution
from voxweft.runner.objects import object_places
from voxweft.runner.opening import Opened
from voxweft.runner.planning import fingerprint_of
from voxweft.runner.run import run_job
from voxweft.runner.workers import Workers
from voxweft.stores import open_volume

__all__ = ["LabelOptions", "find_components", "join_components", "label", "paint_components"]


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


@takes_options(LabelOptions, Execution)
def label(
    source: Any,
    output: Any,
    options: LabelOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
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
    **named
        Options and execution by their names, as in ``threshold=128, min_size=50``.

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
    both = with_both(named, LabelOptions, options, Execution, execution)
    options, execution = both
    require_components()
    volume: Volume = open_volume(source, level=options.level)
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
    spec = OutputSpec(
        shape_zyx=shape,
        n_channels=1,
        dtype="uint32",
        chunk_zyx=chunk,
        shard_zyx=tuple(max(1, BLOCK // c) * c for c in chunk),  # type: ignore[arg-type]
        compressor=options.compressor,
        compression_level=options.compression_level,
        pyramid="nearest" if options.pyramid else "none",
        geometry=info.geometry,
        is_label=True,
        smallest=SMALL,
        by_size=True,
    )
    low, high = options.bounds
    rule = Rule(
        low,
        high,
        options.each_label,
        options.connectivity,
        options.min_size,
        options.max_size,
        options.min_extent,
    )
    return component_stages(VOLUME, spec, rule)
