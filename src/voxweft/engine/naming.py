"""What the values and channels of an output are called, and which of them are black and white."""

from __future__ import annotations

from collections.abc import Sequence

from voxweft.image.colours import BACKGROUND
from voxweft.model.head import Head, channel_ranges
from voxweft.ops.activate import KEPT, UNCERTAIN, UNIT, Finish

Named = tuple[tuple[int, str], ...]
FOREGROUND = "foreground"
SHOWN: dict[str, tuple[float, float]] = {
    "probability32": (0.0, 1.0),
    "entropy": (0.0, 1.0),
    "variance": (0.0, 0.25),  # the largest of numbers between 0 and 1
    "logits": (-10.0, 10.0),  # beyond it a class is all but certain
    "merged": (-10.0, 10.0),
    "normals": (-UNIT, UNIT),
    "normals16": (-1.0, 1.0),
}


def names_of(finish: Finish, class_names: Sequence[str], heads: Sequence[Head] = ()) -> Named:
    """The names of the labels of an output, or of its channels; ``class_names`` and ``heads`` are those of the card.

    Examples
    --------
    >>> names_of(Finish("binary", "mask", 2), ("background", "vessel"))
    ((0, 'background'), (255, 'vessel'))
    >>> names_of(Finish("multiclass", "probability", 3), ("", "grey", "white"))
    ((0, 'background'), (1, 'grey'), (2, 'white'))
    >>> names_of(Finish("multiclass", "labels", 2, "sigmoid", label_ids=(4, 2)), ("whole", "core"))
    ((0, 'background'), (4, 'whole'), (2, 'core'))
    """
    of_channels = _of_channels(finish, class_names, heads)
    if finish.channels:
        a, b = finish.channels
        finish, of_channels = finish.own, of_channels[a:b]
    if not finish.is_label:
        return tuple(enumerate(_of_output(finish, of_channels)))
    if finish.output == "mask" or finish.mode == "binary":
        name = of_channels[-1] if finish.mode == "binary" else FOREGROUND
        return (0, BACKGROUND), (255 if finish.output == "mask" else 1, name)
    if finish.overlapping:
        return (0, BACKGROUND), *zip(finish.ids, of_channels, strict=True)
    return tuple(enumerate(of_channels))


def shown_of(finish: Finish) -> tuple[float, ...]:
    """The values from black to white; nothing for labels, and for numbers of any kind."""
    if finish.is_label or finish.output in ("raw", "patches"):
        return ()
    return SHOWN.get(finish.output, (0.0, 65535.0 if finish.dtype == "uint16" else 255.0))


def _of_channels(finish: Finish, class_names: Sequence[str], heads: Sequence[Head]) -> list[str]:
    """The channels of the network."""
    names = [*class_names] if len(class_names) == finish.n_classes else [""] * finish.n_classes
    for head, (a, b) in zip(heads, channel_ranges(tuple(heads)), strict=True):
        if head.activation == "normals":
            names[a:b] = ["x", "y", "z"]
        elif not any(names[a:b]) and b <= len(names):
            names[a:b] = [head.name] if b - a == 1 else [f"{head.name} {n}" for n in range(b - a)]
    usual = [f"class {n}" for n in range(len(names))]
    if finish.activation == "softmax":
        usual[0] = BACKGROUND
    if finish.mode == "binary" and not finish.targets:
        usual[-1] = FOREGROUND
    return [name or other for name, other in zip(names, usual, strict=True)]


def _of_output(finish: Finish, of_channels: Sequence[str]) -> list[str]:
    """The channels of the output."""
    if finish.output in UNCERTAIN:
        return ["uncertainty"]
    if finish.output == "probability_and_label":
        return [*of_channels, "label"]
    if finish.targets and finish.output not in KEPT:
        return [of_channels[b - 1] for _, b in finish.targets]
    return [*of_channels] if finish.n_channels == len(of_channels) else [of_channels[-1]] * finish.n_channels
