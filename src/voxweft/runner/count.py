"""How many patches of a stage are done, of how many; and what a patch takes by the plan's own measurement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from voxweft.engine.plan import Plan
from voxweft.engine.stage import Stage, Sweep
from voxweft.engine.totals import n_cores


class PatchCount:
    """Patches of a stage as its parts go on.

    Parameters
    ----------
    stage
        What is computed; only a sweep of the whole grid has patches whose number is known.
    done
        Its units that were complete before.
    """

    def __init__(self, stage: Stage, done: Collection[int]) -> None:
        self._stage = stage if isinstance(stage, Sweep) and not stage.stores and not stage.sparse else None
        self._done, self._costs, self._counts = frozenset(done), dict[int, int](), dict[int, int]()
        every = range(stage.n_units)
        self._before = self._stage.cost(every) * len(self._done) // len(every) if self._stage else 0

    def expect(self, part: int, units: range) -> None:
        """A part that is to be computed, or what is left of it since another one has the rest."""
        if self._stage:
            left = [unit for unit in units if unit not in self._done]
            self._costs[part] = sum(self._stage.cost(run) for run in self._stage.runs(left))

    def note(self, part: int, n_patches: int) -> None:
        """So many patches of a part are done."""
        self._counts[part] = n_patches

    def told(self) -> dict[str, int]:
        """For an event: patches done, and of how many; nothing where they are not known."""
        if not self._stage:
            return {}
        now = sum(min(n, self._costs.get(part, n)) for part, n in self._counts.items())
        return {"n_patches_done": self._before + now, "n_patches": self._before + sum(self._costs.values())}


def expected_patch_s(plan: Plan, n_workers: int, n_sharing: int) -> float | None:
    """Seconds between patches with all workers at work, as calibrated with the plan; None where that was not."""
    stages = [stage for stage in plan.stages if isinstance(stage, Sweep) and stage.passes]
    if not stages:
        return None
    one = stages[0].passes[0].setting
    wanted = {n: getattr(one, n) for n in ("runtime", "precision", "batch_size", "n_threads")}
    found = [_seconds(trial) for trial in plan.measured.get("runtimes", ()) if wanted.items() <= trial.items()]
    if not found or not found[0]:
        return None
    lanes = n_workers
    if one.device == "cpu":
        lanes = max(1, n_cores() // one.n_threads) * max(1, n_workers // max(1, n_sharing))
    return found[0] * stages[0].n_forwards / lanes


def _seconds(trial: Mapping[str, Any]) -> float:
    return float(trial.get("patch_s") or 0.0)
