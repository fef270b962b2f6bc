"""From a request to the plan of a sweep and its resolution levels: pure arithmetic, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from voxweft.engine.budget import Budget, Survey, choose_column, sparse_column
from voxweft.engine.fields import parse_size
from voxweft.engine.naming import names_of, shown_of
from voxweft.engine.options import RunOptions
from voxweft.engine.passes import KNOWN
from voxweft.engine.plan import MASK, VOLUME, InputRef, PatchesRef, Plan, Request
from voxweft.engine.separate import WHOLE, Wanted, finishes_of, halving_of, told_of
from voxweft.engine.stage import Output, Pass, Stores, Sweep, level_stages
from voxweft.engine.uncertain import MEASURES, UNCERTAINTY, require_one_result, require_several, told_of_uncertainty
from voxweft.errors import ModelError, RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.columns import Columns
from voxweft.geometry.regrid import Regrid
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import SMALL, OutputSpec, VolumeInfo
from voxweft.image.order import Order
from voxweft.image.place import Geometry
from voxweft.image.ref import VolumeRef
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import Head
from voxweft.model.protocols import ForwardSetting
from voxweft.model.ref import ModelRef
from voxweft.model.spacing import spacing_note
from voxweft.model.targets import targets_of
from voxweft.ops.activate import KEPT, OVER_PASSES, Finish
from voxweft.ops.augment import views

Schemes = tuple[Normalization, ...]
SWEEP = "sweep"  # name of the stage


@dataclass(frozen=True, slots=True)
class Target:
    """Outputs that are more than one array on the grid of what is swept.

    Attributes
    ----------
    regrid
        The swept grid resampled to theirs; its offsets say where in their array it begins. None: one grid.
    shape_zyx, geometry
        Of the array of the outputs; what lies outside the maps stays 0.
    order
        The stored axes, see :class:`~voxweft.image.OutputSpec`; None for those of the options.
    also
        Further outputs beside the main one, by their names: "merged", "entropy", "probability32", "probability16" or
        "variance".
    tally
        See :class:`~voxweft.engine.stage.Sweep`.
    average
        What of several passes is averaged. For "probabilities", a "maximum" and a variance, each is blended by itself.
    channels
        The groups of channels of the volume that every network is to see, each in a pass of its own; empty: all.
    known
        Whether a last output says where anything is known: 255, else 0.
    places
        URLs of outputs of heads, by the names of the heads, that are not to lie beside the main one.
    reverse
        Whether the channels of the volume are its planes from the last to the first.
    """

    regrid: Regrid | None = None
    shape_zyx: Zyx | None = None
    geometry: Geometry | None = None
    order: Order | None = None
    also: tuple[str, ...] = ()
    tally: Literal["", "voxels", "confidence"] = ""
    average: Literal["logits", "probabilities", "maximum"] = "logits"
    channels: tuple[tuple[int, ...], ...] = ()
    known: bool = False
    places: Mapping[str, str] = field(default_factory=dict)
    reverse: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every network has one result, on the grid of the volume."""
        return not (self.also or self.tally or self.regrid or self.shape_zyx or self.average != "logits")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out before a plan is made, and what an app adds to its options.

    Attributes
    ----------
    source
        How the swept volume is opened; default: by the URL of its description.
    fingerprint, mask_fingerprint
        Digests of a sample of the volume and of the mask.
    mask
        How the mask is opened; default: by its URL.
    normalization, settings
        Of each model: its schemes with their numbers; the decided runtime. Default: those of :func:`schemes_for`,
        unmeasured; plain torch on the CPU, batch 1.
    budget
        Memory to plan for; default: unlimited, so that the whole plane is one column.
    measured
        Kept in the plan.
    stores
        Where patches are kept, for the output "patches".
    app
        Which command plans.
    target
        Where the outputs lie, and more of them; default: the grid of the volume, and none.
    seen
        What the mask of a sparse sweep touches.
    """

    source: VolumeRef | PatchesRef | None = None
    fingerprint: str = ""
    mask_fingerprint: str = ""
    normalization: tuple[Schemes, ...] = ()
    settings: tuple[ForwardSetting, ...] = ()
    budget: Budget | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    stores: Stores | None = None
    app: str = "run"
    target: Target | None = None
    mask: VolumeRef | None = None
    seen: Survey = field(default_factory=Survey)


def make_plan(
    source: VolumeInfo,
    model: ModelCard | ModelRef | Sequence[ModelRef],
    options: RunOptions,
    *,
    fingerprint: str = "",
    normalization: Schemes = (),
    setting: ForwardSetting | None = None,
    budget: Budget | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a run: pure arithmetic, no I/O, under a second for 10^13 voxels.

    Parameters
    ----------
    source, model, options
        What goes in, what runs (several models are an ensemble), what is asked for.
    fingerprint, normalization, setting, budget, measured
        See :class:`Findings`; normalization and setting are taken for every model.

    Raises
    ------
    RequestError
        All that does not fit, named at once.

    Examples
    --------
    >>> from voxweft.image import VolumeInfo
    >>> card = ModelCard("m.pt2", "torch.export", "", patch_zyx=(64, 64, 64))
    >>> plan = make_plan(VolumeInfo("v.zarr", "zarr v3", (500, 500, 500), "uint8"), card, RunOptions(overlap=0.25))
    >>> [stage.name for stage in plan.stages], plan.sweep.n_tiles(plan.sweep.region)
    (['sweep', 'level-1', 'level-2', 'level-3'], 1331)
    """
    refs = refs_of(model)
    found = Findings(
        fingerprint=fingerprint,
        normalization=(normalization,) * len(refs) if normalization else (),
        settings=(setting,) * len(refs) if setting else (),
        budget=budget,
        measured=measured or {},
    )
    return plan_sweep(source, refs, options, found)


