"""Grey pictures, coloured predictions and overlays as PNG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from voxweft.image.colours import palette
from voxweft.ops.activate import UNCERTAIN, UNIT, VALUES, Finish

TINT = tuple(int(c) for c in palette(2)[1])  # of one foreground
RIGHT, TOO_MUCH, MISSED, OTHER = (235, 235, 235), TINT, (56, 132, 255), (214, 64, 180)


def grey(plane: NDArray[np.generic]) -> NDArray[np.uint8]:
    """An intensity plane [Y, X] as RGB uint8 [Y, X, 3], from its 1st to its 99th percentile."""
    values = np.nan_to_num(plane.astype(np.float32))
    low, high = np.percentile(values, (1, 99))
    scaled = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1) * 255
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)


def foreground(values: NDArray[np.generic], finish: Finish) -> NDArray[np.float32]:
    """How much of a result [C, ...] is foreground, 0 to 1, float32 [...]."""
    v = values.astype(np.float32)
    if finish.output in VALUES:  # the length of vectors, or how far numbers are from 0
        size = np.sqrt((v**2).sum(axis=0))
        return np.asarray(size / max(float(size.max(initial=0)), 1e-9))
    if finish.output == "logits":
        if finish.activation == "softmax" and len(v) > 1:
            p = np.exp(v - v.max(axis=0))
            return np.asarray(1 - p[0] / p.sum(axis=0))
        largest = v.max(axis=0) if finish.overlapping else v[-1]
        return np.asarray(1 / (1 + np.exp(-np.clip(largest, -80, 80))))
    if finish.output == "labels":
        return np.asarray((v[0] > 0).astype(np.float32))
    top = _one(values.dtype, finish)
    v = v[:-1] if finish.output == "probability_and_label" else v
    if len(v) > 1:
        return np.asarray(1 - v[0] / top if finish.activation == "softmax" else v.max(axis=0) / top)
    return np.asarray(v[0] / top)


def classes(values: NDArray[np.generic], finish: Finish) -> NDArray[np.intp] | None:
    """Classes [...] of a result [C, ...], by the numbers that labels would have; None where there is one foreground."""
    if finish.mode == "binary":
        return None
    if finish.output in ("labels", "probability_and_label"):
        return np.asarray(values[-1].astype(np.intp))
    if len(values) == 1:
        return None
    if not finish.overlapping:
        return np.asarray(values.argmax(axis=0))
    cut, index = _cut(values, finish), np.zeros(values.shape[1:], np.intp)
    for channel, label in zip(values, finish.ids, strict=True):
        index[channel > cut] = label
    return index


def _cut(values: NDArray[np.generic], finish: Finish) -> float:
    """What a class has to be over to be there."""
    if finish.output == "logits":
        return finish.logit_threshold
    return finish.threshold * _one(values.dtype, finish)


def _one(dtype: np.dtype[Any], finish: Finish) -> int:
    """What stands for a probability of one."""
    if dtype.kind != "u":
        return 1
    return 65535 if dtype == np.uint16 and finish.output != "probability_and_label" else 255


def one_foreground(finish: Finish) -> bool:
    """Whether the result tells foreground from background, and no classes from each other."""
    return finish.mode == "binary" or finish.output in UNCERTAIN or (finish.output == "mask" and finish.is_label)


def coloured(values: NDArray[np.generic], finish: Finish, tints: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A plane of the result [C, Y, X] as RGB: grey for one foreground, a colour a class or a direction for several.

    The colours of classes, uint8 [n, 3], are those of :attr:`voxweft.viewer.subject.Subject.tints`.
    """
    if finish.activation == "normals" and len(values) == 3:
        return np.asarray(np.moveaxis(255 * np.abs(values.astype(np.float32)) / _top(values), 0, -1), np.uint8)
    index = classes(values, finish)
    if index is None:
        return np.repeat((foreground(values, finish) * 255).astype(np.uint8)[..., None], 3, axis=2)
    return tint_of(index, tints)


def _top(values: NDArray[np.generic]) -> int:
    """What stands for length one."""
    return UNIT if values.dtype == np.int8 else 1


def overlay(
    image: NDArray[np.generic], values: NDArray[np.generic], finish: Finish, tints: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The image [Y, X] with the result [C, Y, X] laid over it."""
    base = grey(image).astype(np.float32)
    index = classes(values, finish)
    tint = np.array(TINT, np.uint8) if index is None else tint_of(index, tints)
    if finish.activation == "normals":
        tint = coloured(values, finish, tints)
    alpha = 0.6 * foreground(values, finish)[..., None]
    return (base * (1 - alpha) + tint * alpha).astype(np.uint8)


def tint_of(index: NDArray[np.integer], tints: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class numbers [...] as colours [..., 3]; those beyond the last begin again."""
    return np.asarray(tints[index % len(tints)])


def compared(found: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Classes [Y, X] against the truth: white where both agree on a class, too much, missed, another class."""
    rgb = np.zeros((*found.shape, 3), np.uint8)
    rgb[(found == truth) & (truth > 0)] = RIGHT
    rgb[(found > 0) & (truth == 0)] = TOO_MUCH
    rgb[(found == 0) & (truth > 0)] = MISSED
    rgb[(found > 0) & (truth > 0) & (found != truth)] = OTHER
    return rgb


def png_bytes(rgb: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [Y, X, 3] as PNG; one without colours is stored so."""
    plain = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb[..., 0]) if plain else rgb).save(buffer, "PNG")
    return buffer.getvalue()
