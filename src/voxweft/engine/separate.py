"""Networks whose heads are outputs of their own: what becomes of each, and what its array says of itself.

    heads      (surface, 2 channels, softmax)   (surface_normals, 3, normals)   (distance, 1, raw)
    blended    [0:2]                            [2:5]                           [5:6]
    OUTPUT     out.zarr, as for any network     out_surface_normals.zarr        out_distance.zarr

The first head with classes is OUTPUT itself, or the first of all where none has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voxweft.model.head import FIELDS, Head, channel_ranges
from voxweft.ops.activate import DEFAULT_THRESHOLD, UNIT, Finish

NORMALS = {"int8": "normals", "float16": "normals16"}  # output of the finish by the word for what is stored
AVERAGED = ("probability", "probability16", "logits", "raw", "entropy8", "deviation8")
WHOLE = ("patches", "merged")  # outputs that hold all heads at once


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of all heads, in the words of the options."""

    mode: str = "auto"
    output: str = "probability"
    threshold: float = DEFAULT_THRESHOLD
    normals: str = "int8"


def finishes_of(heads: Sequence[Head], wanted: Wanted) -> list[tuple[Head, Finish]]:
    """The heads, that of the main output first, with what becomes of each.

    Raises
    ------
    RequestError
        If what is asked for has no meaning for a head.

    Examples
    --------
    >>> heads = (Head("normals", 3, "normals"), Head("ink", 1, "sigmoid"))
    >>> [(head.name, finish.channels, finish.dtype) for head, finish in finishes_of(heads, Wanted())]
    [('ink', (3, 4), 'uint8'), ('normals', (0, 3), 'int8')]
    """
    pairs = list(zip(heads, channel_ranges(tuple(heads)), strict=True))
    n_classes = pairs[-1][1][1]
    main = next((pair for pair in pairs if pair[0].activation not in FIELDS), pairs[0])
    ordered = [main, *(pair for pair in pairs if pair is not main)]
    return [(head, _finish(head, span, n_classes, wanted)) for head, span in ordered]


def _finish(head: Head, span: tuple[int, int], n_classes: int, wanted: Wanted) -> Finish:
    mode, output = _mode(head, wanted.mode), wanted.output
    if head.activation in FIELDS:
        output = NORMALS[wanted.normals] if head.activation == "normals" else "raw"
    elif output == "probability_and_label" and mode == "binary":
        output = "probability"
    return Finish(mode, output, n_classes, head.activation, wanted.threshold, channels=span)


def _mode(head: Head, asked: str) -> str:
    """One foreground is binary, whatever is asked of the others; so are two exclusive classes where nothing is."""
    if head.activation in FIELDS or head.n_channels == 1:
        return "binary"
    if head.activation != "softmax":
        return "multiclass"
    return asked if asked != "auto" else ("binary" if head.n_channels == 2 else "multiclass")


def halving_of(finish: Finish) -> str:
    """How resolution levels are made: labels and vectors are taken, never averaged, so that vectors keep length one."""
    return "mean" if finish.output in AVERAGED else "nearest"


def told_of(head: Head, finish: Finish) -> dict[str, Any]:
    """What the array of a head says of itself."""
    told: dict[str, Any] = {"name": head.name, "values": finish.output}
    if head.activation == "normals":
        told |= {
            "values": "unit vectors",
            "components": ["x", "y", "z"],
            "frame": "the axes of the volume, in voxels",
            "scale": 1 / UNIT if finish.output == "normals" else 1.0,
            "zero": "no direction: no patch ran there, or the blended vector is shorter than 1e-6",
        }
    elif head.activation == "raw":
        told["values"] = "as the network gives them, blended"
    return {"target": told}