def refs_of(model: ModelCard | ModelRef | Sequence[ModelRef]) -> tuple[ModelRef, ...]:
    """One or several models as references."""
    if isinstance(model, ModelCard):
        return (ModelRef(model),)
    return (model,) if isinstance(model, ModelRef) else tuple(model)


def plan_sweep(source: VolumeInfo, models: tuple[ModelRef, ...], options: RunOptions, found: Findings) -> Plan:
    """The plan of a sweep and of the resolution levels of its output; see :func:`make_plan`."""
    if not min(source.shape_zyx):
        raise VolumeError(f"{source.url} is empty: its shape is {source.shape_zyx}")
    cards = [ref.card for ref in models]
    require_alike(cards)
    if any(card.is_panoptic for card in cards):
        raise ModelError(f"{cards[0].path} is a panoptic network, whose maps become objects; use voxweft panoptic")
    passes, notes = [], [*spacing_notes(cards, source), *source.notes]
    for n, card in enumerate(cards):
        made, remarks = _passes_of(source, card, options, found, n)
        passes += made
        notes += remarks
    target = found.target or Target()
    if options.uncertainty:
        target = replace(target, also=(*target.also, MEASURES[options.uncertainty]))
    finishes = _finishes(cards[0], options, target, passes)
    finish, shape = finishes[0], target.shape_zyx or source.shape_zyx
    region = Box.parse(options.bbox, shape) if options.bbox else Box.of(shape)
    region &= target.regrid.box_out if target.regrid else region
    chunk: Zyx = tuple(  # type: ignore[assignment]
        min(c, -(-n // 16) * 16) for c, n in zip(parse_size(options.chunk) or (), shape, strict=True)
    )
    n_lanes = max([s.n_lanes for s in found.settings], default=1)
    if options.sparse:
        _require_sparse(options, target, finishes)
        division = sparse_column(source, passes, finishes, chunk, found.budget, found.seen)
    else:
        division = choose_column(source, passes, finishes, chunk, found.budget, n_lanes, target.regrid)
    seen = replace(source, shape_zyx=shape, geometry=target.geometry or source.geometry)
    specs = [_spec(seen, cards[0], one, options, (chunk, division.shard_zyx)) for one in finishes]
    kept = finish.output == "patches"
    output, *beside = _outputs(cards[0], options, target, finishes, specs)
    if options.uncertainty:
        told = told_of_uncertainty(finishes[-1], passes)
        spec = replace(specs[-1], order=output.spec.order if output.spec else specs[-1].order)
        beside[-1] = Output(UNCERTAINTY, spec, attributes={UNCERTAINTY: told})
        notes.append(f"{UNCERTAINTY} is beside the output: {told['measure']}, stored times {round(1 / told['scale'])}")
    heads = [one.name for one in beside if finish.channels and one.name != KNOWN]
    if heads:
        notes.append(f"{output.attributes['target']['name']} is in the output itself, {', '.join(heads)} beside it")
    sweep = Sweep(
        name=SWEEP,
        source=VOLUME,
        info=source,
        passes=tuple(passes),
        window=options.window,
        sigma_scale=options.sigma_scale,
        finish=finish,
        outputs=() if kept else (output, *beside),
        region=region,
        columns=Columns(shape, region, division.column_yx, specs[0].shard_zyx[0]),
        plane_block=division.plane_block,
        skip_empty=options.skip_empty,
        mask=MASK if options.mask else "",
        stores=(found.stores or Stores(1)) if kept else None,
        more=finishes[1:],
        regrid=target.regrid,
        tally=target.tally,
        sparse=options.sparse,
    )
    further = [
        stage
        for n, one in enumerate(beside, start=1)
        if finish.channels or one.name == UNCERTAINTY
        for stage in level_stages(one, region, SWEEP, n, sparse=options.sparse)
    ]
    inputs = [InputRef(VOLUME, found.source or VolumeRef(source.url, source.level), found.fingerprint)]
    if options.mask:
        inputs.append(InputRef(MASK, found.mask or VolumeRef(options.mask), found.mask_fingerprint))
    return Plan(
        request=Request(found.app, options.request(), options.defaults()),
        inputs=tuple(inputs),
        models=models,
        stages=(sweep, *(() if kept else level_stages(output, region, SWEEP, sparse=options.sparse)), *further),
        notes=(*dict.fromkeys(notes), *division.notes),
        measured=dict(found.measured),
    )


def _outputs(
    card: ModelCard, options: RunOptions, target: Target, finishes: Sequence[Finish], specs: Sequence[OutputSpec]
) -> list[Output]:
    """The output of a sweep, and those beside it."""
    spec = replace(specs[0], order=target.order or specs[0].order)
    if finishes[0].channels:
        outputs = _outputs_of_heads(card, options, target, specs)
    else:
        beside = (
            Output(name, spec=replace(one, order=spec.order, pyramid=spec.pyramid, is_label=False))
            for name, one in zip(target.also, specs[1:], strict=False)
        )
        outputs = [Output(spec=spec, attributes=card.attributes), *beside]
    known = replace(spec, n_channels=1, dtype="uint8", pyramid="none", is_label=True, named=(), shown=())
    return [*outputs, Output(KNOWN, spec=known)] if target.known else list(outputs)


def _require_sparse(options: RunOptions, target: Target, finishes: Sequence[Finish]) -> None:
    """Refuse what a sparse sweep cannot do."""
    problems = [] if options.mask else ["--sparse needs --mask, which says what is visited"]
    if target.regrid or target.tally or target.known:
        problems.append("--sparse works on the grid of the volume only, and tallies nothing")
    if any(finish.output in (*KEPT, "patches") for finish in finishes):
        problems.append(
            "--sparse writes nothing where the mask is 0, and the logits of nothing are not 0; take another --output"
        )
    if problems:
        raise RequestError(*problems)


def _finishes(card: ModelCard, options: RunOptions, target: Target, passes: Sequence[Pass]) -> tuple[Finish, ...]:
    """That of the main output and of those beside it; the uncertainty is the last where it is tallied."""
    if options.uncertainty:
        require_one_result(card, options.output)
    if card.separate and options.output not in WHOLE:
        if not target.is_plain:
            named = ", ".join(f"{head.name} ({head.activation})" for head in card.heads)
            raise RequestError(
                f"{card.path} has the targets {named}; voxweft run and pipeline write them, without --resample"
            )
        return tuple(finish for _, finish in _of_heads(card, options))
    finish, apart = finish_for(card, options), any(name in OVER_PASSES for name in target.also)
    if options.uncertainty and apart:
        require_several(passes)
    if len(passes) > 1 and (target.average != "logits" or apart):
        total = sum(one.weight for one in passes)
        weights = tuple(one.weight / total for one in passes)
        finish = replace(finish, pass_weights=weights, average=target.average)
    wanted = list(target.also)
    if target.tally == "confidence":
        wanted = [name for name in wanted if name != "entropy"] + ["entropy"]
    kept = [name for name in (finish.output, *wanted) if name in KEPT]
    whole = bool(kept and wanted) and finish.activation == "softmax"
    return tuple(replace(finish, output=name, whole=whole) for name in (finish.output, *wanted))


def _outputs_of_heads(
    card: ModelCard, options: RunOptions, target: Target, specs: Sequence[OutputSpec]
) -> list[Output]:
    """The array of each head, the main one first."""
    outputs = []
    for n, ((head, finish), spec) in enumerate(zip(_of_heads(card, options), specs, strict=True)):
        if head.stacked:
            order: Literal["planes", "reversed"] = "reversed" if target.reverse else "planes"
            spec = replace(spec, stacked=order, pyramid="none")  # noqa: PLW2901
        told = {**card.attributes, **told_of(head, finish)}
        outputs.append(Output(head.name if n else "", spec, attributes=told, place=target.places.get(head.name, "")))
    return outputs


def _of_heads(card: ModelCard, options: RunOptions) -> list[tuple[Head, Finish]]:
    return finishes_of(card.heads, Wanted(options.mode, options.output, options.threshold, options.normals))


def require_alike(cards: Sequence[ModelCard]) -> None:
    """Refuse an ensemble of networks that do not answer the same question.

    Raises
    ------
    ModelError
        Naming what differs.
    """
    first = cards[0]
    for card in cards[1:]:
        for name in ("n_inputs", "n_classes", "activation", "label_ids"):
            a, b = getattr(first, name), getattr(card, name)
            if a != b:
                raise ModelError(f"{card.path} has {name} {b}, {first.path} has {a}; an ensemble needs the same")
        if (card.separate or first.separate) and card.heads != first.heads:
            a, b = (", ".join(f"{h.name} ({h.activation} of {h.n_channels})" for h in c.heads) for c in (first, card))
            raise ModelError(f"{card.path} has the targets {b}, {first.path} has {a}; an ensemble needs the same")


def _passes_of(
    source: VolumeInfo, card: ModelCard, options: RunOptions, found: Findings, n: int
) -> tuple[list[Pass], list[str]]:
    """The passes of a model, and what to note about them."""
    patch, notes = patch_for(source, card, options)
    if card.transpose != (0, 1, 2) and found.target is None:
        raise ModelError(f"{card.path} wants images with their axes exchanged {card.transpose}; use voxweft batch")
    grid = TileGrid.of(
        source.shape_zyx,
        patch,
        options.overlap,
        options.fit,  # type: ignore[arg-type]
        options.pad,
        parse_size(options.patch_stride),
    )
    seen = views(options.tta, card.mirror_axes, patch)
    groups = (found.target or Target()).channels
    for n_channels in {len(group) for group in groups} or {source.n_channels}:
        if n_channels != card.n_inputs:
            raise ModelError(f"the model takes {card.n_inputs} input channel(s), {source.url} has {n_channels}")
    setting = found.settings[n] if found.settings else ForwardSetting("torch", "cpu", "fp32", 1, patch)
    one = Pass(
        model=n,
        grid=grid,
        setting=replace(setting, n_lanes=1),  # lanes belong to the machine, not to the plan
        normalization=(found.normalization[n] if found.normalization else ()) or schemes_for(card, options),
        views=seen,
        tta=options.tta,
        weight=options.weight_of(n),
        pad_with=options.pad_with,
        vectors=card.vectors,
    )
    several = [one]
    if options.uncertainty == "variance":  # views are passes that are blended apart
        several = [replace(one, views=(view,), weight=one.weight / len(seen)) for view in seen]
    if options.tta_of == "volume":
        grids = [grid.mirrored(source.shape_zyx, [a + 3 for a in view.inverse.flips]) for view in seen]
        weight = one.weight / len(seen)
        several = [replace(one, grid=g, views=(v,), weight=weight) for g, v in zip(grids, seen, strict=True)]
    share = 1 / max(1, len(groups))
    return [
        replace(each, channels=group, weight=each.weight * share) for each in several for group in groups or (None,)
    ], notes


def _spec(
    source: VolumeInfo, card: ModelCard, finish: Finish, options: RunOptions, stored: tuple[Zyx, Zyx]
) -> OutputSpec:
    """The array that is written."""
    return OutputSpec(
        shape_zyx=source.shape_zyx,
        n_channels=finish.n_channels,
        dtype=finish.dtype,
        chunk_zyx=stored[0],
        shard_zyx=stored[1],
        compressor=options.compressor,
        compression_level=options.compression_level,
        pyramid=halving_of(finish) if options.pyramid else "none",
        geometry=source.geometry,
        layout=options.layout,
        order=options.order,
        is_label=finish.is_label,
        words=options.words,
        smallest=_smallest(source.shape_zyx, options.n_levels),
        by_size=not options.n_levels,
        named=names_of(finish, card.class_names, card.heads),
        shown=shown_of(finish),
    )


def _smallest(shape: Zyx, n_levels: int) -> int:
    """Of how many voxels the longest side of the coarsest level may be, for so many levels; 0: as usual."""
    return -(-max(shape) // 2 ** (n_levels - 1)) if n_levels else SMALL


def spacing_notes(cards: Sequence[ModelCard], source: VolumeInfo) -> list[str]:
    """Where the voxels of the volume are not those of the training: the first thing that a user should know.

    A contract knows of layers, whose distances are another matter.
    """
    notes = (spacing_note(card, source.geometry) for card in cards if card.contract is None)
    return [*dict.fromkeys(note for note in notes if note)]


def patch_for(source: VolumeInfo, card: ModelCard, options: RunOptions) -> tuple[Zyx, list[str]]:
    """The patch in voxels z y x, and what to note about it."""
    patch = parse_size(options.patch_size) or card.patch_zyx
    if patch is None:
        raise ModelError(f"{card.path} does not say its patch size; give --patch-size z,y,x")
    if card.fixed_patch and patch != card.patch_zyx:
        raise ModelError(f"--patch-size {patch}: {card.path} takes {card.patch_zyx} and nothing else")
    if card.batch_size and options.batch_size not in (0, card.batch_size):
        raise ModelError(f"--batch-size {options.batch_size}: {card.path} takes {card.batch_size} and nothing else")
    if any(p % d for p, d in zip(patch, card.divisor_zyx, strict=True)):
        raise ModelError(f"--patch-size {patch} is no multiple of {card.divisor_zyx}, which this network needs")
    short = [f"{a} ({n} < {p})" for a, n, p in zip("zyx", source.shape_zyx, patch, strict=True) if n < p]
    filling = {"zeros": "zeros", "edge": "its outermost voxels"}[options.pad_with]
    note = f"the volume is smaller than the patch along {', '.join(short)} and is padded with {filling}"
    notes = [note] if short else []
    if options.normalization == "auto" and card.normalization_note:
        notes.append(card.normalization_note)
    notes += card.notes
    return patch, notes


def finish_for(card: ModelCard, options: RunOptions) -> Finish:
    """Mode "auto" resolved: binary up to two classes (one channel or softmax over two), else multiclass."""
    targets = targets_of(card, options.mode, options.output)
    binary = bool(targets) or card.n_classes == 1 or (card.n_classes == 2 and card.activation == "softmax")
    mode = options.mode if options.mode != "auto" else ("binary" if binary else "multiclass")
    return Finish(mode, options.output, card.n_classes, card.activation, options.threshold, targets, card.label_ids)


def schemes_for(card: ModelCard, options: RunOptions) -> Schemes:
    """The normalisation of each input channel: the model's, or the one asked for."""
    if options.normalization == "auto":
        return card.normalization
    if all(n.scheme == options.normalization for n in card.normalization):
        return card.normalization
    return (Normalization(options.normalization),)
