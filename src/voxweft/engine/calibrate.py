"""How a network is run: candidates are timed, and judged by what they would change.

    exact       other runtimes, more cores a pass, batches     held against plain torch: same answers but for rounding
    reduced     bf16, int8; tf32, fp16 on an accelerator       held against the best exact one: few voxels change

A candidate is tried only where the job is long enough to pay for it; what was measured before is known
(:mod:`voxweft.built`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from voxweft.engine.bench import EXACT, FEW_ROUNDS, ROUNDS, Bench
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.options import RunOptions
from voxweft.engine.samples import JUDGED, Samples
from voxweft.engine.totals import lanes_for, n_cores
from voxweft.errors import ModelError, VoxweftError, first_line
from voxweft.model.head import FIELDS
from voxweft.model.protocols import ForwardSetting, Model, Predictor, precisions_of
from voxweft.ops.flips import Agreement
from voxweft.processor import lacks

AGREE = 1e-3  # largest difference in probability between exact runtimes
DICE = 0.99  # of every class, of int8 with fp32
INT8_FROM = 0.002  # tolerance above which int8 is considered
WORTH_S = {"torch": 10.0, "jit": 2.0, "openvino": 20.0, "onnx": 8.0, "graph": 20.0, "compile": 600.0}
"""Seconds that the job must take before a runtime that nothing is known of is opened and tried."""
WORTH_OTHERWISE_S = {"int8": 90.0, "bf16": 4.0, "tf32": 4.0, "fp16": 4.0}  # of a precision
OPENING_S = {"jit": 0.5, "openvino": 0.5, "onnx": 0.5, "graph": 2.0, "compile": 60.0}
"""What it costs to open a runtime once more; plain torch costs nothing."""
MANY_PATCHES = 160  # of a job: what was asked for by name is judged, to tell of it
LONG_S = 20.0  # of a job: exact candidates are judged on all samples, too
FRESH_S = 120.0  # of a job: speeds are measured anew
GAIN = 0.97  # of the time of the best; less is noise
CLOSE = 0.7  # a race of two that is run again
BATCHES = (1, 2, 4, 8, 16, 32)  # on an accelerator
REDUCED = ("tf32", "fp16", "bf16", "int8")
ABLE = {"int8": ("openvino",), "bf16": ("torch", "openvino", "graph", "compile")}  # on CPUs


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided.

    Attributes
    ----------
    model, samples, options, device
        Which network, on what, as asked for, where.
    n_patches
        Forward passes of the whole job, views counted.
    n_views, n_workers
        Of each patch; processes that share the cores of this machine.
    alone
        Whether one network works on one volume: only then a pass may have several cores, and int8 may be taken.
    emit
        Told of each candidate that is opened and timed.
    quick
        For a plan that is only looked at: what was measured before is believed, and the rest is measured in few rounds.
    """

    model: Model
    samples: Samples
    options: RunOptions
    device: str
    n_patches: int
    n_views: int = 1
    n_workers: int = 1
    alone: bool = True
    emit: Emit = silent
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate.

    Attributes
    ----------
    runtime, precision, batch_size, n_threads, channels_last
        What was tried; see :class:`~voxweft.model.protocols.ForwardSetting`.
    patch_s
        Seconds of a patch in one lane while all lanes work; None where it was not measured.
    agreement
        With fp32; None where it was not judged.
    remark
        Why it was not taken, or "".
    """

    runtime: str
    precision: str
    batch_size: int
    n_threads: int = 1
    channels_last: bool = False
    patch_s: float | None = None
    agreement: Agreement | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided.

    Attributes
    ----------
    setting, predictor
        How it is run; made ready.
    network
        What was made for it, or b"".
    trials
        All candidates, as JSON values.
    told
        The agreement of a reduced precision with fp32, as JSON values, where it was judged.
    """

    setting: ForwardSetting
    predictor: Predictor
    network: bytes
    trials: list[dict[str, Any]]
    told: dict[str, Any] | None = None


