"""Particles that touch, parted at their waists: a watershed of the distance to the background.

The steps are those of octopi 1.7 (``localize --method watershed``): opening by a cross, distances, maxima in a cube,
flooding from them. Every step but the last looks at a neighbourhood only, and the last never leaves a component, so a
component that lies whole in a window gives what it gives in the whole volume, but for voxels that two particles claim
alike: which gets them hangs on the order in which a priority queue of all components gives back what is equal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.ops.components import connected

Ints = NDArray[np.int64]
ERODED = 2  # voxels beside an edge that is none that an opening may get wrong
SPARSE = 2  # voxels of an array / voxels of its components, from which each of them is looked at by itself
NARROW = 4  # voxels around a component that are tried first
MOST_VOXELS = 1 << 23  # that are looked at together; distances take 20 bytes a voxel
FAIR = 1.5  # voxels looked at together / one by one, up to which the first is less work
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
        return max(self.reach, self.margin) + self.margin + self.filter_size + ERODED


def parted(
    labels: NDArray[Any], read: Box, block: Box, extents: Mapping[int, Box], rules: Mapping[int, Waists]
) -> tuple[Ints, Ints, Ints]:
    """The voxels of the particles that belong to a block.

    Parameters
    ----------
    labels
        [Z, Y, X] of the box ``read``.
    read
        The block with its halo, clipped where the volume ends.
    block
        It owns the components whose boxes begin in it; of components larger than ``reach`` the particles whose centres
        begin in it. It is made of whole tiles, or ends with the volume.
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
    region = _Region(labels, ids, read)
    filled = np.flatnonzero(ids)
    numbers = ids.ravel()[filled]
    sizes = np.bincount(numbers)
    label_of = np.zeros(len(sizes), np.int64)
    label_of[numbers] = labels.ravel()[filled]
    found = [_Basins.none()]
    small: dict[int, dict[int, Box]] = {}
    large: dict[int, dict[int, Box]] = {}
    for n, slices in enumerate(find_objects(ids), start=1):
        label = int(label_of[n])
        if slices is None or label not in rules or sizes[n] < rules[label].least:
            continue
        how, extent, box = rules[label], extents[label], _box(slices).shift(read.start)
        if max(box.shape) > how.reach or _is_cut(box, read, extent):
            large.setdefault(label, {})[n] = box
        elif _owns(block, box.start):
            small.setdefault(label, {})[n] = box
    for label, boxes in small.items():
        found += [one.within(rules[label]) for one in _whole(region, label, boxes, extents[label], rules[label])]
    for label, some in large.items():
        how = rules[label]
        for tile in (cell & block for cell in block.cells((TILE, TILE, TILE))):
            here = [n for n, box in some.items() if (box & tile).n_voxels]
            if here and region.of(here, tile).any():
                window = _grown(tile, 2 * how.margin + how.filter_size) & extents[label] & read
                basins = region.basins(label, here, window, region.seen(label, window, how), window)
                found.append(basins.begun_in(tile).within(how))
    return _joined(found)


def parted_at_once(
    labels: NDArray[Any], extents: Mapping[int, Box], rules: Mapping[int, Waists]
) -> tuple[Ints, Ints, Ints]:
    """The voxels of all particles of a whole volume [Z, Y, X], to the voxel as octopi has them; as :func:`parted`."""
    region, found = _Region(labels, np.zeros((0, 0, 0), np.uint32), Box.of(labels.shape)), [_Basins.none()]
    for label, how in rules.items():
        window = extents[label]
        found.append(region.basins(label, (), window, region.seen(label, window, how), window).within(how))
    return _joined(found)


def _joined(found: Sequence[_Basins]) -> tuple[Ints, Ints, Ints]:
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
        return self._where(np.asarray((n >= how.least) & (n <= how.most)))

    def begun_in(self, box: Box) -> _Basins:
        """Those whose centres begin in a box."""
        return self._where(np.asarray(((self.centre >= box.start) & (self.centre < box.stop)).all(axis=1)))

    def _where(self, kept: NDArray[np.bool_]) -> _Basins:
        mine = kept[self.number]
        return _Basins(self.at[mine], (np.cumsum(kept) - 1)[self.number[mine]], self.centre[kept], self.label[kept])


Seen = tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]
"""The opened mask of a label, the distance of its voxels to the background, and where that is largest in a cube."""


