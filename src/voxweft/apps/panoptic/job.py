"""The panoptic jobs: what is opened, planned and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voxweft.apps.panoptic.codes import ObjectClass, classes_of
from voxweft.apps.panoptic.options import (
    PLANES,
    ConsensusJob,
    ExistingOptions,
    ImageJob,
    ImageOptions,
    MatchJob,
    ObjectOptions,
    OrthoJob,
    SliceOptions,
    StackJob,
    StackOptions,
)
from voxweft.apps.panoptic.stages import (
    Frame,
    consensus_stages,
    existing_stage,
    matching_stages,
    normalization_for,
    plane_stage,
    slice_grid,
    slice_stages,
    stack_stages,
    sweep_stage,
)
from voxweft.backends import load_model
from voxweft.backends.maps import CENTRES, OFFSETS, SEMANTIC
from voxweft.engine.budget import Budget
from voxweft.engine.calibrate import central_patch
from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import decisive, defaults_of
from voxweft.engine.ledger import Ledger
from voxweft.engine.plan import MASK, VOLUME, InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.stage import Stage
from voxweft.errors import ModelError, RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.regrid import Regrid
from voxweft.image.info import VolumeInfo
from voxweft.image.order import permute
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.image.resampled import Resample
from voxweft.image.views import Crop, Permute
from voxweft.model.card import ModelCard
from voxweft.model.protocols import Model
from voxweft.model.ref import model_ref
from voxweft.runner.devices import budget_of, devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.exports import EXPORTS
from voxweft.runner.objects import object_places
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.planning import fingerprint_of, follow, grey_samples, refuse_labels
from voxweft.runner.records import check_output
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume

PIXEL_BYTES = 1500  # of a slice in a network, about
SMALLEST_TILE, TILE = 512 * 512, 2048
SLABS = (64, 32, 16, 8, 4, 2, 1)
SHARE = 8  # of the memory that one slab may take
ISOTROPIC = 1.5
DIM = 0.1  # of the dtype's range: images that use less are not what a network expects

SweptJob = ImageJob | StackJob | OrthoJob


@dataclass(frozen=True, slots=True)
class Request3D:
    """Where a job reads and writes, and who works on it."""

    output: Any
    execution: Execution
    emit: Emit = silent
    exports: tuple[str, ...] = ()


def image(
    source: Any,
    output: Any,
    model: Any,
    options: ImageJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Objects of an image, or of every slice of a stack by itself.

    Parameters
    ----------
    source
        URL or path of an image or a stack, or an array [Y, X] or [Z, Y, X].
    output
        URL or path of the OME-Zarr to write, uint32 [Z, Y, X]: class x divisor + number. ``NAME_objects.csv`` is
        written beside it.
    model
        Path of a panoptic network (yaml or TorchScript), or its name in ``~/.empanada/configs``.
    options, execution
        What to compute; where to compute it.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    options = options or ImageJob()
    return _swept("panoptic image", source, model, options, _request(output, options, execution, emit))


def stack(
    source: Any,
    output: Any,
    model: Any,
    options: StackJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Objects of a volume, from its slices along one plane; as :func:`image`, but objects are numbered from 1."""
    options = options or StackJob()
    return _swept("panoptic stack", source, model, options, _request(output, options, execution, emit))