def choose_setting(question: Question) -> Choice:
    """The fastest way to run a network that keeps the promise.

    Exact runtimes agree with plain torch within 1e-3 in probability. With ``--precision auto`` a reduced precision is
    taken where it changes at most the share ``--tolerance`` of final labels, on 8 patches spread over the volume.
    Nothing is compared where the user left no choice, or where the job is shorter than the comparison.

    Raises
    ------
    ModelError
        If what is asked for by name is not to be had here, or int8 changes a class too much.
    """
    import torch

    with torch.inference_mode():
        return _Contest(question).decide()


class _Contest:
    """The best candidate so far, and the best exact one."""

    def __init__(self, question: Question) -> None:
        self._q, options, card = question, question.options, question.model.card
        self._bench = Bench(
            question.model, question.samples, options.threshold, FEW_ROUNDS if question.quick else ROUNDS
        )
        self._kind = question.device.partition(":")[0]
        self._offered = question.model.runtimes(self._kind)
        if options.runtime != "auto" and options.runtime not in self._offered:
            raise ModelError(
                f"--runtime {options.runtime} cannot run this {card.format} model on {self._kind}; "
                f"offered here: {', '.join(self._offered)}"
            )
        self._asked = self._asked_precision()
        self._runtimes = self._able(self._asked)
        if self._kind == "cpu" and self._asked not in EXACT and "openvino" in self._runtimes:
            self._runtimes = ("openvino",)  # torch gains nothing by it on CPUs
        self._batches = self._allowed_batches()
        lanes, patch = lanes_for(question.device), question.samples.patch_zyx
        first = ForwardSetting(
            self._runtimes[0], question.device, self._asked, self._batches[0], patch, lanes, options.compile_mode
        )
        self._plain = first if self._asked != "int8" else self._bench.quantized(first)
        self._exact = self._best = self._plain
        self._trials: dict[ForwardSetting, Trial] = {}
        self._refused: set[ForwardSetting] = set()

    def decide(self) -> Choice:
        """The best candidate that can be opened."""
        import torch

        while True:
            self._best = self._exact = self._plain
            with suppress(torch.OutOfMemoryError):  # of the plainest itself; the run halves it then
                self._find()
            self._tell(self._best)
            try:
                predictor = self._bench.open(self._best)
                break
            except (VoxweftError, RuntimeError) as error:
                if self._best == self._plain:
                    raise
                self._note(self._best, remark=first_line(error))
                self._refused.add(self._best)
        if self._asked not in EXACT:
            self._note(self._best, agreement=self._judged_best())
        self._note(self._best)
        trials, found = [asdict(trial) for trial in self._trials.values()], self._trials[self._best].agreement
        told = asdict(found) if found and self._best.precision != "fp32" else None
        return Choice(self._best, predictor, self._bench.network(self._best), trials, told)

    def _find(self) -> None:
        """Exact candidates first; then reduced precisions; then how the best one shares the cores."""
        known = {r: self._bench.speed(replace(self._plain, runtime=r)) for r in self._runtimes[1:]}
        for runtime in sorted(known, key=lambda r: known[r] or math.inf):
            self._try(replace(self._plain, runtime=runtime))
        for precision in self._allowed_precisions():
            runtime = "openvino" if self._kind == "cpu" else self._exact.runtime
            self._try(replace(self._exact, runtime=runtime, precision=precision))
        for n in sorted({min(4, n_cores()), n_cores()} - {1}) if self._kind == "cpu" and self._shares_nothing else ():
            self._try(replace(self._best, n_threads=n, n_lanes=max(1, n_cores() // n)))
        if self._kind != "cpu":
            self._try(replace(self._best, channels_last=True))
        for batch in self._batches[1:]:
            self._try(replace(self._best, batch_size=batch))

    # what is allowed

    @property
    def _shares_nothing(self) -> bool:
        return self._q.alone and self._q.n_workers == 1

    def _asked_precision(self) -> str:
        """That of the plainest candidate."""
        asked, offered = self._q.options.precision, self._offered_precisions()
        if asked == "auto" or asked in offered:
            return "fp32" if asked == "auto" else asked
        why = lacks(asked) if self._kind == "cpu" else ""
        if asked == "int8" and not self._q.alone:
            why = "it is made for one network on one volume"
        elif asked == "int8" and self._kind == "cpu" and "openvino" in self._offered:
            why = why or "it needs the extra 'int8', see voxweft doctor"
        why = why or "this model cannot be run in it here"
        raise ModelError(f"--precision {asked}: {why}; offered here: auto, {', '.join(offered)}")

    def _offered_precisions(self) -> tuple[str, ...]:
        found = precisions_of(self._q.model, self._kind)
        return found if self._q.alone else tuple(one for one in found if one != "int8")

    def _able(self, precision: str) -> tuple[str, ...]:
        """Runtimes for a precision, of those that are allowed; the plainest first."""
        asked, able = self._q.options.runtime, ABLE if self._kind == "cpu" else {}
        found = tuple(r for r in self._offered if asked in ("auto", r) and r in able.get(precision, self._offered))
        if not found:
            raise ModelError(f"--precision {precision} is not offered for --runtime {asked}; use --runtime auto")
        return found

    def _allowed_batches(self) -> tuple[int, ...]:
        """Batch sizes, the plainest first; on an accelerator all views of a patch fit in one."""
        options, fixed = self._q.options, self._q.model.card.batch_size
        if fixed or options.batch_size or self._kind == "cpu":
            return (fixed,) if fixed else options.batches(self._kind)
        views = self._q.n_views
        return tuple(dict.fromkeys((1, *(n * views for n in BATCHES if n == 1 or n * views <= BATCHES[-1]))))

    def _allowed_precisions(self) -> Iterator[str]:
        """Reduced ones that may be taken without being asked for, where labels tell all that they change."""
        options, card = self._q.options, self._q.model.card
        by_labels = not any(head.activation in FIELDS for head in card.heads)
        if options.tolerance <= 0 or not by_labels or options.output in ("logits", "patches"):
            return
        wanted = {"auto": REDUCED, "fp32": ("tf32",)}.get(options.precision, ())
        if self._kind == "cpu" and "openvino" not in self._runtimes:  # torch gains nothing by it on CPUs
            return
        for precision in self._offered_precisions():
            if precision in wanted and (precision != "int8" or options.tolerance > INT8_FROM):
                yield precision

    # what it costs

    def _job_s(self, setting: ForwardSetting, patch_s: float) -> float:
        return patch_s * self._q.n_patches / setting.n_lanes

    def _best_s(self) -> float:
        """Of the whole job, by the best candidate; it is measured where nothing is known."""
        patch_s = self._bench.speed(self._best) or self._bench.measure(self._best, self._q.n_patches)
        self._note(self._best)
        return self._job_s(self._best, patch_s)

    def _tell(self, setting: ForwardSetting) -> None:
        words = [setting.runtime, setting.precision, f"batch {setting.batch_size}" if setting.batch_size > 1 else ""]
        self._q.emit(Event("phase", f"opening and timing the network: {' '.join(filter(None, words))}"))

    def _measures_anew(self, best_s: float) -> bool:
        return best_s > FRESH_S and not self._q.quick

    def _worth_s(self, setting: ForwardSetting) -> float:
        runtime_s = WORTH_S.get(setting.runtime, LONG_S) if setting.runtime != self._best.runtime else 0.0
        return max(runtime_s, WORTH_OTHERWISE_S.get(setting.precision, WORTH_S["torch"]))

    def _note(self, setting: ForwardSetting, **found: Any) -> None:
        s = setting
        trial = self._trials.get(s) or Trial(s.runtime, s.precision, s.batch_size, s.n_threads, s.channels_last)
        self._trials[s] = replace(trial, patch_s=self._bench.speed(s), **found)

    # candidates

    def _try(self, setting: ForwardSetting) -> None:
        """Take a candidate, if it is faster than the best and agrees."""
        if setting == self._best or setting in self._refused or self._q.n_patches < 2:
            return
        best_s, known = self._best_s(), self._bench.speed(setting)
        if self._measures_anew(best_s) and setting not in self._trials:
            known = None
        if known is None and best_s < self._worth_s(setting):
            return
        opening_s = OPENING_S.get(setting.runtime, 0.0) if setting.runtime != self._best.runtime else 0.0
        if known is not None and self._job_s(setting, known) + opening_s > GAIN * best_s:
            self._note(setting)
            return
        self._tell(setting)
        try:
            if setting.precision == "int8" and not setting.network:
                setting = self._bench.quantized(setting)
            if setting in self._refused:
                return
            self._judge(setting, best_s, opening_s)
        except (VoxweftError, RuntimeError) as error:  # out of memory, or an operator that a runtime lacks
            self._note(setting, remark=first_line(error))
        self._bench.close_all_but(self._plain, self._exact, self._best)

    def _judge(self, setting: ForwardSetting, best_s: float, opening_s: float) -> None:
        exact, measured = setting.precision in ("fp32", self._asked), self._bench.speed(setting)
        if measured is None or self._measures_anew(best_s):
            measured = self._bench.measure(setting, self._q.n_patches)
            close = CLOSE * best_s < self._job_s(setting, measured) < best_s / CLOSE
            if close and not self._q.quick:  # the machine's mood may have changed
                best_s = self._job_s(self._best, self._bench.measure(self._best, self._q.n_patches))
                measured = self._bench.measure(setting, self._q.n_patches)
        job_s = self._job_s(setting, measured)
        judging_s = 0.0 if exact else JUDGED * (best_s + job_s) / self._q.n_patches
        if job_s + judging_s > GAIN * best_s:
            self._note(setting)
            return
        several = not exact or best_s > LONG_S
        patches = self._q.samples.judged if several else [self._q.samples.first]
        found = self._bench.agreement(setting, self._plain if exact else self._exact, patches)
        remark = _too_far(found) if exact else _too_many(found, setting.precision, self._q.options.tolerance)
        self._note(setting, agreement=found, remark=remark)
        if not remark:
            self._best, self._exact = setting, setting if exact else self._exact

    def _judged_best(self) -> Agreement | None:
        """What was asked for by name against fp32, where judging is little of the work; of int8 always.

        Raises
        ------
        ModelError
            If int8 changes a class too much.
        """
        if self._asked != "int8" and self._q.n_patches < MANY_PATCHES:
            return None
        exact = replace(self._plain, precision="fp32", runtime=self._offered[0], network="")
        found = self._bench.agreement(self._best, exact, self._q.samples.judged)
        if self._asked == "int8" and self._q.options.tolerance < 1 and (refused := _too_many(found, "int8", 1.0)):
            advice = "Use --precision bf16 or auto, or --tolerance 1 to take it all the same."
            raise ModelError(f"--precision int8: {refused}.", advice)
        return found


def _too_far(found: Agreement) -> str:
    """Why an exact candidate is not taken; "" where it is."""
    far = found.largest > AGREE
    return f"differs by {found.largest:.1e} in probability, more than {AGREE:.0e}" if far else ""


def _too_many(found: Agreement, precision: str, tolerance: float) -> str:
    """Why a reduced precision is not taken; "" where it is."""
    if found.flips > tolerance:
        return f"{found.flips:.3%} of voxels change their label, more than {tolerance:.3%}"
    if precision == "int8" and found.dice and min(found.dice) < DICE:
        worst = min(range(len(found.dice)), key=found.dice.__getitem__)
        return f"Dice of class {worst + 1} with fp32 is {found.dice[worst]:.4f}, below {DICE}"
    return ""
