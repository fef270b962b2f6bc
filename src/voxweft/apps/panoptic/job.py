"""The panoptic jobs: what is opened, planned and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voxweft.apps.panoptic.codes import ObjectClass, classes_of
from voxweft.apps.panoptic.look import (
    as_swept,
    frame_of,
    grey_range,
    median_for,
    open_image,
    open_labels,
    open_mask,
    planes_at_once,
    tiled,
)
from voxweft.apps.panoptic.options import (
    PLANES,
    ConsensusJob,
    ExistingOptions,
    ImageJob,
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
    slice_stages,
    stack_stages,
    sweep_stage,
)
from voxweft.backends import load_model
from voxweft.engine.budget import Budget
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import decisive, defaults_of
from voxweft.engine.ledger import Ledger
from voxweft.engine.named import takes_options, with_both
from voxweft.engine.opened import OpenedSweep
from voxweft.engine.plan import MASK, VOLUME, InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.samples import central_patch
from voxweft.engine.stage import Stage, Sweep
from voxweft.engine.totals import lanes_for
from voxweft.errors import ModelError, RequestError, VolumeError
from voxweft.geometry.box import Zyx
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.model.protocols import Model
from voxweft.model.ref import model_ref
from voxweft.ops.components import require_components
from voxweft.remote import is_remote
from voxweft.runner.devices import budget_of, devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.exports import EXPORTS
from voxweft.runner.objects import object_places
from voxweft.runner.opening import Opened
from voxweft.runner.planning import fingerprint_of, grey_samples, refuse_labels
from voxweft.runner.run import run_job
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink

SweptJob = ImageJob | StackJob | OrthoJob


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a job reads and writes, and who works on it."""

    output: Any
    execution: Execution
    emit: Emit = silent
    exports: tuple[str, ...] = ()


