"""Sample regions of a volume, run for real with every choice and held against the dearest.

reference   region 1   region 2   ...       the same boxes of the same volume, on the grid of the whole volume
choice a    region 1   region 2   ...  ->   flips, mean difference, Dice; seconds of a patch
choice b    region 1              ...       one that is dearer than the reference has fewer of them
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from voxweft.engine.choices import Choice, Row, choices_for
from voxweft.engine.events import Emit, Event
from voxweft.engine.fields import spell_duration
from voxweft.engine.options import RunOptions
from voxweft.engine.part import Part
from voxweft.engine.plan import MASK, VOLUME
from voxweft.engine.planning import Findings, Schemes, patch_for, plan_sweep
from voxweft.engine.stage import Sweep
from voxweft.engine.totals import Totals, lanes_for
from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.geometry.box import Box
from voxweft.geometry.sampling import sample_boxes
from voxweft.image.protocols import Volume
from voxweft.model.head import FIELDS
from voxweft.model.protocols import ForwardSetting, Model, precisions_of
from voxweft.ops.activate import VALUES, Finish
from voxweft.ops.flips import compared
from voxweft.runner.devices import budget_for, devices_of
from voxweft.runner.emptiness import is_constant
from voxweft.runner.forecast import Cost, extent_of
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place
from voxweft.stores import in_memory

SAMPLE_S, SAMPLE_SHARE = 30.0, 0.02  # what sampling may take: seconds, or this share of the job
LOOK_SHARE = 0.1  # of it, for finding regions that hold anything
N_REGIONS = 64  # that are looked at
MOST_REGIONS = 24  # that are run
MOST_BYTES = 1 << 30  # of answers that are held
NETWORK_BYTES = 1024  # of activations a voxel of a patch, for which there must be room in a larger window
AS_STORED: dict[str, Any] = {"chunk": "64,64,64", "compressor": "none", "pyramid": False}  # answers, in memory


@dataclass(frozen=True, slots=True)
class Comparison:
    """Choices held against each other.

    Attributes
    ----------
    rows, settings
        The choices, and by their names how each network is run.
    n_regions, n_voxels
        That were run and compared; regions where the image is constant are not, and count as equal.
    elapsed_s
        Seconds that it took.
    """

    rows: tuple[Row, ...]
    settings: Mapping[str, tuple[ForwardSetting, ...]]
    n_regions: int
    n_voxels: int
    elapsed_s: float

    def to_dict(self, chosen: Row) -> dict[str, Any]:
        """Plain JSON values, for a plan."""
        return {
            "rows": [row.to_dict(chosen) for row in self.rows],
            "chosen": dict(chosen.choice.options),
            "n_regions": self.n_regions,
            "n_voxels": self.n_voxels,
            "elapsed_s": round(self.elapsed_s, 2),
        }


@dataclass(slots=True)
class Trial:
    """A choice, and what its samples gave."""

    choice: Choice
    options: RunOptions
    settings: tuple[ForwardSetting, ...]
    stage: Sweep
    patch_s: dict[Box, float] = field(default_factory=dict)
    answers: dict[Box, NDArray[np.float32]] = field(default_factory=dict)
    spent_s: float = 0.0
    remark: str = ""


class Sampling:
    """Runs regions of a volume with every choice."""

    def __init__(self, opened: Opened, options: RunOptions, cost: Cost, n_workers: int) -> None:
        self._opened, self._options, self._cost = opened, options, cost
        self._volume, self._device = opened.volume(VOLUME), devices_of(options.device)[0]
        stage = opened.plan.sweep
        firsts = [next(p for p in stage.passes if p.model == n) for n in range(len(opened.plan.models))]
        self._schemes: tuple[Schemes, ...] = tuple(one.normalization for one in firsts)
        self._settings = tuple(one.setting for one in firsts)
        self._budget = budget_for(options, self._device, n_workers)
        self.trials: list[Trial] = []
        self._finish = stage.finish.own if stage.finish.channels else stage.finish
        finish = self._finish
        self._exclusive = finish.mode != "binary" and finish.activation != "sigmoid" and not finish.targets
        if self._finish.output in VALUES or self._finish.activation in FIELDS:
            raise RequestError(f"{opened.plan.models[0].card.path} gives no classes, whose labels could be compared")

    def compare(self, begun: float, emit: Emit, patient: bool = False) -> Comparison:
        """All choices in as many regions as there is time for; no longer than the job, unless ``patient``."""
        self.trials, rows = self._trials()
        trials = self.trials
        asked, reference = (next(t for t in trials if getattr(t.choice, k)) for k in ("is_asked", "is_reference"))
        stage, cost = asked.stage, self._cost
        n_patches, n_voxels = self._extent(stage)
        job_s = cost.job_s(n_patches, n_voxels)
        limit = max(SAMPLE_S, SAMPLE_SHARE * job_s)
        enough = limit if patient else max(min(SAMPLE_S, job_s), SAMPLE_SHARE * job_s)
        emit(Event("note", f"{len(trials)} choices are compared in sample regions, in up to {spell_duration(limit)}"))
        look_s = time.perf_counter() + LOOK_SHARE * enough
        boxes, share = self._regions(reference.stage, look_s)
        longest = 0.0
        for n, box in enumerate(boxes[:MOST_REGIONS]):
            before = sum(one.spent_s for one in trials)
            if n and (time.perf_counter() + longest > begun + enough or _held_bytes(trials) > MOST_BYTES):
                break
            self._run(box, trials, float("inf") if n else begun + limit)
            if reference.remark:
                break
            longest = max(longest, sum(one.spent_s for one in trials) - before)
        rows |= {one.choice.name: self._row(one, (asked, reference), share) for one in trials}
        return Comparison(
            tuple(rows.values()),
            {one.choice.name: one.settings for one in trials},
            len(reference.answers),
            sum(box.n_voxels for box in reference.answers),
            time.perf_counter() - begun,
        )

    def _trials(self) -> tuple[list[Trial], dict[str, Row]]:
        """The choices, the reference and the request first; and a row for each, of which some cannot be tried."""
        plan, kind = self._opened.plan, self._device.partition(":")[0]
        ref, info = plan.models[0], self._volume.info
        runtimes = self._opened.model(0).runtimes(kind)
        lower = lower_precisions(self._opened.model(0), kind)
        found = choices_for(self._options, ref.card, info, self._settings[0], runtimes, lower)
        trials, rows = list[Trial](), dict[str, Row]()
        for choice in found:
            rows[choice.name] = Row(choice)
            options = replace(self._options, **choice.options)
            try:
                settings = tuple(self._setting(choice, n, options) for n in range(len(plan.models)))
                findings = Findings(normalization=self._schemes, settings=settings, budget=self._budget)
                stage = plan_sweep(info, plan.models, options, findings).sweep
            except VoxweftError as error:
                rows[choice.name] = Row(choice, remark=first_line(error))
                continue
            trials.append(Trial(choice, options, settings, stage))
        return trials, rows

    def _setting(self, choice: Choice, model: int, options: RunOptions) -> ForwardSetting:
        one, card = self._settings[model], self._opened.plan.models[model].card
        runtime, precision = (choice.options.get(name, getattr(one, name)) for name in ("runtime", "precision"))
        patch = patch_for(self._volume.info, card, options)[0]
        if runtime in ("compile", "graph") and (precision, patch) != (one.precision, one.patch_zyx):
            raise RequestError("it would have to be compiled anew, which takes minutes")
        if precision == "int8" and patch != one.patch_zyx:
            raise RequestError("its int8 network was made for another window")
        if (runtime, precision) != (one.runtime, one.precision):
            one = replace(one, runtime=runtime, precision=precision, network="")
            one = replace(one, n_threads=1, channels_last=False) if choice.is_reference else one
        if patch == one.patch_zyx:
            return one
        n_bytes = NETWORK_BYTES * int(np.prod(patch)) * one.batch_size * lanes_for(self._device)
        if self._device == "cpu" and n_bytes > psutil.virtual_memory().available // 2:
            raise RequestError(f"a window of {patch} may need {n_bytes / 1e9:.0f} GB")
        return replace(one, patch_zyx=patch, network="")

    def _extent(self, stage: Sweep) -> tuple[int, int]:
        """Patches that a stage computes, and voxels that it writes."""
        _, n_patches, _, n_voxels, _ = extent_of(self._opened, stage)
        return n_patches, n_voxels

    def _regions(self, stage: Sweep, until: float) -> tuple[list[Box], float]:
        """Regions that hold anything, and the share of voxels that lie in such."""
        held, n_held, n_all = list[Box](), 0, 0
        for box in sample_boxes(stage.grid, stage.region, N_REGIONS):
            if held and time.perf_counter() > until:
                break
            n_all += box.n_voxels
            if not stage.skip_empty or not is_constant(self._volume.read(box)):
                held.append(box)
                n_held += box.n_voxels
        return held, n_held / max(1, n_all)

    def _run(self, box: Box, trials: Sequence[Trial], end: float) -> None:
        """Run a region with every choice, but for those that have had more time than the reference.

        Those for which there is no time in the first region, or that fail, are left out from now on.
        """
        most_s = max(one.spent_s for one in trials if one.choice.is_reference or one.choice.is_asked)
        live = [one for one in trials if not one.remark and one.spent_s <= most_s]
        seen = _Held(self._volume, _around([one.stage.reach(box) for one in live]))
        for one in live:
            if time.perf_counter() + one.stage.n_tiles(box) * self._cost.patch_s > end:
                one.remark = "no time was left for it"
            else:
                self._sample(one, box, seen)
            if one.remark and one.choice.is_reference:
                return

    def _sample(self, one: Trial, box: Box, seen: Volume) -> None:
        options = replace(one.options, bbox=str(box), output="logits", sparse=False, **AS_STORED)
        found = Findings(normalization=self._schemes, settings=one.settings)
        plan = plan_sweep(seen.info, self._opened.plan.models, options, found)
        place = Place.of(in_memory(), beside={o.name: in_memory() for o in plan.sweep.outputs if o.name})
        volumes = {VOLUME: seen} | ({MASK: self._opened.volume(MASK)} if options.mask else {})
        part = Part(plan.sweep.name, 0, 1, range(plan.sweep.n_units))
        try:
            place.create(plan, None)
            lanes = (self._device, lanes_for(self._device))
            trial = self._opened.with_plan(plan, volumes)
            trial.stage(plan.sweep, place, *lanes)  # networks that are not open yet
            begun = time.perf_counter()
            totals = Totals(**compute_part(trial, plan.sweep, part, place, lanes).totals)
        except (VoxweftError, RuntimeError) as error:  # RuntimeError: out of memory, or an operator is missing
            one.remark = first_line(error)
            return
        busy_s = sum(totals.seconds.get(k, 0.0) for k in ("gather", "wait for network", "weave"))
        one.patch_s[box] = busy_s / max(1, totals.n_patches)
        one.answers[box] = probabilities(place.sink_of(plan.sweep.outputs[0]).read(box), self._finish)
        one.spent_s += time.perf_counter() - begun

    def _row(self, one: Trial, against: tuple[Trial, Trial], share: float) -> Row:
        """``against``: the request and the reference; ``share``: of voxels that hold anything."""
        asked, reference = against
        n_patches, n_voxels = self._extent(one.stage)
        seconds = self._cost.job_s(n_patches * self._ratio(one, asked), n_voxels)
        if one.remark or not one.answers:
            remark = one.remark or "no time was left for it"
            return Row(one.choice, seconds if one is asked else None, remark=remark)
        agreement = compared(
            ((reference.answers[box], answer) for box, answer in one.answers.items()),
            exclusive=self._exclusive,
            threshold=self._finish.threshold,
        )
        flips, mean = agreement.flips * share, agreement.mean * share
        return Row(one.choice, seconds, flips, mean, agreement.dice, agreement.n_voxels)

    def _ratio(self, one: Trial, asked: Trial) -> float:
        """Seconds of a patch / those of the request: the median of all regions."""
        if one.settings == asked.settings and one.options.tta == asked.options.tta:
            return 1.0
        ratios = [mine / asked.patch_s[box] for box, mine in one.patch_s.items() if asked.patch_s[box]]
        return statistics.median_low(ratios) if ratios else 1.0


class _Held:
    """A volume of which one box lies in memory."""

    def __init__(self, volume: Volume, box: Box) -> None:
        self._volume, self._box, self._voxels, self.info = volume, box, volume.read(box), volume.info

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        if box not in self._box:
            return self._volume.read(box)
        return self._voxels[(slice(None), *box.shift(self._box.start, -1).slices)].copy()


def lower_precisions(model: Model, kind: str) -> tuple[str, ...]:
    """Those below fp32 that a network can be run in here without being changed for it."""
    return tuple(one for one in precisions_of(model, kind) if one not in ("fp32", "int8"))


def probabilities(logits: NDArray[np.float32], finish: Finish) -> NDArray[np.float32]:
    """What labels and masks are made of, [C, Z, Y, X]: of each class, of each task, or of the one foreground."""
    import torch

    def of(values: NDArray[np.float32], **changes: Any) -> NDArray[np.float32]:
        exact = replace(finish, output="probability32", whole=True, pass_weights=(), **changes)
        return np.asarray(exact(torch.from_numpy(values)), np.float32)

    if finish.targets:
        spans = [(a, b, "binary" if b - a < 3 else "multiclass") for a, b in finish.targets]
        return np.concatenate(
            [of(logits[a:b], targets=(), n_classes=b - a, mode=mode)[min(1, b - a - 1)][None] for a, b, mode in spans]
        )
    return of(logits)[-1:] if finish.mode == "binary" else of(logits)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of them."""
    z, y, x = (min(side) for side in zip(*(box.start for box in boxes), strict=True))
    z1, y1, x1 = (max(side) for side in zip(*(box.stop for box in boxes), strict=True))
    return Box((z, y, x), (z1, y1, x1))


def _held_bytes(trials: Sequence[Trial]) -> int:
    return sum(answer.nbytes for one in trials for answer in one.answers.values())
