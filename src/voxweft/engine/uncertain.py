"""How sure a result is: a second output of the same sweep.

    entropy     of the blended probabilities, 0 to 1                     stored as round(255 x)
    variance    over passes that are blended apart: views, folds,        stored as its square root, the standard
                models; of the class where it is largest                 deviation s, 0 to 0.5: round(510 s)

A variance in 8 bits would be 0 wherever answers differ by less than 0.03; a standard deviation is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxweft.engine.passes import Pass
from voxweft.errors import RequestError
from voxweft.model.card import ModelCard
from voxweft.ops.activate import Finish

UNCERTAINTY = "uncertainty"  # name of the output
MEASURES = {"entropy": "entropy8", "variance": "deviation8"}
"""Output of the finish by the word for what is measured."""


def require_one_result(card: ModelCard, output: str) -> None:
    """Refuse an uncertainty of what is not one answer in classes.

    Raises
    ------
    RequestError
        Saying what to do.
    """
    if output == "patches":
        raise RequestError("--uncertainty is that of blended patches; it cannot be had where they are kept apart")
    if card.separate or card.targets or len(card.heads) > 1:
        named = [head.name for head in card.heads] or [f"channels {a} to {b - 1}" for a, b in card.targets]
        raise RequestError(
            f"{card.path} has the targets {', '.join(named)}; --uncertainty is that of one result.",
            "Leave it out, or choose one by --targets where the model allows it.",
        )


def require_several(passes: Sequence[Pass]) -> None:
    """Refuse a variance of one pass.

    Raises
    ------
    RequestError
        Saying what to do.
    """
    if len(passes) < 2:
        raise RequestError(
            "--uncertainty variance compares several answers, and there is only one: one model, one fold, one view.",
            "Give --tta mirroring or rotation (the model must allow it), a model of several folds, or several models; "
            "or --uncertainty entropy.",
        )


def told_of_uncertainty(finish: Finish, passes: Sequence[Pass]) -> dict[str, Any]:
    """What the array says of itself."""
    told: dict[str, Any]
    if finish.output == MEASURES["entropy"]:
        exclusive = finish.activation == "softmax"
        n = finish.n_classes if exclusive else 2
        told = {
            "measure": "entropy",
            "of": "the blended probabilities" if exclusive else "the blended probability, mean over classes",
            "formula": f"-sum p log p / log {n}",
            "scale": 1 / 255,
            "largest": 1.0,
        }
    else:
        n_models, n = len({one.model for one in passes}), len(passes)
        told = {
            "measure": "standard deviation",
            "of": "the blended probability over passes, of the class where it is largest",
            "formula": "variance = (value x scale)^2",
            "scale": 1 / 510,
            "largest": 0.5,
            "n_passes": n,
            "n_models": n_models,
        }
    return {**told, "zero": "certain, or nothing was computed there"}
