"""The plan: all that decides the outputs. Frozen, JSON, hashed; made without I/O."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from voxweft.engine.stage import Blocks, Gather, Pass, Stage, Sweep
from voxweft.errors import PlanMismatchError, RequestError, first_line
from voxweft.geometry.box import Box
from voxweft.geometry.tiling import TileGrid
from voxweft.image.ref import VolumeRef
from voxweft.model.frozen import FrozenDict
from voxweft.model.ref import ModelRef, card_differences
from voxweft.shown import Shown, counted

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 3
NOT_STORED: dict[str, Any] = {"request": {"defaults"}, "models": {"__all__": {"card": {"contract"}}}}
VOLUME, MASK, IMAGE = "volume", "mask", "image"  # names of inputs; the image is on the grid of the outputs
LATER = (
    "channels",
    "vectors",
    "separate",
    "sparse",
    "only_where",
    "stacked",
    "place",
    "channels_last",
    "network",
    "by_size",
    "named",
    "shown",
)
"""Fields that came after plans were first hashed; where they are empty or false they are no part of the digest."""
LATER_ONE = ("n_threads",)
"""The same of fields that are 1 where nothing is said."""


@dataclass(frozen=True, slots=True)
class PatchesRef:
    """Logits of patches that were kept: the parts of a folder, their grid, and the box where all must be there."""

    folder: str
    grid: TileGrid
    region: Box

    @property
    def url(self) -> str:
        """Where they lie."""
        return self.folder


@dataclass(frozen=True, slots=True)
class InputRef:
    """Something that a plan reads.

    Attributes
    ----------
    name
        What stages call it.
    ref
        How it is opened.
    fingerprint
        Digest of its shape, dtype and a sample of its values.
    """

    name: str
    ref: VolumeRef | PatchesRef
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, at other than its default: an option that a later release adds makes no difference.

    ``defaults`` are those of the release that asks; they are not stored.
    """

    app: str = "run"
    options: Mapping[str, Any] = field(default_factory=FrozenDict)
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", FrozenDict(self.options))

    def get(self, name: str, default: Any = None) -> Any:
        """What was asked for; ``default`` where it is not stored, or was not asked for."""
        return self.options.get(name, self.defaults.get(name, default))


