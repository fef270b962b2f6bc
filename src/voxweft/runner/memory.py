"""What a run does when a device runs out of memory."""

from __future__ import annotations

from voxweft.engine.ledger import Ledger
from voxweft.engine.smaller import smaller
from voxweft.errors import RunError
from voxweft.runner.opening import Opened
from voxweft.runner.parts import Outcome


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def with_less(opened: Opened, outcome: Outcome, ledger: Ledger) -> tuple[Opened, str] | None:
    """A plan that needs less, where parts failed for want of memory and nothing is complete yet; and a note of it.

    Where something is complete the plan stays, since another one would give other bits.
    """
    plan = opened.plan
    if not any(map(is_out_of_memory, outcome.failures.values())) or any(ledger.done(s.name) for s in plan.stages):
        return None
    found = smaller(plan)
    if found is None:
        return None
    opened.predictors.clear()
    _free()
    return opened.with_plan(found[0]), found[1]


def explained(outcome: Outcome) -> Outcome:
    """The outcome with errors that say what to do where memory was short."""
    advice = "Give a smaller --batch-size or --memory, with --overwrite, since another batch gives other bits."
    failures = {
        name: RunError(f"the device ran out of memory: {str(error).splitlines()[0][:120]}", advice)
        if is_out_of_memory(error)
        else error
        for name, error in outcome.failures.items()
    }
    return Outcome(outcome.records, failures)


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
