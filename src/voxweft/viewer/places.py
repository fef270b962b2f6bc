"""Where a result is least sure: a few places, each with a small picture, for a person to look at first."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.sampling import spread_points
from voxweft.ops.activate import Finish
from voxweft.viewer import pictures
from voxweft.viewer.gallery import Gallery
from voxweft.viewer.scale import Scale
from voxweft.viewer.subject import SEEN_VOXELS, Seen, box_around

N_PLACES, CELL, CROP = 5, 16, 96
SAMPLE, N_SAMPLES = 64, 64  # side and number of the boxes that are looked at of a large volume
DOUBTED = ("probability", "probability16", "probability32", "logits")


@dataclass(frozen=True, slots=True)
class WorstPlace:
    """A voxel in the middle of a small block, and the block's mean of what was measured, 0 to 1."""

    at: Zyx
    value: float


def worst_places(seen: Seen) -> tuple[tuple[WorstPlace, ...], str]:
    """The worst first, none near another; and what was measured, "" where nothing could be."""
    if seen.uncertain is not None:
        sink = seen.uncertain
        level = next((k for k in range(sink.n_levels()) if np.prod(sink.shape(k)) <= SEEN_VOXELS), sink.n_levels() - 1)
        if np.prod(sink.shape(level)) <= SEEN_VOXELS:
            values = seen.uncertainty(Box.of(sink.shape(level)), level)
            if values is not None:
                factor = [max(1, round(a / b)) for a, b in zip(sink.shape(0), values.shape, strict=True)]
                found = _in(values.astype(np.float32) / np.float32(255), (0, 0, 0), factor)
                return _apart(found), f"the {seen.measure}, mean of blocks of {CELL} voxels"
    if seen.subject.finish.output not in DOUBTED:
        return (), ""
    region, found = seen.subject.region, list[WorstPlace]()
    if region.n_voxels * seen.subject.spec.n_channels <= SEEN_VOXELS:
        boxes, how = [region], ""
    else:
        points = spread_points(region, N_SAMPLES)
        boxes = [box_around(p, region, (SAMPLE, SAMPLE, SAMPLE)) for p in points]
        how = f", looked for in {len(boxes)} boxes of {SAMPLE} voxels a side that are spread over the volume"
    for box in boxes:
        found += _in(undecided(seen.sink.read(box), seen.subject.finish), box.start, (1, 1, 1))
    return _apart(
        found
    ), f"how undecided the probability is (1: two answers alike), mean of blocks of {CELL} voxels{how}"


def undecided(values: NDArray[np.generic], finish: Finish) -> NDArray[np.float32]:
    """How near the two likeliest answers are, 0 to 1, float32 [...] of a result [C, ...]; 0 where nothing was computed.

    >>> undecided(np.array([[[[0, 255, 128]]]], np.uint8), Finish("binary", "probability", 2)).round(2).ravel().tolist()
    [0.0, 0.0, 1.0]
    >>> logits = np.array([[[[-9.0, 0.0]]], [[[9.0, 9.0]]]], np.float32)  # classes that may overlap
    >>> undecided(logits, Finish("multiclass", "logits", 2, "sigmoid")).round(2).ravel().tolist()
    [0.0, 1.0]
    """
    if finish.mode == "binary" or len(values) == 1:
        p = pictures.foreground(values, finish)
        return np.asarray(1 - np.abs(2 * p - 1), np.float32)
    v = values.astype(np.float32)
    if finish.output == "logits" and finish.activation == "softmax":
        e = np.exp(v - v.max(axis=0))
        v = e / e.sum(axis=0)
    elif finish.output == "logits":
        v = np.asarray(1 / (1 + np.exp(-np.clip(v, -80, 80))), np.float32)
    elif values.dtype.kind == "u":
        v /= 65535 if values.dtype == np.uint16 else 255
    if finish.activation != "softmax":
        return np.asarray((1 - np.abs(2 * v - 1)).max(axis=0), np.float32)
    two = np.partition(v, len(v) - 2, axis=0)[-2:]
    return np.asarray(np.where(two[1] > 0, 1 - (two[1] - two[0]), 0), np.float32)


