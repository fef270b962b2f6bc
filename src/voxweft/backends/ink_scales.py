"""How the configurations of villa's ``ink_detection`` scale grey values, in the words of a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxweft.errors import ModelError
from voxweft.model.card import Normalization

OTHER_NAMES = {
    "robust": "robust_mad", "mad": "robust_mad", "divide_255": "divide", "identity": "none", "min_max": "minmax",
    "percentile_min_max": "percentile_minmax", "clipped_minmax": "percentile_minmax",
    "clipped_min_max": "percentile_minmax",
}  # fmt: skip
USUAL = {
    "mode": "robust_mad", "divisor": 255.0, "percentile_lower": 1.0, "percentile_upper": 99.0, "clip_min": 0.0,
    "clip_max": 200.0,
}  # fmt: skip


def scale_of(config: Mapping[str, Any], path: Path, otherwise: Mapping[str, Any]) -> Normalization:
    """The scheme of ``image_normalization``; ``otherwise`` where the configuration has none.

    Raises
    ------
    ModelError
        If it is of a kind that cards do not know, or lacks a number.
    """
    said = config.get("image_normalization") or otherwise
    settings = {**USUAL, **({"mode": said} if isinstance(said, str) else dict(said))}
    mode = str(settings["mode"]).strip().lower()
    mode = OTHER_NAMES.get(mode, mode)
    try:
        return _scheme(mode, settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} scales grey values by {mode!r} with {settings}; that cannot be computed") from error


def _scheme(mode: str, settings: Mapping[str, Any]) -> Normalization:
    percentiles = float(settings["percentile_lower"]), float(settings["percentile_upper"])
    divided = {"mean": 0.0, "std": float(settings["divisor"])}
    clipped = {"lower": float(settings["clip_min"]), "upper": float(settings["clip_max"])}
    match mode:
        case "divide":
            scheme, numbers = "global_zscore", divided
        case "clip_divide":
            scheme, numbers = "ct", {**divided, **clipped}
        case "clip_zscore":
            scheme, numbers = "ct", {"mean": float(settings["mean"]), "std": float(settings["std"]), **clipped}
        case "robust_mad":
            scheme, numbers = "robust_mad", {"lower": percentiles[0], "upper": percentiles[1]}
        case "none":
            scheme, numbers = "none", {}
        case "minmax":
            scheme, numbers = "instance_minmax", {}
        case "percentile_minmax" if percentiles == (1.0, 99.0):
            scheme, numbers = "percentile_minmax", {}
        case _:
            raise ValueError(mode)
    return Normalization(scheme, **numbers)


def scale_in_words(scheme: Normalization) -> str:
    """What happens to a grey value.

    >>> scale_in_words(Normalization("ct", mean=0.0, std=200.0, lower=0.0, upper=200.0))
    'clipped to 0 .. 200, divided by 200'
    >>> scale_in_words(Normalization("global_zscore", mean=0.0, std=255.0))
    'not clipped, divided by 255'
    """
    mean = f"less {scheme.mean:g}, " if scheme.mean else ""
    match scheme.scheme:
        case "ct":
            return f"clipped to {scheme.lower:g} .. {scheme.upper:g}, {mean}divided by {scheme.std:g}"
        case "global_zscore":
            return f"not clipped, {mean}divided by {scheme.std:g}"
        case "robust_mad":
            lower, upper = scheme.percentiles
            return (
                f"clipped to percentiles {lower:g} and {upper:g} of the patch, less its median, divided by 1.4826 times"
                " the median distance from it"
            )
    return scheme.scheme
