"""Which channels of a network make which channel of the output, where it has several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxweft.errors import RequestError
from voxweft.model.card import ModelCard
from voxweft.model.head import Head, channel_ranges

Targets = tuple[tuple[int, int], ...]
LOGITS = ("logits", "merged", "patches")  # outputs that no activation is applied to


def targets_of(card: ModelCard, mode: str, output: str) -> Targets:
    """First channel and end of each task; empty for a network with one.

    A head with a softmax over two channels is one task, and so is every channel of a head with sigmoids: one binary
    output channel each. Logits can be asked of any heads.

    Raises
    ------
    RequestError
        If what is asked for has no meaning for these heads; all heads are named.

    Examples
    --------
    >>> from voxweft.model.head import Head
    >>> heads = (Head("cell", 2, "softmax"), Head("edge", 1, "sigmoid"))
    >>> targets_of(ModelCard("net.pt2", "torch.export", "", None, n_classes=3, heads=heads), "auto", "probability")
    ((0, 2), (2, 3))
    """
    if len(card.heads) < 2:
        return card.targets
    named = ", ".join(f"{h.name} ({h.activation} of {h.n_channels})" for h in card.heads)
    if output not in LOGITS:
        if mode == "multiclass":
            raise RequestError(f"--mode multiclass with a model of several heads, {named}; use --mode binary")
        if output not in ("probability", "mask"):
            raise RequestError(
                f"--output {output} with a model of several heads, {named}; use probability, mask or logits"
            )
        if any(h.activation == "none" or (h.activation == "softmax" and h.n_channels > 2) for h in card.heads):
            raise RequestError(
                f"the heads {named} cannot be finished together: each must be sigmoids or a softmax of 2",
                "Give --output logits.",
            )
    spans = zip(card.heads, channel_ranges(card.heads), strict=True)
    return tuple(target for head, (a, b) in spans for target in _of(head, a, b))


def _of(head: Head, start: int, stop: int) -> Targets:
    return ((start, stop),) if head.activation == "softmax" else tuple((c, c + 1) for c in range(start, stop))


def target_info(card: ModelCard) -> dict[str, Any]:
    """The channels of several tasks as the scroll pipeline writes them beside logits; empty for a network with one.

    Heads that are outputs of their own are told with their activation; :func:`heads_in` reads them back.
    """
    if card.separate:
        pairs = zip(card.heads, channel_ranges(card.heads), strict=True)
        return {
            "target_info": {
                head.name: {"start_channel": a, "end_channel": b, "out_channels": b - a, "activation": head.activation}
                for head, (a, b) in pairs
            }
        }
    if len(card.heads) < 2:
        return {}
    spans = {h.name: (h, *span) for h, span in zip(card.heads, channel_ranges(card.heads), strict=True)}
    named = {
        name if len(_of(*span)) == 1 else f"{name}_{n}": one
        for name, span in spans.items()
        for n, one in enumerate(_of(*span))
    }
    return {"target_info": {name: {"start_channel": a, "end_channel": b} for name, (a, b) in named.items()}}


def heads_in(attributes: Mapping[str, Any], n_channels: int) -> tuple[Head, ...]:
    """The heads that logits were stored with and that are outputs of their own; none where it does not say so.

    Raises
    ------
    RequestError
        If their channels are not those of the logits.
    """
    listed = attributes.get("target_info") or {}
    if not any("activation" in told for told in listed.values()):
        return ()
    ordered = sorted(listed.items(), key=lambda item: int(item[1]["start_channel"]))
    spans = [(int(told["start_channel"]), int(told["end_channel"])) for _, told in ordered]
    if [a for a, _ in spans] + [n_channels] != [0, *(b for _, b in spans)]:
        raise RequestError(f"the logits have {n_channels} channels, their target_info tells of {spans}")
    pairs = zip(ordered, spans, strict=True)
    return tuple(Head(name, b - a, str(told.get("activation", "sigmoid"))) for (name, told), (a, b) in pairs)