def show_places(seen: Seen, gallery: Gallery, url: str) -> Iterator[str]:
    """The worst places as HTML."""
    found, said = worst_places(seen)
    if not found:
        yield (
            "<p class=note>Nothing says how sure this result is: it holds no probability. "
            "<code>--output probability</code> or <code>--uncertainty entropy</code> would.</p>"
        )
        return
    yield f"<p>Look here first. Measured: {escape(said)}.</p><div class=grid>"
    for n, place in enumerate(found, 1):
        at = ",".join(map(str, place.at))
        yield _picture(seen, gallery, place, n)
        command = f"voxweft view {shlex.quote(url)} --at {at}"
        yield (
            f'<div><p><a class="place" data-at="{at}" data-value="{place.value:.4f}">{n}. at z,y,x = {at}</a><br>'
            f"<span class=muted>{place.value:.2f} on average</span></p><pre>{escape(command)}</pre></div>"
        )
    yield "</div>"


def _picture(seen: Seen, gallery: Gallery, place: WorstPlace, n: int) -> str:
    box = box_around(place.at, seen.subject.region, (1, CROP, CROP))
    values, image, doubt = seen.sink.read(box)[:, 0], seen.image(box), seen.uncertainty(box)
    finish, tints = seen.subject.finish, seen.subject.tints
    base = pictures.coloured(values, finish, tints)
    panels = [base]
    if image is not None:
        panels = [pictures.grey(image[0]), pictures.overlay(image[0], values, finish, tints)]
    panels.append(_heat(doubt[0] / 255 if doubt is not None else undecided(values, finish)))
    names = ["prediction"] if image is None else ["image", "overlay"]
    scale = Scale.of(seen.subject.spec.geometry, 0)
    caption = f"{n}. {', '.join(names)}, uncertainty (bright: unsure), z {place.at[0]}"
    gap = np.full((base.shape[0], 2, 3), 255, np.uint8)
    joined = [part for panel in panels for part in (panel, gap)][:-1]
    return gallery.add(f"place {n}", np.concatenate(joined, axis=1), scale, caption)


def _heat(values: NDArray[Any]) -> NDArray[np.uint8]:
    """0 to 1 as grey."""
    return np.repeat(np.clip(values * 255, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _in(values: NDArray[np.float32], start: Zyx, factor: Any) -> list[WorstPlace]:
    """The highest blocks of an array that begins at a voxel; a value stands for ``factor`` voxels."""
    sides = [min(n, max(1, round(CELL / f))) for n, f in zip(values.shape, factor, strict=True)]
    total: NDArray[Any] = values
    for axis, side in enumerate(sides):
        edges = np.arange(0, max(1, values.shape[axis] - side + 1), side)
        total = np.add.reduceat(total, edges, axis=axis)
        last = values.shape[axis] - edges[-1]
        sizes = np.full(len(edges), side)
        sizes[-1] = last
        total = total / sizes.reshape([-1 if k == axis else 1 for k in range(3)])
    best = np.argsort(-total, axis=None, kind="stable")[: 20 * N_PLACES]
    places = []
    for cell in np.transpose(np.unravel_index(best, total.shape)):
        z, y, x = (int(a + (c * k + k / 2) * f) for a, c, k, f in zip(start, cell, sides, factor, strict=True))
        if total[tuple(cell)] > 0.01:
            places.append(WorstPlace((z, y, x), float(total[tuple(cell)])))
    return places


def _apart(found: list[WorstPlace]) -> tuple[WorstPlace, ...]:
    """The worst, none nearer to a worse one than half a picture."""
    kept = list[WorstPlace]()
    for place in sorted(found, key=lambda one: (-one.value, one.at)):
        if len(kept) < N_PLACES and all(math.dist(place.at, other.at) >= CROP / 2 for other in kept):
            kept.append(place)
    return tuple(kept)
