"""From the maps of a slice to its objects: a median along the stack, centres, grouping, merging, pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.panoptic.codes import DIVISOR, SHIFT
from voxweft.engine.op import Cell, Made, block_op, slice_op
from voxweft.engine.slices import SliceLabels
from voxweft.errors import RunError
from voxweft.model.head import CENTRES, COARSE, OFFSETS, SEMANTIC
from voxweft.ops.centres import find_centres
from voxweft.ops.grouping import group_pixels
from voxweft.ops.holes import fill_holes
from voxweft.ops.median import Mode, RunningMedian
from voxweft.ops.merging import merge_instances, split_connected

AHEAD = 2  # slices whose objects are looked for at the same time


@dataclass(frozen=True, slots=True)
class SliceRules:
    """How maps become objects; the names are those of the options.

    Attributes
    ----------
    things
        Classes whose objects are told apart.
    confidence, centre
        Least probability of a pixel of a network with one class; what a centre must exceed.
    distance
        Side of the neighbourhood of a centre, in pixels of its map.
    median, mode
        Slices of the running median; whether it is recursive.
    stuff_area
        Least pixels of a class without objects in a slice.
    scale, fine
        By how much the network's images are smaller; whether its centres and offsets are as large as they.
    holes
        Whether holes of objects are filled.
    """

    things: tuple[int, ...]
    confidence: float = 0.5
    centre: float = 0.1
    distance: int = 3
    median: int = 1
    mode: Mode = "plain"
    stuff_area: int = 64
    scale: int = 1
    fine: bool = False
    holes: bool = False


@slice_op
def slice_objects(first: int, n_slices: int, shape_yx: Sequence[int], **rules: Any) -> SliceObjects:
    """Slices of a sweep as labelled objects; see :class:`SliceObjects`."""
    return SliceObjects(first, n_slices, SliceRules(**{**rules, "things": tuple(rules["things"])}))


class SliceObjects:
    """Takes the maps of slices one by one and gives their objects as codes; see :mod:`voxweft.apps.panoptic.codes`.

    Parameters
    ----------
    first, n_slices
        Number of the first slice that comes, and of slices of the stack.
    rules
        How maps become objects.
    """

    def __init__(self, first: int, n_slices: int, rules: SliceRules) -> None:
        self._rules = rules
        self._median = RunningMedian(rules.median, rules.mode, first, n_slices)
        self._next = first
        self._held: dict[int, tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]] = {}
        self._ahead: deque[Future[SliceLabels]] = deque()
        self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="voxweft-slices")

    def push(self, maps: Mapping[str, NDArray[np.float32]], outside: NDArray[np.bool_] | None) -> Iterator[SliceLabels]:
        """The maps of the next slice, at the resolution of the result for the classes."""
        likely = probabilities(maps[SEMANTIC])
        of_class = likely[0] if len(likely) == 1 else likely.max(axis=0)
        self._held[self._next] = (maps[CENTRES][0], maps[OFFSETS], of_class.astype(np.float16), outside)
        self._next += 1
        # the median of what is above a threshold is whether most are: a bit a pixel is enough
        enters = likely[0] >= np.float32(self._rules.confidence) if len(likely) == 1 else likely
        for z, values in self._median.push(enters):
            self._ahead.append(self._threads.submit(self._found, z, values))
        while len(self._ahead) > AHEAD:
            yield self._ahead.popleft().result()

    def rest(self) -> Iterator[SliceLabels]:
        """What is still on its way."""
        while self._ahead:
            yield self._ahead.popleft().result()

    def __enter__(self) -> SliceObjects:
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _found(self, z: int, values: NDArray[Any]) -> SliceLabels:
        """The objects of a slice, from the median of what is likely."""
        semantic = values.astype(np.uint8) if values.ndim == 2 else values.argmax(axis=0).astype(np.uint8)
        heat, offsets, confidence, outside = self._held.pop(z)
        if outside is not None:
            semantic[outside] = 0
        codes = objects_of(semantic, heat, offsets, self._rules)
        return SliceLabels(z, codes, _rows(z, codes, confidence))


def one_slice(z: int, maps: Mapping[str, NDArray[np.float32]], rules: SliceRules) -> list[SliceLabels]:
    """A slice without its neighbours."""
    with SliceObjects(z, z + 1, rules) as op:
        return [*op.push(maps, None), *op.rest()]


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sigmoid of one channel, softmax of several: [C, Y, X]."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(logits))
    return np.asarray((values.sigmoid() if len(values) == 1 else values.softmax(dim=0)).numpy())


def objects_of(
    semantic: NDArray[np.uint8], heat: NDArray[np.float32], offsets: NDArray[np.float32], rules: SliceRules
) -> NDArray[np.uint32]:
    """The codes of a slice, uint32 [Y, X].

    Parameters
    ----------
    semantic
        Class of each pixel [Y, X].
    heat, offsets
        Maps of the centres and of the offsets, [Y', X'] and [2, Y', X'], a quarter of the network's image or as fine.
    rules
        How maps become objects.
    """
    things = semantic > 0
    if set(np.unique(semantic[things])) - set(rules.things):
        things &= np.isin(semantic, rules.things)
    step = 1 if rules.fine else COARSE
    centres = find_centres(heat, rules.centre, rules.distance) if things.any() else np.zeros((0, 2), np.int64)
    rows, columns = np.nonzero(things)
    width, factor = heat.shape[1], step * rules.scale
    cells = rows // factor * width + columns // factor if factor > 1 else rows * width + columns
    wanted = np.zeros(heat.size, np.bool_)
    wanted[cells] = True
    found = np.zeros(heat.size, np.int64)
    pixels = np.flatnonzero(wanted)
    found[pixels] = group_pixels(np.stack(np.divmod(pixels, width), axis=1), offsets, centres, step)
    instances = found[cells]
    panoptic = merge_instances(semantic, things, instances, DIVISOR, stuff_area=rules.stuff_area)
    panoptic = split_connected(panoptic, rules.things, DIVISOR)
    return fill_holes(panoptic.astype(np.uint32)) if rules.holes else panoptic.astype(np.uint32)


def _rows(z: int, codes: NDArray[np.uint32], confidence: NDArray[np.float16]) -> dict[str, NDArray[Any]]:
    """Of each object of a slice its slice, code and mean probability: rows of the table of a slab."""
    inside = codes > 0
    own = codes[inside]
    of, number = own >> SHIFT, own & (DIVISOR - 1)
    width = int(number.max(initial=0)) + 1
    keys = of.astype(np.int64) * width + number
    n = np.bincount(keys, minlength=1)
    sums = np.bincount(keys, confidence[inside].astype(np.float64), len(n))
    found = np.flatnonzero(n)
    code = found // width << SHIFT | found % width
    return {"z": np.full(len(found), z), "code": code, "confidence": sums[found] / n[found]}


@block_op
def existing_slices(
    sources: Sequence[NDArray[Any]], cell: Cell, *, divisor: int, things: Sequence[int], split: bool
) -> Made:
    """Slices of labels that exist, as codes: class x divisor + number, or with divisor 0 numbers of class 1.

    Other classes than ``things`` are left out. Objects of several pieces are split where ``split`` says so.
    """
    codes = np.zeros(sources[0].shape[1:], np.uint32)
    for z, labels in enumerate(sources[0][0].astype(np.int64)):
        numbers = np.unique(labels[labels > 0])
        classes = numbers // divisor if divisor else np.ones_like(numbers)
        within = numbers - classes * divisor if divisor else numbers
        if within.max(initial=0) >= DIVISOR:
            raise RunError(
                f"slice {cell.box.start[0] + z} has label {numbers.max()}; number the objects below {DIVISOR}"
            )
        codes_of = np.where(np.isin(classes, things), classes * DIVISOR + within, 0)
        plane = np.zeros(labels.shape, np.int64)
        if len(numbers):
            plane = np.where(labels > 0, codes_of[np.searchsorted(numbers, np.maximum(labels, numbers[0]))], 0)
        codes[z] = split_connected(plane, list(things), DIVISOR) if split else plane
    return Made((codes[None],))
