"""Particles that touch, parted at their waists: a watershed of the distance to the background.

The steps are those of octopi 1.7 (``localize --method watershed``): opening by a cross, distances, maxima in a cube,
flooding from them. Every step but the last looks at a neighbourhood only, and the last never leaves a component, so a
component that lies whole in a window gives what it gives in the whole volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.ops.components import connected

Ints = NDArray[np.int64]
ERODED = 2  # voxels beside an edge that is none that an opening may get wrong
TILE = 64  # side of the boxes in which components that are too large are parted


@dataclass(frozen=True, slots=True)
class Waists:
    """How particles of a label are parted.

    Attributes
    ----------
    filter_size
        Side of the cube in which a centre has the largest distance.
    least, most
        Voxels of a particle, after the opening.
    reach
        Voxels along an axis up to which a component is parted as a whole; larger ones are parted tile by tile.
    margin
        Voxels around a component that are looked at; half of the thickest neighbour that is seen right.
    """

    filter_size: int
    least: float
    most: float
    reach: int
    margin: int

    @property
    def halo(self) -> int:
        """Voxels around a block that tell all of its components and of their neighbours."""
        return max(self.reach, 2 * self.margin) + self.margin + self.filter_size + ERODED


def parted(
    labels: NDArray[Any], read: Box, block: Box, extents: Mapping[int, Box], rules: Mapping[int, Waists]
) -> tuple[Ints, Ints, Ints]:
    """The voxels of the particles that belong to a block.

    Parameters
    ----------
    labels
        [Z, Y, X] of the box ``read``, which is the block with its halo, clipped where the volume ends.
    block
        It owns the components whose boxes begin in it; of components larger than ``reach`` the particles whose centres
        begin in it.
    extents
        The box of every label in the whole volume; beyond it nothing is known, as if the volume ended there.
    rules
        Of every label that is wanted.

    Returns
    -------
    at, number, label
        Voxels z y x in the volume, [n, 3]; the particle of each, from 0; the label of every particle.
    """
    from scipy.ndimage import find_objects

    ids = connected(labels, 6)
    label_of = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    label_of[ids] = labels
    sizes = np.bincount(ids.ravel())
    found = [_Basins.none()]
    large: dict[int, set[int]] = {}
    for n, slices in enumerate(find_objects(ids), start=1):
        label = int(label_of[n])
        if slices is None or label not in rules or sizes[n] < rules[label].least:
            continue
        how, extent, box = rules[label], extents[label], _box(slices).shift(read.start)
        if max(box.shape) > how.reach or _is_cut(box, read, extent):
            large.setdefault(label, set()).add(n)
        elif _owns(block, box.start):
            window = _grown(box, how.filter_size + how.margin) & extent & read
            found.append(_basins(labels, ids, label, {n}, window, box, read, how).within(how))
    for label, some in large.items():
        how = rules[label]
        for tile in block.cells((TILE, TILE, TILE)):
            here = some.intersection(np.unique(ids[_inside(tile & block, read)]).tolist())
            if here:
                window = _grown(tile & block, 3 * how.margin + how.filter_size) & extents[label] & read
                basins = _basins(labels, ids, label, here, window, window, read, how)
                found.append(basins.begun_in(tile & block).within(how))
    first = np.cumsum([0, *(len(f.centre) for f in found)])
    number = np.concatenate([f.number + n for f, n in zip(found, first, strict=False)])
    return np.concatenate([f.at for f in found]), number, np.concatenate([f.label for f in found])


@dataclass(frozen=True, slots=True)
class _Basins:
    """Voxels z y x [n, 3]; the basin of each, from 0; of every basin the first voxel of its centre, and its label."""

    at: Ints
    number: Ints
    centre: Ints
    label: Ints

    @classmethod
    def none(cls) -> _Basins:
        return cls(np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros(0, np.int64))

    def within(self, how: Waists) -> _Basins:
        """Those that are as large as particles."""
        n = np.bincount(self.number, minlength=len(self.centre))
        return self._where((n >= how.least) & (n <= how.most))

    def begun_in(self, box: Box) -> _Basins:
        """Those whose centres begin in a box."""
        return self._where(((self.centre >= box.start) & (self.centre < box.stop)).all(axis=1))

    def _where(self, kept: NDArray[np.bool_]) -> _Basins:
        mine = kept[self.number]
        return _Basins(self.at[mine], (np.cumsum(kept) - 1)[self.number[mine]], self.centre[kept], self.label[kept])


def _basins(
    labels: NDArray[Any],
    ids: NDArray[np.uint32],
    label: int,
    wanted: set[int],
    window: Box,
    box: Box,
    read: Box,
    how: Waists,
) -> _Basins:
    """What is flooded of components in a box; ``window`` is what is looked at around it."""
    from scipy.ndimage import label as numbered
    from skimage.segmentation import watershed

    opened, distance, centres = (
        array[_inside(box, window)] for array in _centres(labels[_inside(window, read)] == label, how)
    )
    mask = opened & np.isin(ids[_inside(box, read)], [*wanted])
    marks, n = numbered(centres & mask)
    if not n:
        return _Basins.none()
    basins = watershed(-distance, marks, mask=mask)
    at, begun = np.argwhere(basins), np.argwhere(marks)
    first = np.unique(marks[tuple(begun.T)], return_index=True)[1]
    number = np.asarray(basins[tuple(at.T)], np.int64) - 1
    return _Basins(at + box.start, number, begun[first] + box.start, np.full(n, label, np.int64))


def _centres(mask: NDArray[np.bool_], how: Waists) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]:
    """The opened mask, the distance of its voxels to the background, and where that is largest in a cube."""
    from scipy.ndimage import binary_opening, distance_transform_edt, generate_binary_structure, maximum_filter

    opened = binary_opening(mask, generate_binary_structure(3, 1))
    if opened.all():
        distance = np.ones(mask.shape, np.float32)
    else:
        distance = distance_transform_edt(opened).astype(np.float32)
    highest = maximum_filter(distance, size=how.filter_size)
    return opened, distance, (distance == highest) & opened


def _is_cut(box: Box, read: Box, extent: Box) -> bool:
    """Whether a component may go on beyond what was read."""
    low = zip(box.start, read.start, extent.start, strict=True)
    high = zip(box.stop, read.stop, extent.stop, strict=True)
    return any(a == r > e for a, r, e in low) or any(b == r < e for b, r, e in high)


def _box(slices: tuple[slice, ...]) -> Box:
    z, y, x = slices
    return Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))


def _grown(box: Box, n: int) -> Box:
    start, stop = (a - n for a in box.start), (b + n for b in box.stop)
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


def _inside(box: Box, whole: Box) -> tuple[slice, slice, slice]:
    return box.shift(whole.start, -1).slices


def _owns(block: Box, place: Zyx) -> bool:
    return all(a <= p < b for a, p, b in zip(block.start, place, block.stop, strict=True))