@dataclass(frozen=True, slots=True)
class _Region:
    """What was read, and its components, where they are asked for: arrays of the box ``read``."""

    labels: NDArray[Any]
    ids: NDArray[np.uint32]
    read: Box

    def seen(self, label: int, window: Box, how: Waists) -> Seen:
        """What is seen of a label in a window."""
        from scipy.ndimage import maximum_filter

        opened = opened_by_cross(self.labels[_inside(window, self.read)] == label)
        distance = distance_to_background(opened)
        return opened, distance, (distance == maximum_filter(distance, size=how.filter_size)) & opened

    def of(self, wanted: Collection[int], box: Box) -> NDArray[np.bool_]:
        """Where components lie in a box."""
        own = self.ids[_inside(box, self.read)]
        if len(wanted) == 1:
            return np.asarray(own == next(iter(wanted)))
        known = np.zeros(int(own.max(initial=0)) + 1, np.bool_)
        known[[n for n in wanted if n < len(known)]] = True
        return known[own]

    def basins(self, label: int, wanted: Collection[int], window: Box, seen: Seen, box: Box) -> _Basins:
        """What is flooded of components (none named: of all) in a box, of what is seen in a window around it."""
        from scipy.ndimage import label as numbered
        from skimage.segmentation import watershed

        own = _inside(box, window)
        opened, distance, centres = seen[0][own], seen[1][own], seen[2][own]
        mask = opened & self.of(wanted, box) if wanted else opened
        marks, n = numbered(centres & mask)
        if not n:
            return _Basins.none()
        basins = watershed(-distance, marks, mask=mask)  # type: ignore[no-untyped-call]
        at, begun = np.argwhere(basins), np.argwhere(marks)
        first = np.unique(marks[tuple(begun.T)], return_index=True)[1]
        number = np.asarray(basins[tuple(at.T)], np.int64) - 1
        return _Basins(at + box.start, number, begun[first] + box.start, np.full(n, label, np.int64))


def opened_by_cross(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The union of all crosses of seven voxels that lie inside a mask [Z, Y, X]; beyond the array nothing does.

    >>> opened_by_cross(np.ones((3, 3, 3), np.bool_)).sum()
    np.int64(7)
    """
    eroded = mask.copy()
    for low, high in _neighbours():
        eroded[low] &= mask[high]
        eroded[high] &= mask[low]
    for axis in range(3):
        eroded.swapaxes(0, axis)[[0, -1]] = False
    opened = eroded.copy()
    for low, high in _neighbours():
        opened[low] |= eroded[high]
        opened[high] |= eroded[low]
    return opened


def distance_to_background(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The distance of the voxels of a mask [Z, Y, X] to the nearest that is not of it, in voxels; of others 0.

    Without a background there is no distance to it, and all are 1.

    >>> distance_to_background(np.array([[[0, 1, 1, 1, 0]]], np.bool_)).tolist()
    [[[0.0, 1.0, 2.0, 1.0, 0.0]]]
    """
    from scipy.ndimage import find_objects

    found = mask.astype(np.float32)
    if mask.all() or not mask.any():
        return found
    ids, whole = connected(mask, 6), Box.of(mask.shape)
    boxes = [_grown(_box(slices), 1) & whole for slices in find_objects(ids)]  # that hold what is nearest
    if SPARSE * sum(box.n_voxels for box in boxes) > mask.size:
        _fill(found, mask, mask)
        return found
    for n, box in enumerate(boxes, start=1):
        _fill(found[box.slices], mask[box.slices], ids[box.slices] == n)
    return found


def _fill(found: NDArray[np.float32], mask: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> None:
    """Distances of wanted voxels to the nearest that is not of a mask."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(mask, return_distances=False, return_indices=True)
    at = np.nonzero(wanted)
    found[at] = np.sqrt(sum((a - nearest[(axis, *at)]) ** 2 for axis, a in enumerate(at)))


def _neighbours() -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Of each axis the voxels that have a neighbour behind them, and those neighbours."""
    for axis in range(3):
        yield tuple(  # type: ignore[misc]
            tuple(side if a == axis else slice(None) for a in range(3)) for side in (slice(None, -1), slice(1, None))
        )


def _whole(region: _Region, label: int, boxes: Mapping[int, Box], extent: Box, how: Waists) -> Iterator[_Basins]:
    """The basins of components that lie in boxes.

    The distances of a component need no more than a voxel around it. Those of others in the cube of a centre are right
    where they are shorter than the way to the edge of the window; where they are not, a larger one is looked at, or one
    for all components together if that is less work. Neighbours that are thicker than half of that are thicker than
    particles: their centres win over those of particles, however thick they are.
    """

    def around(box: Box, margin: int) -> Box:
        return _grown(box, margin) & extent & region.read

    left = {n: around(box, how.filter_size + how.margin) for n, box in boxes.items()}
    if (together := _hull(left.values())).n_voxels > FAIR * sum(
        around(box, how.filter_size + NARROW).n_voxels for box in boxes.values()
    ):
        for n, box in boxes.items():
            window, near = around(box, how.filter_size + NARROW), around(box, how.filter_size)
            seen = region.seen(label, window, how)
            others = seen[1][_inside(near, window)][~region.of([n], near)]
            if others.max(initial=0) < NARROW - ERODED:
                yield region.basins(label, [n], window, seen, box)
                del left[n]
        together = _hull(left.values())
    seen_all = None
    if together.n_voxels < min(MOST_VOXELS, sum(window.n_voxels for window in left.values())):
        seen_all = region.seen(label, together, how)
    for n, own in left.items():
        window, seen = (together, seen_all) if seen_all else (own, region.seen(label, own, how))
        yield region.basins(label, [n], window, seen, boxes[n])


def _hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around all of them; an empty one around none."""
    found = [*boxes] or [Box.of((0, 0, 0))]
    start, stop = (np.array([getattr(b, side) for b in found]) for side in ("start", "stop"))
    return Box(tuple(start.min(axis=0).tolist()), tuple(stop.max(axis=0).tolist()))


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
