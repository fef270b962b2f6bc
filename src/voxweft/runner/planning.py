"""Everything before the first unit: check, measure, plan."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from voxweft.backends import folds_of, reload
from voxweft.engine.calibrate import Question, choose_setting
from voxweft.engine.choices import ChosenOptions
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.masking import mask_scale
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import IMAGE, MASK, VOLUME, InputRef, PatchesRef, Plan
from voxweft.engine.planning import Findings, Schemes, Target, plan_sweep, schemes_for, spacing_notes
from voxweft.engine.probe import tiling_probe
from voxweft.engine.report import precision_note
from voxweft.engine.samples import Samples, block_of_chunks, central_patch
from voxweft.engine.sparse import survey
from voxweft.engine.stage import Stage, Stores, Sweep
from voxweft.errors import PlanMismatchError, RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Records, Volume
from voxweft.image.ref import volume_ref
from voxweft.image.views import Channels
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import ModelRef, model_ref
from voxweft.runner.devices import budget_for, devices_of
from voxweft.runner.measure import estimate_volume, measure_volume
from voxweft.runner.opening import Opened, require_precisions
from voxweft.runner.place import IN_MEMORY
from voxweft.runner.respaced import respaced

PROBE_FROM = 200  # forward passes; for fewer the probe would be more than a percent of the work
SPOT, FEW_VALUES, FLAT, ENOUGH = 24, 16, 0.9, 1000  # what labels look like: flat areas, few values
MASK_VOXELS = 1 << 24  # of a mask that is read whole for its fingerprint


@dataclass(frozen=True, slots=True)
class AppRequest:
    """What an app adds to a request.

    Attributes
    ----------
    name
        Of the app.
    normalization
        In place of what models and options say, one scheme a channel or one for all.
    stores
        Where patches are kept, for the output "patches".
    then
        Stages that follow the sweep and the resolution levels of its output.
    settings
        How each network is run, where that was decided before.
    networks
        Where networks that are ready are kept, to be shared with other plans.
    target
        Where the outputs lie, and more of them than one.
    inputs
        Further volumes by their names, for the stages that follow.
    n_alike
        Volumes of about this size for which the runtime is chosen here; 0: it is this volume's alone.
    estimate
        Whether a sample may stand for the whole volume, and what was measured before for this machine: for a plan
        that is looked at, not run.
    """

    name: str = "run"
    normalization: Schemes = ()
    stores: Stores | None = None
    then: Callable[[Sweep], Sequence[Stage]] = lambda _sweep: ()
    settings: tuple[ForwardSetting, ...] = ()
    networks: dict[Any, Predictor] | None = None
    target: Target | None = None
    inputs: Mapping[str, Volume] = field(default_factory=dict)
    n_alike: int = 0
    estimate: bool = False


def plan_run(
    volume: Volume,
    models: Sequence[Model],
    options: RunOptions,
    *,
    app: AppRequest | None = None,
    mask: Volume | None = None,
    records: Records | None = None,
    n_workers: int = 1,
    emit: Emit = silent,
) -> Opened:
    """Check the request and plan it, or follow the plan that the output already holds.

    Parameters
    ----------
    volume, models, options
        What goes in, what runs (several models are an ensemble), what is asked for.
    app
        What the app adds; default: that of ``voxweft run``.
    mask
        Says where the result counts.
    records
        Of the output, where there may be a plan to follow.
    n_workers
        Processes that share this machine's memory.
    emit
        Told of every event.

    Raises
    ------
    RequestError
        All that is wrong with the request; nothing was written.
    """
    if options.effort == "auto" and not isinstance(options, ChosenOptions):
        raise RequestError("--effort auto is of voxweft run and voxweft plan; here it would choose nothing")
    app, device = app or AppRequest(), devices_of(options.device)[0]
    models, options = _apart(models, options)
    refs = tuple(model_ref(model) for model in models)
    if options.resample:
        volume, app = _respaced(volume, refs, options, app)
    for note in spacing_notes([ref.card for ref in refs], volume.info):
        emit(Event("warning", note))
    volumes = {VOLUME: volume, **app.inputs} | ({MASK: mask} if mask is not None else {})
    emit(Event("phase", "looking at the volume"))
    found = _looked_at(volumes, refs, options, app)
    draft = plan_sweep(volume.info, refs, options, found)
    if records is not None and (stored := Ledger(records).plan()):
        return follow(Plan.from_json(stored), Opened(_with_more(draft, app), volumes, models), device)
    if draft.sweep.sparse and mask is not None:
        found = replace(found, seen=survey(draft.sweep, mask))
        if not found.seen.n_patches:
            raise RequestError(f"the mask {mask.info.url} is 0 everywhere in what is asked for; nothing would be done")
    budget = budget_for(options, device, n_workers)
    plan_sweep(volume.info, refs, options, replace(found, budget=budget))  # what cannot fit is refused unmeasured
    schemes, remarks = _scaled(volume, found.normalization, app.estimate, emit)
    measured = _Measured(app.settings)
    if not app.settings:
        n_tiles = found.seen.n_patches or draft.sweep.n_tiles(draft.sweep.region)
        measured = _measured(draft, volume, models, schemes, options, app, (n_tiles, n_workers), emit)
    found = replace(
        found,
        normalization=schemes,
        settings=tuple(replace(one, device=device.partition(":")[0]) for one in measured.settings),
        budget=budget_for(options, device, n_workers),  # once more: networks have been opened since
        measured={**measured.told, **({"estimated": True} if remarks else {})},
    )
    made = _with_more(plan_sweep(volume.info, refs, options, found), app)
    opened = Opened(replace(made, notes=(*made.notes, *measured.notes, *remarks)), volumes, models)
    if app.networks is not None:
        opened.predictors = app.networks
    opened.networks |= measured.networks
    if measured.predictors:
        opened.reuse(measured.predictors, device)
    return opened


def _scaled(
    volume: Volume, asked: tuple[Schemes, ...], estimate: bool, emit: Emit
) -> tuple[tuple[Schemes, ...], tuple[str, ...]]:
    """The schemes with the numbers of the whole volume, and what is to be said of these."""
    if not estimate:
        return measure_volume(volume, asked, emit), ()
    emit(Event("phase", "estimating the numbers of the whole volume from a sample"))
    return estimate_volume(volume, asked)


def _respaced(
    volume: Volume, refs: Sequence[ModelRef], options: RunOptions, app: AppRequest
) -> tuple[Volume, AppRequest]:
    """The volume at the voxel size of the training, and the request for outputs on its own grid."""
    if app.target is not None or options.mask or options.effort == "auto":
        what = "--mask" if options.mask else "--effort auto" if options.effort == "auto" else f"voxweft {app.name}"
        raise RequestError(f"--resample does not go together with {what}: leave one of them out")
    seen, target = respaced(volume, [ref.card for ref in refs])
    return seen, replace(app, target=target, inputs={**app.inputs, IMAGE: volume}) if target.regrid else app


def _apart(models: Sequence[Model], options: RunOptions) -> tuple[Sequence[Model], RunOptions]:
    """Folds as models of their own, with their share of the weight, where a variance over them is asked for."""
    if options.uncertainty != "variance":
        return models, options
    folds = [folds_of(model) for model in models]
    if len(models) > 1 and len(models) < sum(map(len, folds)):
        weights = [options.weight_of(n) / len(some) for n, some in enumerate(folds) for _ in some]
        options = replace(options, weights=",".join(map(repr, weights)))
    return [fold for some in folds for fold in some], options


def _looked_at(
    volumes: Mapping[str, Volume], refs: tuple[ModelRef, ...], options: RunOptions, app: AppRequest
) -> Findings:
    """What a first look at the inputs says: their fingerprints; labels and masks that do not fit are refused."""
    volume, mask, marked = volumes[VOLUME], volumes.get(MASK), ""
    if mask is not None:
        mask_scale(mask.info, volume.info.shape_zyx)
        marked = mask_fingerprint(mask)
    made = volume_ref(mask) if mask is not None else None  # of a mask that is no file
    asked = tuple(app.normalization or schemes_for(ref.card, options) for ref in refs)
    found = Findings(volume_ref(volume), "", marked, asked, stores=app.stores, app=app.name, target=app.target)
    found = replace(found, mask=made if made and (made.opener or made.views) else None)
    _, voxels = central_patch(volume, plan_sweep(volume.info, refs, options, found).sweep.grid.patch)
    if not options.accept_labels:
        refuse_labels(volume, voxels)
    return replace(found, fingerprint=fingerprint_of(volume.info, voxels))


@dataclass(frozen=True, slots=True)
class _Measured:
    """How each network is best run, and what was measured; the networks made ready, and those made for it."""

    settings: tuple[ForwardSetting, ...] = ()
    predictors: tuple[Predictor, ...] = ()
    networks: Mapping[str, bytes] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _measured(
    draft: Plan,
    volume: Volume,
    models: Sequence[Model],
    schemes: tuple[Schemes, ...],
    options: RunOptions,
    app: AppRequest,
    job: tuple[int, int],
    emit: Emit,
) -> _Measured:
    """Decide for each network in turn; ``job``: patches of the sweep, and processes of this machine."""
    import torch

    device, stage = devices_of(options.device)[0], draft.sweep
    n_patches = round(job[0] * stage.n_forwards)
    source = draft.input(VOLUME)
    identity = f"{source.fingerprint} {stage.region}" if source and source.fingerprint else ""
    choices = []
    for n, model in enumerate(models):
        one = next(one for one in stage.passes if one.model == n)
        seen = volume if one.channels is None else Channels(one.channels).of(volume)
        seen_as = f"{identity} {schemes[n]} {one.channels}" if identity else ""
        samples = Samples(seen, stage.source_box(stage.region), one.grid.patch, schemes[n], device, seen_as)
        alone = len(models) == 1 and not app.n_alike
        n_forwards = n_patches * max(1, app.n_alike) // len(models)
        question = Question(model, samples, options, device, n_forwards, len(one.views), job[1], alone, emit)
        choices.append(choose_setting(replace(question, quick=app.estimate)))
    allowed = None if options.precision == choices[0].setting.precision else options.tolerance
    notes = [precision_note(choice.told, choice.setting.precision, allowed) for choice in choices]
    told: dict[str, Any] = {"runtimes": [trial for choice in choices for trial in choice.trials]}
    if n_patches >= PROBE_FROM:
        emit(Event("phase", "probing how far the tiling decides the answer"))
        first = stage.passes[0].channels
        seen = volume if first is None else Channels(first).of(volume)
        with suppress(torch.OutOfMemoryError):
            told["tiling"] = tiling_probe(choices[0].predictor, seen, choices[0].setting, models[0].card, schemes[0])
    return _Measured(
        tuple(choice.setting for choice in choices),
        tuple(choice.predictor for choice in choices),
        {choice.setting.network: choice.network for choice in choices if choice.network},
        told,
        tuple(dict.fromkeys(note for note in notes if note)),
    )


def _with_more(plan: Plan, app: AppRequest) -> Plan:
    more = tuple(InputRef(name, volume_ref(volume)) for name, volume in app.inputs.items())
    return replace(plan, inputs=(*plan.inputs, *more), stages=(*plan.stages, *app.then(plan.sweep)))


def require_same_inputs(opened: Opened, source: str) -> None:
    """Refuse a stored plan whose inputs or models are not what they were, or lay in memory only.

    Raises
    ------
    RequestError
        Naming the input, or all that differs of a model.
    """
    plan = opened.plan
    if any(IN_MEMORY in one.ref.url for one in plan.inputs):
        raise RequestError(f"{source} was made from an array in memory and cannot be repeated from its plan alone")
    if trusted := [ref.url for ref in plan.models if ref.arguments.get("trust_code")]:
        raise RequestError(
            f"{source} loads {trusted[0]} with --trust-code, which a plan cannot ask for; nothing was loaded.",
            "Give the command itself once more, with --trust-code.",
        )
    if not plan.reads_patches:
        for ref in plan.models:
            reload(ref)
    for one in plan.inputs:
        if isinstance(one.ref, PatchesRef) or not one.fingerprint:
            continue
        if one.name == MASK:
            found = mask_fingerprint(opened.volume(MASK))
        elif one.name == VOLUME and any(isinstance(stage, Sweep) for stage in plan.stages):
            volume = opened.volume(VOLUME)
            found = fingerprint_of(volume.info, central_patch(volume, plan.sweep.grid.patch)[1])
        else:
            continue
        if found != one.fingerprint:
            named = "input" if one.name == VOLUME else one.name
            raise RequestError(f"the {named} at {one.ref.url} is not the one of the plan: its voxels differ")


def device_of(plan: Plan) -> str:
    """The kind of device that a plan runs on."""
    sweeps = [stage for stage in plan.stages if isinstance(stage, Sweep) and stage.passes]
    return sweeps[0].passes[0].setting.device if sweeps else "cpu"


def follow(stored: Plan, opened: Opened, device: str) -> Opened:
    """Follow a stored plan, or refuse with the difference.

    Raises
    ------
    PlanMismatchError
        If something else is asked for, or this machine would give other bits.
    """
    stored.require_same_request(opened.plan)
    require_precisions(stored, device)
    kind = device.partition(":")[0]
    for stage in stored.stages:
        if isinstance(stage, Sweep) and stage.passes[0].setting.device != kind:
            theirs = stage.passes[0].setting.device
            raise PlanMismatchError(
                f"the stored plan runs on {theirs}, this machine would use {kind}; the bits would differ.",
                f"Give --device {theirs}, or --overwrite to begin anew.",
            )
    return opened.with_plan(stored)


def fingerprint_of(info: VolumeInfo, voxels: np.ndarray[Any, Any]) -> str:
    """sha256 of shape, dtype, the state of the files where it is known, and the central patch."""
    digest = hashlib.sha256(f"{info.shape_zyx} {info.n_channels} {info.dtype} {info.stamp}".encode())
    digest.update(np.ascontiguousarray(voxels).tobytes())
    return digest.hexdigest()


def mask_fingerprint(mask: Volume) -> str:
    """sha256 of a mask: of all its voxels up to 2^24, else of its middle and eight spots."""
    whole = Box.of(mask.info.shape_zyx)
    if whole.n_voxels <= MASK_VOXELS:
        boxes = [box & whole for box in whole.cells(block_of_chunks(mask.info.shape_zyx, mask.info.chunk_zyx))]
    else:
        boxes = [central_patch(mask, mask.info.chunk_zyx)[0], *_spots(mask.info)]
    digest = hashlib.sha256(f"{mask.info.shape_zyx} {mask.info.dtype} {mask.info.stamp}".encode())
    for box in boxes:
        digest.update(np.ascontiguousarray(mask.read(box)).tobytes())
    return digest.hexdigest()


def refuse_labels(volume: Volume, voxels: np.ndarray[Any, Any]) -> None:
    """Refuse label volumes: said so by their metadata, or flat pieces of few values.

    Raises
    ------
    VolumeError
        With the reason and the way to run anyway.
    """
    advice = "Give the image itself, or --accept-labels to run all the same."
    if volume.info.is_label:
        raise VolumeError(f"{volume.info.url} holds labels, not an image (its metadata says so).", advice)
    if voxels.dtype.kind not in "iu" or voxels.shape[-1] < 2:
        return
    pieces = [voxels, *(volume.read(box) for box in _spots(volume.info))]
    values = np.unique(np.concatenate([np.unique(p) for p in pieces]))
    pairs = [(p[..., :-1] == p[..., 1:], (p[..., :-1] != 0) | (p[..., 1:] != 0)) for p in pieces]
    same, inside = (np.concatenate([p[k].ravel() for p in pairs]) for k in (0, 1))
    flat = float(same[inside].mean()) if inside.sum() > ENOUGH else 0.0
    few = len(values) <= FEW_VALUES and same.mean() > FLAT and inside.any()
    if len(values) > 1 and (flat > FLAT or few):
        raise VolumeError(
            f"{volume.info.url} looks like labels, not like an image: {same.mean():.0%} of neighbouring voxels are "
            f"equal in the places looked at, with {len(values)} different values.",
            advice,
        )


def grey_samples(volume: Volume) -> np.ndarray[Any, Any]:
    """Values of some spots of a volume and of its middle, in one row."""
    boxes = [central_patch(volume, volume.info.chunk_zyx)[0], *_spots(volume.info)]
    return np.concatenate([volume.read(box).ravel() for box in boxes])


def _spots(info: VolumeInfo) -> Iterator[Box]:
    """Eight small boxes, each in one chunk, at about a quarter and three quarters of each axis."""
    for corner in itertools.product((1, 3), repeat=3):
        sides = zip(info.shape_zyx, info.chunk_zyx, corner, strict=True)
        spans = [((a := n * q // 4 // c * c), min(n, a + min(c, SPOT))) for n, c, q in sides]
        (z, y, x), (z1, y1, x1) = zip(*spans, strict=True)
        yield Box((z, y, x), (z1, y1, x1))
