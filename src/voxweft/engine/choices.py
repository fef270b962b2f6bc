"""What a run could do cheaper, and which of it to take: pure arithmetic.

reference   overlap 0.5 (or more, where that is asked for), views as asked for, the plainest runtime, fp32
asked       the request itself
cheaper     less overlap; a larger window; fewer views; lower precision; and some of them together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from voxweft.engine.fields import decisive, defaults_of, parse_size, spell_duration
from voxweft.engine.options import RunOptions
from voxweft.engine.planning import patch_for
from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx
from voxweft.geometry.tiling import TileGrid
from voxweft.image.info import VolumeInfo
from voxweft.model.card import ModelCard
from voxweft.model.frozen import FrozenDict
from voxweft.model.protocols import ForwardSetting

OVERLAPS = (0.5, 0.25, 0.125)
DEAREST = 0.5  # overlap of the reference, at least
UNASKED = RunOptions()
ALIKE = 1.03  # seconds / those of the fastest, which noise explains
WIDER = 1.5  # side of a larger window / side of the patch
Ways = Mapping[str, Mapping[str, Any]]  # options by what they are called


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a request: ``options`` are those that differ from what is asked for, ``name`` says it in words."""

    name: str
    options: Mapping[str, Any] = field(default_factory=FrozenDict)
    is_reference: bool = False

    @property
    def is_asked(self) -> bool:
        """Whether it is the request itself."""
        return not self.options


@dataclass(frozen=True, slots=True)
class Row:
    """What a choice costs and what it changes.

    Attributes
    ----------
    choice
        Which.
    seconds
        Wall clock of the whole job; None where it was not measured.
    flips, mean, dice, n_voxels
        Against the reference, see :class:`~voxweft.ops.flips.Agreement`; None and empty where it was not measured.
    remark
        Why it was not measured, or "".
    """

    choice: Choice
    seconds: float | None = None
    flips: float | None = None
    mean: float | None = None
    dice: tuple[float, ...] = ()
    n_voxels: int = 0
    remark: str = ""

    def to_dict(self, chosen: Row | None = None) -> dict[str, Any]:
        """Plain JSON values."""
        said = asdict(replace(self, choice=Choice("")))
        del said["choice"]
        one = self.choice
        marks = {"is_reference": one.is_reference, "is_asked": one.is_asked, "is_chosen": self == chosen}
        return {"name": one.name, "options": dict(one.options), **said, "dice": list(self.dice), **marks}


@dataclass(frozen=True)
class ChosenOptions(RunOptions):
    """Options that were chosen for a request; a plan of them tells what was asked for, so that a rerun follows it.

    >>> ChosenOptions.of(RunOptions(effort="auto"), {"overlap": 0.25}).request()
    {'effort': 'auto'}
    """

    asked: RunOptions = field(default=UNASKED, metadata={"decides": False})

    @classmethod
    def of(cls, asked: RunOptions, chosen: Mapping[str, Any]) -> ChosenOptions:
        """A request with other values in the place of some."""
        return cls(**{**vars(asked), **chosen, "asked": asked})

    def request(self) -> dict[str, Any]:
        """What was asked for."""
        return decisive(self.asked)

    def defaults(self) -> dict[str, Any]:
        """The defaults of what can be asked for."""
        return defaults_of(self.asked)


