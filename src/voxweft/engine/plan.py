"""The plan: all that decides the output. Frozen, JSON, hashed; made without I/O."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from voxweft.engine.budget import Budget, choose_column
from voxweft.engine.options import RunOptions, parse_size
from voxweft.errors import ModelError, PlanMismatchError, RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import OutputSpec, VolumeInfo
from voxweft.image.ref import VolumeRef
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.frozen import FrozenDict
from voxweft.model.protocols import ForwardSetting
from voxweft.model.ref import card_differences
from voxweft.model.spacing import spacing_note
from voxweft.model.targets import targets_of
from voxweft.ops.activate import Finish
from voxweft.ops.augment import views

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides the output, and the decisions that were taken once, when it was made.

    Two workers with an equal digest write the same bits. Nothing in it is an open handle.

    Attributes
    ----------
    source, fingerprint
        The input and a digest of its shape, dtype and a sample of its voxels.
    source_ref
        What opens the input again; None for ``open_volume`` with its URL and level.
    card, arguments
        The model, and what it is loaded with beside its path.
    request
        What was asked for (see :meth:`RunOptions.request`); a rerun must ask for the same.
    grid, window, sigma_scale, tta
        Patch positions over the whole volume, blend weights, augmentation.
    normalization
        Filled in with the numbers of the whole volume where the scheme needs them.
    finish, spec
        What becomes of the blended logits, and the array they are written to.
    region, mask, mask_fingerprint
        The box that is wanted; URL of the mask volume, or "", and a digest of its voxels.
    columns
        How the output is cut.
    setting
        Runtime, device type, precision, batch size.
    layer_z
        Planes read at once.
    notes
        What the user should know: padding, assumptions, repeated decoding.
    measured
        Timings and probes behind the decisions; not part of the digest.

    Examples
    --------
    >>> from voxweft.image import VolumeInfo
    >>> card = ModelCard("m.pt2", "torch.export", "", patch_zyx=(64, 64, 64))
    >>> plan = make_plan(VolumeInfo("v.zarr", "zarr v3", (500, 500, 500), "uint8"), card, RunOptions())
    >>> Plan.from_json(plan.to_json()) == plan
    True
    >>> Plan.from_json("{}")
    Traceback (most recent call last):
    voxweft.errors.RequestError: the plan has version None; this voxweft reads version 2
    """

    source: VolumeInfo
    fingerprint: str
    card: ModelCard
    request: Mapping[str, Any]
    grid: TileGrid
    window: str
    sigma_scale: float
    tta: str
    normalization: tuple[Normalization, ...]
    finish: Finish
    spec: OutputSpec
    region: Box
    mask: str
    columns: Columns
    setting: ForwardSetting
    layer_z: int
    skip_empty: bool
    arguments: Mapping[str, Any] = field(default_factory=FrozenDict)
    mask_fingerprint: str = ""
    source_ref: VolumeRef | None = None
    notes: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> bytes:
        """The plan as JSON; :meth:`from_json` gives an equal plan."""
        return _adapter(Plan).dump_json(self, indent=1)

    @classmethod
    def from_json(cls, data: bytes | str) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        RequestError
            If the text is no plan, or one of another version.
        """
        from pydantic import ValidationError

        try:
            if (version := json.loads(data).get("version")) != VERSION:
                raise RequestError(f"the plan has version {version}; this voxweft reads version {VERSION}")
            plan: Plan = _adapter(Plan).validate_json(data)
        except (ValidationError, json.JSONDecodeError, AttributeError) as error:
            raise RequestError(f"this is no plan: {str(error).splitlines()[0]}") from error
        return plan

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything but the measurements and notes."""
        bare = replace(self, measured={}, notes=())
        canonical = json.dumps(json.loads(bare.to_json()), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def n_views(self) -> int:
        """Forward passes of a patch by augmentation (folds are inside the model)."""
        return len(views(self.tta, self.card.mirror_axes))

    def n_tiles(self, box: Box) -> int:
        """Patches that a sweep of an output box computes."""
        return math.prod(len(r) for r in self.grid.touching(box))

    def reach(self, box: Box) -> Box:
        """All voxels of the input that a sweep of an output box reads."""
        zs, ys, xs = self.grid.touching(box)
        first, last = self.grid.tile((zs[0], ys[0], xs[0])), self.grid.tile((zs[-1], ys[-1], xs[-1]))
        return Box(first.box.start, last.box.stop) & Box.of(self.source.shape_zyx)

    def n_decoded(self, box: Box) -> int:
        """Voxels of the chunks that reading a box of the input decodes."""
        sides = zip(box.start, box.stop, self.source.chunk_zyx, strict=True)
        return math.prod((-(-b // c) - a // c) * c for a, b, c in sides)

    @property
    def n_patches_computed(self) -> int:
        """Patches that all columns compute when each is swept in one go."""
        full = range(self.columns.n_slabs)
        return sum(self.n_tiles(self.columns.box(c, full) & self.region) for c in range(self.columns.n_columns))

    @property
    def waste(self) -> float:
        """Patches computed / patches of the grid that meet the region."""
        return self.n_patches_computed / max(1, self.n_tiles(self.region))

    def require_same_request(self, other: Plan) -> None:
        """Check that a new request asks for what this stored plan does.

        Raises
        ------
        PlanMismatchError
            With every field that differs, stored and asked for.
        """
        lines = [
            f"{name}: stored {self.request.get(name)!r}, asked for {other.request.get(name)!r}"
            for name in sorted({*self.request, *other.request})
            if self.request.get(name) != other.request.get(name)
        ]
        if self.card.digest != other.card.digest:
            lines.append(f"model: stored {self.card.path} ({self.card.digest[:12]}), asked for {other.card.path}")
        lines += self._differing_settings(other)
        if self.fingerprint != other.fingerprint:
            lines.append(f"input: stored {self.source.url}, asked for {other.source.url}, and their voxels differ")
        if self.mask_fingerprint != other.mask_fingerprint:
            lines.append(f"mask: the voxels of {other.mask} are not those of the stored plan")
        if lines:
            raise PlanMismatchError(
                f"the output holds the work of another plan: {'; '.join(lines)}.",
                "Give --overwrite to replace it, or another OUTPUT.",
            )

    def _differing_settings(self, other: Plan) -> list[str]:
        """What else of the model's card, and of the normalisation, is not as it was."""
        mine, theirs = (json.loads(plan.to_json()) for plan in (self, other))
        lines = card_differences(self.card, other.card)
        schemes = [[n["scheme"] for n in plan["normalization"]] for plan in (mine, theirs)]
        alike = all(
            v is None or old.get(k) == v
            for old, new in zip(itertools.cycle(mine["normalization"]), theirs["normalization"], strict=False)
            for k, v in new.items()
        )
        if not alike and not any("normalization" in line for line in lines):
            lines.append(f"normalization: stored {_short(schemes[0])}, now {_short(schemes[1])}")
        return lines


def _short(value: Any) -> str:
    return json.dumps(value)[:160]


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """The JSON form of a plan or a card; making it takes a tenth of a second."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def make_plan(
    source: VolumeInfo,
    card: ModelCard,
    options: RunOptions,
    *,
    fingerprint: str = "",
    normalization: tuple[Normalization, ...] = (),
    setting: ForwardSetting | None = None,
    budget: Budget | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a run: pure arithmetic, no I/O, under a second for 10^13 voxels.

    Parameters
    ----------
    source, card, options
        What goes in, what runs, what is asked for.
    fingerprint
        Digest of a sample of the input.
    normalization
        Schemes with their numbers; default: those of :func:`schemes_for`, unmeasured.
    setting
        The decided runtime; default: plain torch on the CPU, batch 1.
    budget
        Memory to plan for; default: unlimited, so that the whole plane is one column.
    measured
        Kept in the plan.

    Raises
    ------
    RequestError
        All that does not fit, named at once.

    Examples
    --------
    >>> from voxweft.image import VolumeInfo
    >>> source = VolumeInfo("v.zarr", "zarr v3", (500, 500, 500), "uint8")
    >>> card = ModelCard("m.pt2", "torch.export", "", patch_zyx=(64, 64, 64))
    >>> plan = make_plan(source, card, RunOptions(overlap=0.25))
    >>> plan.grid.axes[0].count, plan.grid.n_tiles, plan.columns.n_slabs
    (11, 1331, 4)
    """
    if not min(source.shape_zyx):
        raise VolumeError(f"{source.url} is empty: its shape is {source.shape_zyx}")
    patch, notes = patch_for(source, card, options)
    grid = TileGrid.of(source.shape_zyx, patch, options.overlap, options.fit, options.pad)  # type: ignore[arg-type]
    finish = finish_for(card, options)
    region = Box.parse(options.bbox, source.shape_zyx) if options.bbox else Box.of(source.shape_zyx)
    views(options.tta, card.mirror_axes, patch)
    if source.n_channels != card.n_inputs:
        raise ModelError(
            f"the model takes {card.n_inputs} input channel(s), {source.url} has {source.n_channels}",
        )
    setting = setting or ForwardSetting("torch", "cpu", "fp32", 1, patch)
    chunk = tuple(
        min(c, -(-n // 16) * 16) for c, n in zip(parse_size(options.chunk) or (), source.shape_zyx, strict=True)
    )
    cut = choose_column(source, grid, finish, chunk, setting, budget)  # type: ignore[arg-type]
    spec = _spec(source, finish, options, chunk, cut.shard_zyx)  # type: ignore[arg-type]
    return Plan(
        source=source,
        fingerprint=fingerprint,
        card=card,
        request=dict(options.request()),
        grid=grid,
        window=options.window,
        sigma_scale=options.sigma_scale,
        tta=options.tta,
        normalization=normalization or schemes_for(card, options),
        finish=finish,
        spec=spec,
        region=region,
        mask=options.mask,
        columns=Columns(source.shape_zyx, region, cut.column_yx, spec.shard_zyx[0]),
        setting=replace(setting, n_lanes=1),  # lanes belong to the machine, not to the plan
        layer_z=cut.layer_z,
        skip_empty=options.skip_empty,
        notes=(*notes, *filter(None, [spacing_note(card, source.geometry)]), *cut.notes),
        measured=dict(measured or {}),
    )


def _spec(source: VolumeInfo, finish: Finish, options: RunOptions, chunk: Zyx, shard: Zyx) -> OutputSpec:
    """The array that is written."""
    return OutputSpec(
        shape_zyx=source.shape_zyx,
        n_channels=finish.n_channels,
        dtype=finish.dtype,
        chunk_zyx=chunk,
        shard_zyx=shard,
        compressor=options.compressor,
        compression_level=options.compression_level,
        pyramid=_pyramid(options),
        geometry=source.geometry,
        layout=options.layout,
        order=options.order,
        is_label=finish.output == "labels",
        words=options.words,
    )


def _pyramid(options: RunOptions) -> str:
    if not options.pyramid:
        return "none"
    return "mean" if options.output in ("probability", "probability16", "logits") else "nearest"


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
    note = f"the volume is smaller than the patch along {', '.join(short)} and is padded with zeros"
    notes = [note] if short else []
    if options.normalization == "auto" and card.normalization_note:
        notes.append(card.normalization_note)
    return patch, notes


def finish_for(card: ModelCard, options: RunOptions) -> Finish:
    """Mode "auto" resolved: binary up to two classes (one channel or softmax over two), else multiclass."""
    targets = targets_of(card, options.mode, options.output)
    binary = bool(targets) or card.n_classes == 1 or (card.n_classes == 2 and card.activation == "softmax")
    mode = options.mode if options.mode != "auto" else ("binary" if binary else "multiclass")
    return Finish(mode, options.output, card.n_classes, card.activation, options.threshold, targets)


def schemes_for(card: ModelCard, options: RunOptions) -> tuple[Normalization, ...]:
    """The normalisation of each input channel: the model's, or the one asked for."""
    if options.normalization == "auto":
        return card.normalization
    if all(n.scheme == options.normalization for n in card.normalization):
        return card.normalization
    return (Normalization(options.normalization),)