def ortho(
    source: Any,
    output: Any,
    model: Any,
    options: OrthoJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Objects of a volume on which its slices along all three planes agree; as :func:`stack`."""
    options = options or OrthoJob()
    return _swept("panoptic ortho", source, model, options, _request(output, options, execution, emit))


def match(
    source: Any,
    output: Any,
    options: MatchJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Objects of a stack of label slices that exists, unsigned integers [Z, Y, X]; as :func:`stack`."""
    options = options or MatchJob()
    asked = _request(output, options, execution, emit)
    workers = Workers.of(asked.execution, ["cpu"])
    budget = budget_of(options.memory, "cpu", workers.n_sharing)
    volume = _labels(source, options)
    frame = _frame(volume.info, _existing_classes(options), (options.plane,), budget)
    stages = [
        existing_stage(frame, options.plane, (VOLUME, volume.info), options.max_objects_per_class, options.split),
        *matching_stages(frame, options.plane, options, sure=False),
        *stack_stages(frame, options.plane, options, options, options.max_objects_per_class),
    ]
    return _run("panoptic match", stages, {VOLUME: volume}, None, options, asked)


def consensus(
    sources: Sequence[Any],
    output: Any,
    options: ConsensusJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Objects on which two or three stacks of labels agree that exist, of one shape [Z, Y, X]; as :func:`stack`."""
    options = options or ConsensusJob()
    asked = _request(output, options, execution, emit)
    if not 2 <= len(sources) <= 3:
        raise RequestError(f"{len(sources)} stacks: a consensus is one of two or three")
    volumes = [_labels(one, options) for one in sources]
    first = volumes[0].info
    for other in volumes[1:]:
        if other.info.shape_zyx != first.shape_zyx:
            raise VolumeError(
                f"{other.info.url} has {other.info.shape_zyx} voxels, {first.url} {first.shape_zyx}: "
                "stacks of one volume have one shape"
            )
    names = [VOLUME, "second", "third"][: len(volumes)]
    frame = Frame(first, _existing_classes(options))
    divisor = options.max_objects_per_class
    stacks = [("", name) for name in names]
    stages = consensus_stages(frame, options, (options, options), stacks, (divisor, divisor))
    return _run("panoptic consensus", stages, dict(zip(names, volumes, strict=True)), None, options, asked)


def _request(output: Any, options: ObjectOptions, execution: Execution | None, emit: Emit) -> Request3D:
    wanted = tuple(file for name, file in EXPORTS.items() if getattr(options, name))
    return Request3D(output, execution or Execution(), emit, wanted)


def _swept(app: str, source: Any, model: Any, options: SweptJob, asked: Request3D) -> Report:
    """A job whose slices go through a network."""
    device = devices_of(options.device)[0]
    workers = Workers.of(asked.execution, devices_of(options.device))
    budget = budget_of(options.memory, device, workers.n_sharing)
    found, base = opened_model(model, options), open_image(source, options)
    plan, volumes = plan_job(app, base, found, options, (device, budget, _is_divided(asked.execution, workers)))
    return _follow(plan, volumes, found, asked, workers, device)


def opened_model(model: Any, options: SliceOptions) -> Model:
    """The network, as the options want its maps.

    Raises
    ------
    ModelError
        If it is no panoptic network.
    """
    found = load_model(
        model,
        inference_scale=options.image_downsampling,
        fine_boundaries=options.fine_boundaries,
        use_quantized=options.use_quantized,
    )
    if tuple(head.name for head in found.card.heads) != (SEMANTIC, CENTRES, OFFSETS):
        raise ModelError(
            f"{found.card.path} ({found.card.format}) is no panoptic network: it has no maps of centres and offsets.",
            "Give the yaml of an empanada model, or use voxweft run.",
        )
    return found


def plan_job(
    app: str, base: Volume, model: Model, options: SweptJob, machine: tuple[str, Budget, bool]
) -> tuple[Plan, dict[str, Volume]]:
    """The plan of a job on an image of :func:`open_image`, and its open inputs.

    ``machine``: the device, the memory, and whether the work is divided.
    """
    device, budget, divided = machine
    card = model.card
    box = central_patch(base, base.info.chunk_zyx)[1]
    if not options.accept_labels:
        refuse_labels(base, box)
    samples = grey_samples(base)
    notes = list(base.info.notes)
    limits, remark = _grey_range(base.info, samples, options)
    notes += remark
    planes = _planes(options)
    frame = _frame(base.info, classes_of(card, options.semantic_only), planes, budget)
    mode, remark = _median(options, divided, base.info, planes)
    notes += remark
    if isinstance(options, StackOptions):
        swept_options: Any = replace(options, median=mode)
    else:
        swept_options = options
    card = replace(card, normalization=(normalization_for(card, limits, options.grey),))
    volumes: dict[str, Volume] = {}
    stages: list[Stage] = []
    for plane in planes:
        name = VOLUME if plane == planes[0] else f"volume-{plane}"
        volumes[name] = _as_swept(base, plane, options.image_downsampling)
        tiled, remark = _tiled(swept_options, volumes[name].info, card, budget)
        notes += remark
        sweep = sweep_stage(frame, plane, (name, volumes[name].info), card, (tiled, device.partition(":")[0]))
        sweep = replace(sweep, plane_block=_planes_at_once(base.info, plane, sweep.plane_block, budget))
        if options.mask:
            masked = MASK if plane == planes[0] else f"{MASK}-{plane}"
            volumes[masked] = _mask(options, base, plane)
            sweep = replace(sweep, mask=masked)
        stages += [sweep, *_after(frame, plane, options)]
    if isinstance(options, OrthoJob):
        stacks = [(plane, f"slices-{plane}") for plane in planes]
        stages += consensus_stages(frame, options, (options, options), stacks, (options.max_objects_per_class, 0))
        if options.return_stacks:
            stages += [plane_stage(frame, plane, options) for plane in planes]
    request = Request(app, decisive(options), defaults_of(options))
    inputs = [_input(name, volume, model.card) for name, volume in volumes.items()]
    plan = Plan(request, tuple(inputs), (model_ref(model),), tuple(stages), tuple(dict.fromkeys(notes)))
    return plan, volumes


def _after(frame: Frame, plane: str, options: SweptJob) -> list[Stage]:
    """What follows the slices of a plane."""
    if isinstance(options, OrthoJob):
        return matching_stages(frame, plane, options)
    divisor = options.max_objects_per_class
    if isinstance(options, StackJob):
        return [*matching_stages(frame, plane, options), *stack_stages(frame, plane, options, options, divisor)]
    return [*matching_stages(frame, plane, None, divisor), *slice_stages(frame, plane, options)]


def _planes(options: SweptJob) -> tuple[str, ...]:
    if isinstance(options, OrthoJob):
        return tuple(PLANES)
    return (options.plane,)


def open_image(source: Any, options: ImageOptions) -> Volume:
    """The grey values, or the box of them that is wanted.

    Raises
    ------
    VolumeError
        If it is no image of grey values.
    """
    flat = isinstance(source, np.ndarray) and source.ndim == 2
    volume = open_volume(source[None] if flat else source, level=options.level)
    info = volume.info
    if info.n_channels != 1:
        raise VolumeError(f"{info.url} has {info.n_channels} channels; a panoptic network takes one, grey values")
    if not min(info.shape_zyx):
        raise VolumeError(f"{info.url} is empty: its shape is {info.shape_zyx}")
    if np.dtype(info.dtype).kind not in "iuf":
        raise VolumeError(f"{info.url} holds {info.dtype} values; grey values are integers or floats")
    return Crop(Box.parse(options.roi, info.shape_zyx)).of(volume) if options.roi else volume


def _labels(source: Any, options: ExistingOptions) -> Volume:
    volume = open_volume(source, level=options.level)
    info = volume.info
    if np.dtype(info.dtype).kind not in "iu":
        raise VolumeError(f"{info.url} holds {info.dtype} values; labels are integers")
    if info.n_channels != 1 or not min(info.shape_zyx):
        raise VolumeError(f"{info.url} has {info.n_channels} channel(s) of {info.shape_zyx} voxels; give one of labels")
    return volume


def _mask(options: ImageOptions, base: Volume, plane: str) -> Volume:
    mask = open_volume(options.mask)
    if options.roi:
        whole = tuple(mask.info.shape_zyx)
        box = Box.parse(options.roi, whole)  # type: ignore[arg-type]
        if box.shape != base.info.shape_zyx:
            raise RequestError(
                f"--mask {options.mask} has {whole} voxels; with --roi it must be as large as the volume"
            )
        mask = Crop(box).of(mask)
    return Permute(PLANES[plane]).of(mask)


def _as_swept(base: Volume, plane: str, scale: int) -> Volume:
    """Slices first, and made smaller."""
    seen = Permute(PLANES[plane]).of(base) if plane != "xy" else base
    if scale == 1:
        return seen
    n, height, width = seen.info.shape_zyx
    smaller: Zyx = (n, -(-height // scale), -(-width // scale))
    return Resample(Regrid.of(seen.info.shape_zyx, smaller, 1), dtype=seen.info.dtype).of(seen)


def _frame(info: VolumeInfo, classes: tuple[ObjectClass, ...], planes: Sequence[str], budget: Budget) -> Frame:
    if not classes:
        raise ModelError("the model names no classes beside the background")
    slabs = {}
    for plane in planes:
        n, height, width = permute(info.shape_zyx, PLANES[plane])
        wanted = budget.host_bytes // SHARE // (4 * height * width)
        slabs[plane] = next((d for d in SLABS if d <= max(1, wanted) and d < 2 * n), 1)
    return Frame(info, classes, slabs)


def _planes_at_once(info: VolumeInfo, plane: str, wanted: int, budget: Budget) -> int:
    """Slices that are read at once: a layer of chunks, so that each is decoded once, where there is memory for it."""
    depth = permute(info.chunk_zyx, PLANES[plane])[0]
    _, height, width = permute(info.shape_zyx, PLANES[plane])
    most = max(1, budget.host_bytes // SHARE // (np.dtype(info.dtype).itemsize * height * width))
    return max(1, min(max(depth, 1), most)) if depth > 1 else max(1, min(wanted, most))


def _tiled(options: SliceOptions, seen: VolumeInfo, card: ModelCard, budget: Budget) -> tuple[Any, list[str]]:
    """The options with a tile where a slice is too large for the network at once, and a word about it."""
    _, height, width = seen.shape_zyx
    limit = max(SMALLEST_TILE, budget.device_bytes // PIXEL_BYTES)
    if options.tile_yx or height * width <= limit:
        return options, []
    side = TILE
    while side * side > limit:
        side //= 2
    grid = slice_grid(seen.shape_zyx, card.divisor_zyx[1], (side, side), options.shared)
    note = f"slices of {height} x {width} pixels are tiled: {grid.axes[1].count} x {grid.axes[2].count} of {side}"
    return replace(options, patch_size=f"{side},{side}"), [note]


def _median(options: SweptJob, divided: bool, info: VolumeInfo, planes: Sequence[str]) -> tuple[str, list[str]]:
    """Which median, and what to note of the slices."""
    if not isinstance(options, StackOptions):
        return "plain", []
    notes, size = [], options.median_filter_size
    mode = options.median
    if mode == "auto":
        mode = "plain" if divided else "recursive"
    if divided and size > 1:
        why = "the same in any division" if mode == "plain" else "each part begins with the first slice, which costs"
        notes.append(f"the median of {size} slices is {mode}: {why}")
    sizes, unit = info.geometry.voxel_size_zyx, info.geometry.unit
    nm = {"nanometer": 1.0, "micrometer": 1e3, "angstrom": 0.1, "millimeter": 1e6}.get(unit)
    for plane in planes:
        n = permute(info.shape_zyx, PLANES[plane])[0]
        step = permute(sizes, PLANES[plane])[0] * nm if nm else 0.0
        if n < size:
            notes.append(f"{plane}: {n} slices are fewer than the median of {size} takes; they stay as they are")
        if step > 20 and size > 3:
            notes.append(f"{plane}: slices are {step:g} nm apart; a median of {size} is wide for that, 3 is usual")
        if 0 < step < 10 and size < 7:
            notes.append(f"{plane}: slices are {step:g} nm apart; a median of 7 or 9 is usual there")
    if len(planes) > 1 and max(sizes) / min(sizes) > ISOTROPIC:
        notes.append(
            f"voxels are {max(sizes) / min(sizes):.1f} times as long as wide: slices of xz and yz will look unlike "
            "those of xy, and stack may do better than ortho"
        )
    return mode, notes


def _grey_range(
    info: VolumeInfo, samples: np.ndarray[Any, Any], options: ImageOptions
) -> tuple[tuple[float, float], list[str]]:
    """Black and white of an image: 0 and the largest value of its dtype, and a word where it uses little of that."""
    dtype = np.dtype(info.dtype)
    finite = samples[np.isfinite(samples)] if dtype.kind == "f" else samples
    top, bottom = (float(finite.max(initial=0)), float(finite.min(initial=0))) if finite.size else (0.0, 0.0)
    if dtype.kind == "f":
        white = 1.0 if top <= 1 else 255.0
        found = [f"float values are taken as 0 to {white:g}; --intensity-range says otherwise"]
    else:
        white, found = float(np.iinfo(dtype).max), []
    if options.grey:
        return (0.0, white), []
    if bottom < 0 or top > white or top < DIM * white:
        found = [
            f"grey values are {bottom:g} to {top:g} where looked at, of {dtype.name} up to {white:g}: the network "
            f"expects most of the range, and may find nothing. Give --intensity-range {bottom:g},{top:g}"
        ]
    return (0.0, white), found


def _existing_classes(options: ExistingOptions) -> tuple[ObjectClass, ...]:
    return tuple(ObjectClass(n, name) for n, name in enumerate(options.names, start=1))


def _is_divided(execution: Execution, workers: Workers) -> bool:
    return workers.kind != "serial" or execution.num_parts > 1 or execution.prepare  # for parts to follow


def _input(name: str, volume: Volume, card: ModelCard | None) -> InputRef:
    patch: Zyx = volume.info.chunk_zyx
    if card is not None and name == VOLUME:
        patch = (1, *slice_grid(volume.info.shape_zyx, card.divisor_zyx[1], None, 0.0).patch[1:])
    return InputRef(name, volume_ref(volume), fingerprint_of(volume.info, central_patch(volume, patch)[1]))


def _run(
    app: str,
    stages: Sequence[Stage],
    volumes: Mapping[str, Volume],
    model: Model | None,
    options: Any,
    asked: Request3D,
) -> Report:
    inputs = tuple(_input(name, volume, None) for name, volume in volumes.items())
    plan = Plan(Request(app, decisive(options), defaults_of(options)), inputs, (), tuple(stages))
    return _follow(plan, volumes, model, asked, Workers.of(asked.execution, ["cpu"]), "cpu")


def _follow(
    plan: Plan, volumes: Mapping[str, Volume], model: Model | None, asked: Request3D, workers: Workers, device: str
) -> Report:
    """Follow the plan that the output holds already, or this one."""
    main = next(o.spec for s in plan.stages for o in s.outputs if o.spec and not o.name)
    sink = open_sink(asked.output, layout=main.layout, order=main.order)
    check_output(sink, asked.execution)
    opened = Opened(plan, volumes, [model] if model else [])
    if not asked.execution.overwrite and (stored := Ledger(sink.records).plan()):
        opened = follow(Plan.from_json(stored), opened, device)
    files = object_places(sink.url, asked.exports)
    return run_plan(opened, Place.of(sink, files), workers, asked.execution, asked.emit)
