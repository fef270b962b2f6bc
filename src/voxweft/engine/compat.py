"""Blending and finishing with the numbers of vesuvius 0.2.4, its defects included, chunk by chunk.

What it does otherwise than a sweep: weights are not normalised but divided by their sum + 1e-8, which pulls logits to
0 where weights are small; and what is finished is stretched to 0..255 between the smallest and the largest value of
each chunk, unless the network has one channel.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.op import Cell, Made, block_op
from voxweft.engine.stored import StoredLogits
from voxweft.geometry.box import Zyx
from voxweft.ops.activate import Finish

Logits = NDArray[np.float16]
EPSILON = np.float32(1e-8)
LIMIT = 20.0  # logits of a single channel are clipped to +- this


@block_op
def blend_as_vesuvius(sources: Sequence[StoredLogits], cell: Cell, *, n_classes: int, sigma_scale: float) -> Made:
    """sum(w l) / (sum(w) + 1e-8) of a chunk in float32; a patch that is all 0 in the chunk counts for nothing."""
    (patches,), chunk = sources, cell.box
    window = _window(patches.grid.patch, sigma_scale)
    total = np.zeros((n_classes, *chunk.shape), np.float32)
    weight = np.zeros(chunk.shape, np.float32)
    for index in itertools.product(*patches.grid.touching(chunk)):
        tile = patches.grid.tile(index)
        logits = patches.read(tile)
        if logits is None:
            continue
        shared = tile.box & chunk
        inside = shared.shift(tile.box.start, -1).slices
        piece = logits[(slice(None), *inside)].astype(np.float32)
        if not piece.any():
            continue
        target = shared.shift(chunk.start, -1).slices
        total[(slice(None), *target)] += piece * window[inside]
        weight[target] += window[inside]
    return Made((np.where(weight > 0, total / (weight + EPSILON), np.float32(0)).astype(np.float16),))


@functools.cache
def _window(patch: Zyx, sigma_scale: float) -> NDArray[np.float32]:
    """The Gaussian as a filter in single precision makes it: rounded after each axis, then divided by its maximum."""
    window = np.ones((1, 1, 1), np.float32)
    for axis, size in enumerate(patch):
        kernel = np.moveaxis(_kernel(size, sigma_scale)[None, None], 2, axis)
        window = (window.astype(np.float64) * kernel).astype(np.float32)
    return np.asarray(window / window.max())


def _kernel(size: int, sigma_scale: float) -> NDArray[np.float64]:
    """What a truncated Gaussian filter of unit sum makes of an impulse at size // 2."""
    sigma = size / sigma_scale
    radius = int(4.0 * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 / (sigma * sigma) * offset**2)
    kernel /= kernel.sum()
    index = np.arange(size) - size // 2 + radius
    inside = (index >= 0) & (index < len(kernel))
    return np.where(inside, kernel[np.clip(index, 0, len(kernel) - 1)], 0.0)


@block_op
def finish_as_vesuvius(sources: Sequence[NDArray[Any] | None], cell: Cell, **settings: Any) -> Made:
    """The finished values of a chunk; nothing where all its logits, or all its values, are equal."""
    finish, (logits,) = Finish(**settings), sources
    if logits is None or logits.min() == logits.max():
        return Made()
    values: NDArray[Any] = _values(logits, finish.mode, finish.targets, finish.output in ("mask", "labels"))
    if finish.n_classes == 1:
        return Made((np.asarray(np.clip(values, 0, 1) * 255, np.uint8),))
    low, high = values.min(), values.max()
    return Made() if low == high else Made((np.asarray((values - low) / (high - low) * 255, np.uint8),))


def _values(x: Logits, mode: str, targets: tuple[tuple[int, int], ...], hard: bool) -> NDArray[Any]:
    """Probabilities, or 0 and 1 (class ids), before they are stretched; a softmax is computed in float16."""
    if targets:
        return np.concatenate([_foreground(x[a:b], hard) for a, b in targets])
    if mode == "binary":
        return _foreground(x, hard)
    ids = x.argmax(axis=0)[np.newaxis].astype(np.float32)
    return ids if hard else np.concatenate([_softmax(x), ids])


def _foreground(x: Logits, hard: bool) -> NDArray[Any]:
    if len(x) == 1:
        x = x.astype(np.float32)
        return np.asarray(x > 0 if hard else 1 / (1 + np.exp(-np.clip(x, -LIMIT, LIMIT))), np.float32)
    p = _softmax(x)
    return (p[1:2] > p[:1]).astype(np.float32) if hard else p[1:2]


def _softmax(x: Logits) -> Logits:
    e = np.exp(x - x.max(axis=0))
    return np.asarray(e / e.sum(axis=0))
