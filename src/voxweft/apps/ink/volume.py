"""Ink in the frame of the scroll itself: a network over the chunks that a surface touches, and over no others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from voxweft.apps.ink.near import checked_mask, chunk_of, text_of
from voxweft.backends import load_model
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import Options, like, option, unknown
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.engine.planning import Schemes, schemes_for
from voxweft.engine.report import Report
from voxweft.errors import ModelError, RequestError
from voxweft.image.protocols import Volume
from voxweft.model.card import Normalization
from voxweft.model.protocols import Model
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.forecast import Forecast, forecast_for
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.records import check_output
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume

APP = "ink volume"
REGIONS = ("expanded", "occupied")


@dataclass(frozen=True)
class WhereOptions(Options):
    """Where ink is looked for."""

    title: ClassVar[str] = "Where ink is looked for"

    surface: str = option(
        "", "Segment: a tifxyz folder, an .obj or a .ppm, in voxels of the finest level.", decides=False
    )  # the mask that it becomes decides
    chunk_halo: int = option(1, "Chunks around those that the surface touches.")
    write_region: str = option(
        "expanded", "What is written: expanded (with the chunks around), or occupied (touched ones only)."
    )
    surface_voxel_size: float = option(
        0.0, "Voxel size of the volume that the surface was made on, in micrometres; 0: as SCROLL.", decides=False
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, write_region=REGIONS)
        if not 0 <= self.chunk_halo <= 64:
            problems.append(f"--chunk-halo {self.chunk_halo} is not 0 to 64 chunks")
        if self.surface_voxel_size < 0:
            problems.append(f"--surface-voxel-size {self.surface_voxel_size} is negative")
        return problems


@dataclass(frozen=True)
class InkVolumeOptions(RunOptions, WhereOptions):
    """Options of a run over the chunks near a surface."""

    n_levels: ClassVar[int] = 6
    mask: str = like(RunOptions, "mask", help="In place of --surface: a volume, computed where it is not 0.")
    sparse: bool = like(RunOptions, "sparse", default=True)
    window: str = like(RunOptions, "window", default="gaussian-centred")
    fit: str = like(RunOptions, "fit", default="snap")
    chunk: str = like(RunOptions, "chunk", default="", help="Chunk z,y,x of the output, in voxels; default: SCROLL's.")

    @property
    def halo(self) -> int:
        """Chunks around the touched ones; what is written there does not change a voxel of the touched ones."""
        return self.chunk_halo if self.write_region == "expanded" else 0


def volume(
    source: Any,
    output: Any,
    model: Any,
    options: InkVolumeOptions,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Find ink in a scroll, near a surface or where a mask is not 0.

    Patches lie on the grid of the whole volume; those that touch a wanted chunk are computed, and only wanted chunks
    are written. The output is on the grid of the scroll's level, with six resolution levels.

    Parameters
    ----------
    source, output, model
        As for :func:`voxweft.run`; any network for volumes with one or two classes, or more.
    options, execution
        Where, and how; where to compute it.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        If the request is wrong, or the surface is empty or lies outside the scroll; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    execution = execution or Execution()
    sink = open_sink(output)
    check_output(sink, execution)
    scroll, found, (engine, mask) = opened_inputs(source, model, options, emit)
    workers = Workers.of(execution, devices_of(engine.device))
    opened = plan_run(
        scroll,
        [found],
        engine,
        app=AppRequest(APP, by_patch(found, engine)),
        mask=mask,
        records=None if execution.overwrite else sink.records,
        n_workers=workers.n_sharing,
        emit=emit,
    )
    return run_plan(opened, Place.of(sink), workers, execution, emit)


def estimate(source: Any, model: Any, options: InkVolumeOptions, emit: Emit = silent) -> tuple[Plan, Forecast]:
    """What a run will cost; nothing is written."""
    scroll, found, (engine, mask) = opened_inputs(source, model, options, emit)
    return forecast_for(scroll, [found], engine, normalization=by_patch(found, engine), mask=mask, emit=emit)


def opened_inputs(
    source: Any, model: Any, options: InkVolumeOptions, emit: Emit = silent
) -> tuple[Volume, Model, tuple[InkVolumeOptions, Volume]]:
    """Scroll, model, and of the sweep the options and the mask."""
    if bool(options.surface) == bool(options.mask):
        raise RequestError("give one of --surface SEGMENT and --mask URL: they say where ink is looked for")
    scroll, found = open_volume(source, level=options.level, select=options.select), load_model(model)
    _require_3d(found, scroll)
    chunk = options.chunk or text_of(chunk_of(scroll.info))
    if options.mask:
        return scroll, found, (replace(options, chunk=chunk), open_volume(options.mask))
    mask = checked_mask(options.surface, scroll.info, (chunk, options.halo), options.surface_voxel_size, emit)
    n, n_near, n_all = int(mask.survey.cells.sum()), int(mask.cells.sum()), mask.cells.size
    emit(Event("note", f"{n} of {n_all} chunks hold the surface, {n_near} with those around them"))
    return scroll, found, (replace(options, chunk=chunk, mask=options.surface), mask)


def _require_3d(model: Model, scroll: Volume) -> None:
    """Refuse networks that want something else than the voxels of a scroll."""
    card = model.card
    if card.format.startswith("ink"):
        raise ModelError(
            f"{card.path} is a network for layers of a flattened surface.",
            "Make them by voxweft ink flatten SCROLL SEGMENT OUT.zarr --reduce none, then voxweft ink infer OUT.zarr.",
        )
    if card.n_inputs == 2 and scroll.info.n_channels == 1:
        raise ModelError(
            f"{card.path} takes a mask of the surface as a second channel (full_3d_single_wrap), "
            "which voxweft does not make; use a network of one channel"
        )


def by_patch(model: Model, options: RunOptions) -> Schemes:
    """The normalisation of the model, or the one asked for; a z-score of the whole scroll becomes one of each patch."""
    return tuple(
        Normalization("instance_zscore") if n.scheme == "global_zscore" and n.mean is None else n
        for n in schemes_for(model.card, options)
    )