def choices_for(
    options: RunOptions,
    card: ModelCard,
    info: VolumeInfo,
    setting: ForwardSetting,
    runtimes: Sequence[str] = ("torch",),
    precisions: Sequence[str] = (),
) -> tuple[Choice, ...]:
    """The reference, the request itself, and what is cheaper, in this order.

    Parameters
    ----------
    options, card, info
        What is asked for, of which network and volume.
    setting
        How the request itself would be run.
    runtimes
        Those of the network on this device, the plainest first.
    precisions
        Lower ones that this device has; taken where the request leaves it open and allows any flips.

    Examples
    --------
    >>> card = ModelCard("m.pt2", "torch.export", "", patch_zyx=(64, 64, 64))
    >>> here, info = ForwardSetting("jit", "cpu", "fp32", 1, (64, 64, 64)), VolumeInfo("v", "", (500,) * 3, "uint8")
    >>> for one in choices_for(RunOptions(), card, info, here, precisions=["bf16"]):
    ...     print(one.name, dict(one.options))
    overlap 0.5, torch fp32 {'runtime': 'torch', 'precision': 'fp32'}
    overlap 0.5, jit fp32 {}
    overlap 0.25, jit fp32 {'overlap': 0.25}
    overlap 0.125, jit fp32 {'overlap': 0.125}
    window 96,96,96 with the same margin, jit fp32 {'patch_size': '96,96,96', 'patch_stride': '64,64,64'}
    overlap 0.5, torch bf16 {'runtime': 'torch', 'precision': 'bf16'}
    overlap 0.25, torch bf16 {'overlap': 0.25, 'runtime': 'torch', 'precision': 'bf16'}
    overlap 0.125, torch bf16 {'overlap': 0.125, 'runtime': 'torch', 'precision': 'bf16'}
    """
    patch, stride = patch_for(info, card, options)[0], parse_size(options.patch_stride)
    asked = 1 - max(s / p for s, p in zip(stride, patch, strict=True)) if stride else options.overlap
    no_stride = {"patch_stride": ""} if stride else {}
    here: dict[str, Any] = {}
    cheaper = {f"overlap {o:g}": {"overlap": o, **no_stride} for o in OVERLAPS if o < asked}
    dearer = {f"overlap {o:g}": {"overlap": o, **no_stride} for o in OVERLAPS if asked < o <= DEAREST}
    tilings: Ways = {f"overlap {asked:.3g}": here, **dearer, **cheaper, **_wider(card, info, patch, stride or asked)}
    grids = {name: _places(info, card, replace(options, **one)) for name, one in tilings.items()}
    first = {grid: name for name, grid in reversed(grids.items())}
    tilings = {name: one for name, one in tilings.items() if first[grids[name]] == name}
    dearer, cheaper = ({name: one for name, one in some.items() if name in tilings} for some in (dearer, cheaper))
    views = {options.tta if options.tta != "none" else "": here}
    lighter = {"no views": {"tta": "none"}} if options.tta != "none" else {}
    used = {f"{setting.runtime} {setting.precision}": here}
    able = "openvino" if "openvino" in runtimes else runtimes[0] if setting.runtime == "jit" else setting.runtime
    lower = {
        f"{able if precision != 'fp32' else setting.runtime} {precision}": {
            "runtime": able if precision != "fp32" else setting.runtime,
            "precision": precision,
        }
        for precision in dict.fromkeys(("fp32", *precisions))
        if precision != setting.precision and options.precision == "auto" and options.tolerance > 0
    }
    lowest = lower if setting.precision == "fp32" else {}
    plain = {"runtime": runtimes[0], "precision": "fp32"}
    exact = {f"{runtimes[0]} fp32": here if (setting.runtime, setting.precision) == (runtimes[0], "fp32") else plain}
    plainly = {name: tilings[name] for name in [*tilings][:1]}
    most = {name: dearer[name] for name in [*dearer][:1]} or plainly
    found = [
        *_joined(most, views, exact, is_reference=True),
        *_joined(tilings, views, used),
        *_joined(plainly, lighter, used),
        *_joined(plainly, views, lower),
        *_joined(cheaper, lighter, used),
        *_joined(cheaper, views, lowest),
        *_joined(cheaper, lighter, lowest),
    ]
    return tuple({one.name: one for one in reversed(found)}[name] for name in dict.fromkeys(one.name for one in found))