@takes_options(ImageJob, Execution)
def image(
    source: Any,
    output: Any,
    model: Any,
    options: ImageJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
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
    **named
        Options and execution by their names, as in ``overlap=0.25, workers=4``.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.
    """
    both = with_both(named, ImageJob, options, Execution, execution)
    options, execution = both
    return _swept("panoptic image", source, model, options, _request(output, options, execution, emit))


@takes_options(StackJob, Execution)
def stack(
    source: Any,
    output: Any,
    model: Any,
    options: StackJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
) -> Report:
    """Objects of a volume, from its slices along one plane; as :func:`image`, but objects are numbered from 1."""
    both = with_both(named, StackJob, options, Execution, execution)
    options, execution = both
    return _swept("panoptic stack", source, model, options, _request(output, options, execution, emit))


@takes_options(OrthoJob, Execution)
def ortho(
    source: Any,
    output: Any,
    model: Any,
    options: OrthoJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
) -> Report:
    """Objects of a volume on which its slices along all three planes agree; as :func:`stack`."""
    both = with_both(named, OrthoJob, options, Execution, execution)
    options, execution = both
    return _swept("panoptic ortho", source, model, options, _request(output, options, execution, emit))


@takes_options(MatchJob, Execution)
def match(
    source: Any,
    output: Any,
    options: MatchJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
) -> Report:
    """Objects of a stack of label slices that exists, unsigned integers [Z, Y, X]; as :func:`stack`."""
    both = with_both(named, MatchJob, options, Execution, execution)
    options, execution = both
    asked = _request(output, options, execution, emit)
    workers = Workers.of(asked.execution, ["cpu"])
    budget = budget_of(options.memory, "cpu", workers.n_sharing)
    volume = open_labels(source, options)
    frame = frame_of(volume.info, _existing_classes(options), (options.plane,), budget)
    stages = [
        existing_stage(frame, options.plane, (VOLUME, volume.info), options.max_objects_per_class, options.split),
        *matching_stages(frame, options.plane, options, sure=False),
        *stack_stages(frame, options.plane, options, options, options.max_objects_per_class),
    ]
    return _run("panoptic match", stages, {VOLUME: volume}, options, asked)


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
    volumes = [open_labels(one, options) for one in sources]
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
    return _run("panoptic consensus", stages, dict(zip(names, volumes, strict=True)), options, asked)


def _request(output: Any, options: ObjectOptions, execution: Execution | None, emit: Emit) -> Asked:
    require_components()
    wanted = tuple(file for name, file in EXPORTS.items() if getattr(options, name))
    return Asked(output, execution or Execution(), emit, wanted)


def _swept(app: str, source: Any, model: Any, options: SweptJob, asked: Asked) -> Report:
    """A job whose slices go through a network."""
    device = devices_of(options.device)[0]
    workers = Workers.of(asked.execution, devices_of(options.device))
    budget = budget_of(options.memory, device, workers.n_sharing)
    found, base = opened_model(model, options), open_image(source, options)
    plan, volumes = plan_job(app, base, found, options, (device, budget, is_divided(asked.execution, workers)))
    return _followed(Opened(plan, volumes, [found]), asked, workers)


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
    if not found.card.is_panoptic:
        raise ModelError(
            f"{found.card.path} ({found.card.format}) is no panoptic network: it has no maps of centres and offsets.",
            "Give the yaml of an empanada model, or use voxweft run.",
        )
    return found


def opened_sweep(stage: Sweep, volumes: Mapping[str, Volume], model: Model, device: str) -> OpenedSweep:
    """A sweep of which single slices are wanted, see :func:`voxweft.engine.slices.maps_of_slice`."""
    lanes = lanes_for(device)
    network = model.open(replace(stage.passes[0].setting, device=device, n_lanes=lanes))
    return OpenedSweep(stage, volumes[stage.source], (network,), device=device, n_lanes=lanes)


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
    limits, remark = grey_range(base.info, samples, options)
    notes += remark
    planes = _planes(options)
    frame = frame_of(base.info, classes_of(card, options.semantic_only), planes, budget)
    mode, remark = median_for(options, divided, base.info, planes)
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
        volumes[name] = as_swept(base, plane, options.image_downsampling)
        own, remark = tiled(swept_options, volumes[name].info, card, budget)
        notes += remark
        sweep = sweep_stage(frame, plane, (name, volumes[name].info), card, (own, device.partition(":")[0]))
        sweep = replace(sweep, plane_block=planes_at_once(base.info, plane, sweep.plane_block, budget))
        if options.mask:
            masked = MASK if plane == planes[0] else f"{MASK}-{plane}"
            volumes[masked] = open_mask(options, base, plane)
            sweep = replace(sweep, mask=masked)
        stages += [sweep, *_after(frame, plane, options)]
    if isinstance(options, OrthoJob):
        stacks = [(plane, f"slices-{plane}") for plane in planes]
        stages += consensus_stages(frame, options, (options, options), stacks, (options.max_objects_per_class, 0))
        if options.return_stacks:
            stages += [plane_stage(frame, plane, options, options.max_objects_per_class) for plane in planes]
    request = Request(app, decisive(options), defaults_of(options))
    patch = next(stage.grid.patch for stage in stages if isinstance(stage, Sweep))
    inputs = [_input(name, one, patch if name == VOLUME else one.info.chunk_zyx) for name, one in volumes.items()]
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


def _existing_classes(options: ExistingOptions) -> tuple[ObjectClass, ...]:
    return tuple(ObjectClass(n, name) for n, name in enumerate(options.names, start=1))


def is_divided(execution: Execution, workers: Workers) -> bool:
    """Whether several work on it, or parts follow."""
    return workers.kind != "serial" or execution.num_parts > 1 or execution.prepare


def _input(name: str, volume: Volume, patch: Zyx) -> InputRef:
    return InputRef(name, volume_ref(volume), fingerprint_of(volume.info, central_patch(volume, patch)[1]))


def _run(app: str, stages: Sequence[Stage], volumes: Mapping[str, Volume], options: Any, asked: Asked) -> Report:
    """A job on labels that exist."""
    inputs = tuple(_input(name, volume, volume.info.chunk_zyx) for name, volume in volumes.items())
    plan = Plan(Request(app, decisive(options), defaults_of(options)), inputs, (), tuple(stages))
    return _followed(Opened(plan, volumes), asked, Workers.of(asked.execution, ["cpu"]))


def _followed(opened: Opened, asked: Asked, workers: Workers) -> Report:
    """Run, and say what was made otherwise than asked for."""

    def files(url: str) -> dict[str, str]:
        if asked.exports and is_remote(url):
            raise RequestError(f"{url}: --tiff and --precomputed are written to local disks only; leave them out")
        return object_places(url, asked.exports)

    report = run_job(opened, asked.output, files, workers, asked.execution, asked.emit)
    wanted, wide = Ledger(open_sink(asked.output).records).table("match", 0).get("divisor", (0, 0))
    if wide != wanted:
        asked.emit(Event("warning", f"slices have more objects than {wanted - 1}: the divisor is {wide}"))
    return report