@dataclass(frozen=True, slots=True)
class Plan(Shown):
    """All that decides the outputs, and the decisions that were taken once, when it was made.

    Two workers with an equal digest write the same bits. Nothing in it is an open handle.

    Attributes
    ----------
    request
        What was asked for; a rerun must ask for the same.
    inputs, models
        What is read, and what runs; stages call inputs by their names and models by their numbers.
    stages
        In order; each needs earlier ones only.
    notes
        What the user should know: padding, assumptions, repeated decoding.
    measured
        Timings and probes behind the decisions; not part of the digest.

    Raises
    ------
    RequestError
        If stages need what does not come before them, or share a name.

    Examples
    --------
    >>> from voxweft import RunOptions, load_model, make_plan
    >>> from voxweft.image import VolumeInfo
    >>> card = load_model("fake://null?patch=64,64,64").card
    >>> plan = make_plan(VolumeInfo("v.zarr", "zarr v3", (500, 500, 500), "uint8"), card, RunOptions())
    >>> [f"{stage.n_units} {stage.noun} of {stage.name}" for stage in plan.stages]
    ['4 slabs of sweep', '2 blocks of level-1', '1 blocks of level-2', '1 blocks of level-3']
    >>> Plan.from_json(plan.to_json()) == plan
    True
    >>> Plan.from_json("{}")
    Traceback (most recent call last):
    voxweft.errors.RequestError: the plan has version None; this voxweft reads version 3
    """

    request: Request
    inputs: tuple[InputRef, ...]
    models: tuple[ModelRef, ...]
    stages: tuple[Sweep | Blocks | Gather, ...]
    notes: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        for n, stage in enumerate(self.stages):
            if missing := set(stage.needs) - set(names[:n]):
                raise RequestError(
                    f"stage {stage.name} needs {', '.join(sorted(missing))}, which do not come before it"
                )
        if len({*names, *(i.name for i in self.inputs)}) < len(names) + len(self.inputs):
            raise RequestError(f"two stages or inputs have one name: {', '.join(names)}")

    def __repr__(self) -> str:
        facts = [counted(stage.n_units, stage.noun) + f" of {stage.name}" for stage in self.stages]
        if isinstance(self.main, Sweep):
            grid = self.main.grid
            patches = counted(grid.n_tiles, "patches", "{:,}")
            facts.insert(0, f"{patches} of {' x '.join(map(str, grid.patch))} voxels")
        return f"<plan of {self.request.app}: {', '.join(facts)}>"

    def to_json(self) -> bytes:
        """The plan as JSON; :meth:`from_json` gives an equal plan."""
        return _adapter().dump_json(self, indent=1, exclude=NOT_STORED)

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
            return _adapter().validate_json(data)
        except (ValidationError, json.JSONDecodeError, AttributeError) as error:
            raise RequestError(f"this is no plan: {first_line(error)}") from error

    def beside_each_other(self) -> Plan:
        """The same plan with all outputs beside the main one."""
        stages = (replace(s, outputs=tuple(replace(o, place="") for o in s.outputs)) for s in self.stages)
        return replace(self, stages=tuple(stages))

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything but the measurements and notes."""
        decisive = replace(self, measured={}, notes=())
        canonical = json.dumps(_without_later(json.loads(decisive.to_json())), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def sweep(self) -> Sweep:
        """The first sweep.

        Raises
        ------
        RequestError
            If there is none.
        """
        for stage in self.stages:
            if isinstance(stage, Sweep):
                return stage
        raise RequestError("the plan has no sweep")

    @property
    def main(self) -> Stage:
        """The stage whose units are counted when one number must do: the sweep, or else the first."""
        return next((s for s in self.stages if isinstance(s, Sweep)), self.stages[0])

    def stage(self, name: str) -> Stage:
        """A stage by its name."""
        return next(s for s in self.stages if s.name == name)

    def input(self, name: str) -> InputRef | None:
        """An input by its name; None where there is none."""
        return next((i for i in self.inputs if i.name == name), None)

    @property
    def image(self) -> InputRef | None:
        """What the result lies over: the volume, or if another grid is swept the image as it was given."""
        return self.input(IMAGE) or self.input(VOLUME)

    @property
    def reads_patches(self) -> bool:
        """Whether logits come from patches that were kept."""
        return any(isinstance(one.ref, PatchesRef) for one in self.inputs)

    def after(self, name: str) -> Iterator[Stage]:
        """The stages that need a stage."""
        return (s for s in self.stages if name in s.needs)

    def require_same_request(self, other: Plan) -> None:
        """Check that a new request asks for what this stored plan does.

        Raises
        ------
        PlanMismatchError
            With every field that differs, stored and asked for.
        """
        lines = differing(self.request, other.request)
        for stored, asked in zip(self.models, other.models, strict=False):
            lines += _differing_models(stored, asked)
        if len(self.models) != len(other.models):
            lines.append(f"models: stored {len(self.models)}, asked for {len(other.models)}")
        for old in self.inputs:
            new = other.input(old.name)
            if new and old.fingerprint != new.fingerprint:
                place = f"stored {old.ref.url}, asked for {new.ref.url}, and their voxels differ"
                other_voxels = f"the voxels of {new.ref.url} are not those of the stored plan"
                lines.append(f"input: {place}" if old.name == VOLUME else f"{old.name}: {other_voxels}")
        if not any("normalization" in line for line in lines):
            lines += _differing_schemes(self, other)
        if lines:
            raise PlanMismatchError(
                f"the output holds the work of another plan: {'; '.join(lines)}.",
                "Give --overwrite to replace it, or another OUTPUT.",
            )


def _without_later(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_later(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if not ((k in LATER and not v) or (k in LATER_ONE and v == 1))}
    return {k: _without_later(v) for k, v in kept.items()}


def differing(stored: Request, asked: Request) -> list[str]:
    """Options that are not as they were; of those that are not stored the default counts."""
    lines = [f"command: stored {stored.app}, asked for {asked.app}"] if stored.app != asked.app else []
    for name in sorted({*stored.options, *asked.options}):
        old, new = (r.options.get(name, asked.defaults.get(name)) for r in (stored, asked))
        if old != new:
            lines.append(f"{name}: stored {old!r}, asked for {new!r}")
    return lines


def _differing_models(stored: ModelRef, asked: ModelRef) -> list[str]:
    """What of a model's card is not as it was."""
    lines = card_differences(stored.card, asked.card)
    if stored.digest != asked.digest:
        lines.insert(0, f"model: stored {stored.url} ({stored.digest[:12]}), asked for {asked.url}")
    return lines


def _differing_schemes(stored: Plan, asked: Plan) -> list[str]:
    """Whether voxels are scaled as before; numbers that the stored plan measured are not held against a new one."""
    lines = []
    for a, b in zip(_passes(stored), _passes(asked), strict=False):
        old, new = a.normalization, b.normalization
        alike = all(
            getattr(n, name) in (None, getattr(old[c % len(old)], name))
            for c, n in enumerate(new)
            for name in ("scheme", "mean", "std", "lower", "upper")
        )
        if not alike:
            schemes = [[n.scheme for n in one] for one in (old, new)]
            lines.append(f"normalization: stored {_short(schemes[0])}, now {_short(schemes[1])}")
    return lines[:1]


def _passes(plan: Plan) -> list[Pass]:
    return [one for stage in plan.stages if isinstance(stage, Sweep) for one in stage.passes]


def _short(value: Any) -> str:
    return json.dumps(value)[:160]


@functools.cache
def _adapter() -> TypeAdapter[Plan]:
    """The JSON form of a plan; making it takes a tenth of a second."""
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)