def _joined(tilings: Ways, views: Ways, runtimes: Ways, *, is_reference: bool = False) -> list[Choice]:
    """All that can be made of one of each."""
    return [
        Choice(", ".join(filter(None, (a, b, c))), FrozenDict({**tilings[a], **views[b], **runtimes[c]}), is_reference)
        for a in tilings
        for b in views
        for c in runtimes
    ]


def _places(info: VolumeInfo, card: ModelCard, options: RunOptions) -> Any:
    """What tells two grids of patches apart: their size, number and step on each axis."""
    patch, fit = patch_for(info, card, options)[0], options.fit
    grid = TileGrid.of(info.shape_zyx, patch, options.overlap, fit, options.pad, parse_size(options.patch_stride))  # type: ignore[arg-type]
    return tuple((axis.size, axis.count, axis.start(min(1, axis.count - 1))) for axis in grid.axes)


def _wider(card: ModelCard, info: VolumeInfo, patch: Zyx, spread: Zyx | float) -> Ways:
    """A larger window that overlaps by as many voxels as before; nothing where the network or the volume has no room.

    ``spread``: voxels between patches, or their overlap as a fraction.
    """
    if card.fixed_patch:
        return {}
    steps = spread if isinstance(spread, tuple) else [p * (1 - spread) for p in patch]
    sides = zip(patch, card.divisor_zyx, info.shape_zyx, strict=True)
    wanted = [(p, -(-round(WIDER * p) // d) * d if p > 1 else 1, n) for p, d, n in sides]
    wide = [size if size <= n else p for p, size, n in wanted]
    if tuple(wide) == patch:
        return {}
    size = ",".join(map(str, wide))
    stride = ",".join(str(max(1, round(w - p + s))) for w, p, s in zip(wide, patch, steps, strict=True))
    return {f"window {size} with the same margin": {"patch_size": size, "patch_stride": stride}}


def cheapest(rows: Sequence[Row], budget_s: float | None, tolerance: float) -> Row:
    """The fastest that keeps the tolerance; where none of those fits the budget, the most exact one that does.

    Where nothing was compared, the request itself.

    Raises
    ------
    RequestError
        If none of them does.

    Examples
    --------
    >>> rows = [Row(Choice("a"), 100.0, 0.0), Row(Choice("b"), 50.0, 0.0005), Row(Choice("c"), 25.0, 0.01)]
    >>> cheapest(rows, None, 0.001).choice.name, cheapest(rows, 30.0, 0.001).choice.name
    ('b', 'c')
    >>> cheapest(rows, 20.0, 0.001)
    Traceback (most recent call last):
    voxweft.errors.RequestError: --budget 20.0 s: even the fastest choice takes 25.0 s (c)
    Allow more time, or ask for less: --bbox, a coarser --level.
    """
    found = [(row.seconds, row.flips, row) for row in rows]
    known = [(s, f, row) for s, f, row in found if s is not None and f is not None]
    known = known or [(s, 0.0, row) for s, _, row in found if s is not None and row.choice.is_asked]
    if budget_s is None:
        kept = [one for one in known if one[1] <= tolerance]
        if not kept:
            raise RequestError(f"--tolerance {tolerance:g}: none of {len(rows)} choices keeps it")
        return _fastest(kept)
    fitting = [one for one in known if one[0] <= budget_s]
    if not fitting:
        seconds, _, row = min(known, key=lambda one: one[0])
        raise RequestError(
            f"--budget {spell_duration(budget_s)}: even the fastest choice takes {spell_duration(seconds)} "
            f"({row.choice.name})",
            "Allow more time, or ask for less: --bbox, a coarser --level.",
        )
    kept = [one for one in fitting if one[1] <= tolerance]
    return _fastest(kept) if kept else min(fitting, key=lambda one: (one[1], one[0]))[2]


def _fastest(rows: Sequence[tuple[float, float, Row]]) -> Row:
    """The fastest; of those that take about as long the most exact."""
    least = min(seconds for seconds, _, _ in rows)
    return min((one for one in rows if one[0] <= ALIKE * least), key=lambda one: (one[1], one[0]))[2]
