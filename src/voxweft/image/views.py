"""Volumes seen otherwise, without a copy: frozen data that maps what is asked for to what is read.

A view is applied by ``view.of(volume)`` and gives a volume; views of views compose, the last one applied comes last in
``VolumeRef.views``. Every view is plain JSON, told apart by its ``kind``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.explored import Explored
from voxweft.image.info import VolumeInfo
from voxweft.image.order import Order, check_order, inverse, permute, permute_box
from voxweft.image.protocols import Volume


class BaseView(ABC):
    """What all views do; each says how its description, boxes and voxels follow from those of the volume seen."""

    __slots__ = ()

    def of(self, volume: Volume) -> Explored:
        """The volume as it is seen.

        Raises
        ------
        VolumeError
            If it cannot be seen so.
        """
        return ViewedVolume(volume, self)

    @abstractmethod
    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """What is known of the view, from what is known of the volume."""

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """The box of the volume, of this shape, that is read for a box of the view."""
        return box

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """The voxels of a box of the view, from those that were read for it."""
        return values


@dataclass(frozen=True, slots=True)
class Crop(BaseView):
    """A box of a volume as a volume of its own.

        volume   0 1 2 3 4 5 6
        box          2:5
        view         0 1 2          numpy: volume[:, 2:5]

    ``chunk_zyx`` stays, though chunks need not begin at voxel 0 of the view.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> Crop(Box((0, 0, 2), (1, 1, 5))).of(open_volume(np.arange(7)[None, None])).read(Box.of((1, 1, 2)))
    array([[[[2, 3]]]])
    """

    box: Box
    kind: Literal["crop"] = "crop"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Shape and origin of the box."""
        if not self.box.n_voxels or self.box not in Box.of(seen.shape_zyx):
            raise VolumeError(f"the box {self.box} is empty or leaves {seen.url} of {seen.shape_zyx} voxels")
        share = self.box.n_voxels / math.prod(seen.shape_zyx)
        return replace(
            _one_level(seen, self.box.shape),
            geometry=seen.geometry.cropped(self.box.start),
            stored_bytes=None if seen.stored_bytes is None else round(share * seen.stored_bytes),
        )

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """Moved by the start of the crop."""
        return box.shift(self.box.start)


@dataclass(frozen=True, slots=True)
class Permute(BaseView):
    """The axes z y x in another order, as ``numpy.transpose`` takes it: axis k of the view is axis ``order[k]``.

        volume   z = layer   y = row     x = column
        view     z = row     y = layer   x = column        Permute((1, 0, 2))

    Channels stay first. Voxels stay where they are in the world.

    Raises
    ------
    RequestError
        If the order is no permutation of 0, 1, 2.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> Permute((2, 0, 1)).of(open_volume(np.zeros((5, 6, 7)))).info.shape_zyx
    (7, 5, 6)
    """

    order: Order
    kind: Literal["permute"] = "permute"

    def __post_init__(self) -> None:
        check_order(self.order)

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Shape, chunk and geometry in the other order."""
        return replace(
            _one_level(seen, permute(seen.shape_zyx, self.order)),
            chunk_zyx=permute(seen.chunk_zyx, self.order),
            geometry=seen.geometry.permuted(self.order),
        )

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """With its axes where they are stored."""
        return permute_box(box, inverse(self.order))

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Transposed."""
        return values.transpose(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True, slots=True)
class Flip(BaseView):
    """Axes in reverse: 0 for z, 1 for y, 2 for x.

        volume   0 1 2 3 4
        view     4 3 2 1 0        voxels stay where they are in the world, their index counts from the other end

    Raises
    ------
    RequestError
        If an axis is another, or named twice.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> Flip((2,)).of(open_volume(np.arange(5)[None, None])).read(Box.of((1, 1, 2)))
    array([[[[4, 3]]]])
    """

    axes: tuple[int, ...]
    kind: Literal["flip"] = "flip"

    def __post_init__(self) -> None:
        if len({*self.axes} & {0, 1, 2}) != len(self.axes):
            raise RequestError(f"axes {self.axes} cannot be flipped; use some of 0 (z), 1 (y), 2 (x), each once")

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Origin at the other end."""
        return replace(_one_level(seen, seen.shape_zyx), geometry=seen.geometry.flipped(self.axes, seen.shape_zyx))

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """As far from the end as the box is from the beginning."""
        sides = enumerate(zip(box.start, box.stop, shape_zyx, strict=True))
        (a, b), (c, d), (e, f) = ((n - hi, n - lo) if k in self.axes else (lo, hi) for k, (lo, hi, n) in sides)
        return Box((a, c, e), (b, d, f))

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Reversed."""
        return np.flip(values, tuple(axis + 1 for axis in self.axes))


@dataclass(frozen=True, slots=True)
class AsChannels(BaseView):
    """The positions along an axis as channels; the axis stays, one voxel long.

        volume   [1, Z, Y, X]
        view     [Z, 1, Y, X]        AsChannels(0): channel k is plane k, or with reverse plane Z - 1 - k

    A voxel of the view stands for the whole stack: it is so much longer, and lies at its middle.

    Raises
    ------
    RequestError
        If the axis is none of 0, 1, 2.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> seen = AsChannels(0).of(open_volume(np.zeros((26, 30, 40))))
    >>> seen.info.n_channels, seen.info.shape_zyx
    (26, (1, 30, 40))
    """

    axis: int
    reverse: bool = False
    kind: Literal["as channels"] = "as channels"

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise RequestError(f"axis {self.axis} cannot become channels; use 0 (z), 1 (y) or 2 (x)")

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """As many channels as the axis was long."""
        if seen.n_channels != 1:
            raise VolumeError(f"{seen.url} has {seen.n_channels} channels already; an axis cannot become channels too")
        n = seen.shape_zyx[self.axis]
        return replace(
            _one_level(seen, self._with(seen.shape_zyx, 1)),
            n_channels=n,
            chunk_zyx=self._with(seen.chunk_zyx, 1),
            geometry=seen.geometry.coarser(self._with((1, 1, 1), n)),
        )

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """The whole of the axis."""
        return Box(self._with(box.start, 0), self._with(box.stop, shape_zyx[self.axis]))

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """The axis in front, and one of length 1 in its place."""
        stack = np.moveaxis(values[0], self.axis, 0)[:: -1 if self.reverse else 1]
        return np.expand_dims(stack, self.axis + 1)

    def _with(self, zyx: Zyx, n: int) -> Zyx:
        z, y, x = (n if k == self.axis else value for k, value in enumerate(zyx))
        return z, y, x


@dataclass(frozen=True, slots=True)
class EightBit(BaseView):
    """8-bit values: the upper byte of 16-bit ones (value >> 8), 8-bit ones as they are.

    >>> from voxweft import open_volume
    >>> EightBit().of(open_volume(np.array([[[255, 256, 65535]]], np.uint16))).read(Box.of((1, 1, 3)))
    array([[[[  0,   1, 255]]]], dtype=uint8)
    """

    kind: Literal["eight bit"] = "eight bit"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """As uint8."""
        if seen.dtype not in ("uint8", "uint16"):
            raise VolumeError(f"{seen.url} holds {seen.dtype} values; only uint8 and uint16 become 8 bits")
        return replace(_one_level(seen, seen.shape_zyx), dtype="uint8")

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Shifted."""
        return eight_bit(values)


@dataclass(frozen=True, slots=True)
class AtLeast(BaseView):
    """1 where the voxels reach a value, 0 below; of several channels where any does. NaN reaches nothing.

    >>> from voxweft import open_volume
    >>> AtLeast(30).of(open_volume(np.array([[[29, 30, 200]]], np.uint8))).read(Box.of((1, 1, 3)))
    array([[[[0, 1, 1]]]], dtype=uint8)
    """

    value: float
    kind: Literal["at least"] = "at least"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """As uint8 of one channel."""
        return replace(_one_level(seen, seen.shape_zyx), dtype="uint8", n_channels=1)

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Compared."""
        return np.asarray((values >= self.value).any(axis=0, keepdims=True), np.uint8)


@dataclass(frozen=True, slots=True)
class Repeat(BaseView):
    """A coarse volume as if it were fine: every voxel stands for a block of so many.

        volume   0     1     2
        view     0 0 0 1 1 1 2 2          Repeat((1, 1, 3), (1, 1, 8)): the last block may be clipped, or goes on

    Raises
    ------
    RequestError
        If a factor is below 1.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> seen = Repeat((1, 1, 3), (1, 1, 7)).of(open_volume(np.arange(2)[None, None]))
    >>> seen.read(Box((0, 0, 2), (1, 1, 7)))
    array([[[[0, 1, 1, 1, 1]]]])
    """

    factor_zyx: Zyx
    shape_zyx: Zyx
    kind: Literal["repeat"] = "repeat"

    def __post_init__(self) -> None:
        if min(self.factor_zyx) < 1:
            raise RequestError(f"voxels cannot be repeated {self.factor_zyx} times; use 1 or more along each axis")

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Extent and chunk in the fine voxels, which lie evenly in the coarse ones."""
        z, y, x = (c * k for c, k in zip(seen.chunk_zyx, self.factor_zyx, strict=True))
        size = seen.geometry.voxel_size_zyx
        dz, dy, dx = (s / k for s, k in zip(size, self.factor_zyx, strict=True))
        first = seen.geometry.world([(1 - k) / (2 * k) for k in self.factor_zyx])
        geometry = replace(seen.geometry, voxel_size_zyx=(dz, dy, dx), origin_zyx=first)
        return replace(_one_level(seen, self.shape_zyx), chunk_zyx=(z, y, x), geometry=geometry)

    def reach(self, box: Box, shape_zyx: Zyx) -> Box:
        """The coarse voxels of a box, at least one along each axis."""
        stop = tuple(min(-(-b // k), n) for b, k, n in zip(box.stop, self.factor_zyx, shape_zyx, strict=True))
        start = tuple(min(a // k, b - 1) for a, k, b in zip(box.start, self.factor_zyx, stop, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Repeated."""
        sides = zip(box.start, box.stop, self.factor_zyx, values.shape[1:], strict=True)
        index = [np.clip(np.arange(a, b) // k - a // k, 0, n - 1) for a, b, k, n in sides]
        return values[np.ix_(np.arange(len(values)), *index)]


@dataclass(frozen=True, slots=True)
class Channels(BaseView):
    """Some channels of a volume, in this order.

    >>> from voxweft import open_volume
    >>> stack = open_volume(np.arange(4).reshape(4, 1, 1, 1))
    >>> Channels((3, 1)).of(stack).read(Box.of((1, 1, 1))).ravel()
    array([3, 1])
    """

    channels: tuple[int, ...]
    kind: Literal["channels"] = "channels"

    def info(self, seen: VolumeInfo) -> VolumeInfo:
        """Their number."""
        if not self.channels or not all(0 <= n < seen.n_channels for n in self.channels):
            raise VolumeError(f"{seen.url} has channels 0 to {seen.n_channels - 1}, not {self.channels}")
        return replace(_one_level(seen, seen.shape_zyx), n_channels=len(self.channels))

    def values(self, values: NDArray[Any], box: Box) -> NDArray[Any]:
        """Chosen."""
        return values[list(self.channels)]


View = Crop | Permute | Flip | AsChannels | EightBit | AtLeast | Repeat | Channels


class ViewedVolume(Explored):
    """A volume seen otherwise.

    Parameters
    ----------
    base
        The volume.
    view
        How it is seen.
    """

    def __init__(self, base: Volume, view: BaseView) -> None:
        self.base, self.view = base, view
        self.info = view.info(base.info)

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box of the view [C, Z, Y, X]; no more is read than they need."""
        source_box = self.view.reach(box, self.base.info.shape_zyx)
        return np.ascontiguousarray(self.view.values(self.base.read(source_box), box))


class Stack(Explored):
    """Volumes of equal shape as one: their channels follow each other.

        [2, Z, Y, X] and [1, Z, Y, X]  ->  [3, Z, Y, X]

    The dtype is one that holds all of theirs; geometry, format and URL are those of the first.

    Parameters
    ----------
    volumes
        At least one.

    Raises
    ------
    VolumeError
        If their shapes differ, or there is none.

    Examples
    --------
    >>> from voxweft import open_volume
    >>> Stack([open_volume(np.zeros((5, 6, 7))), open_volume(np.ones((5, 6, 7)))]).read(Box.of((1, 1, 1))).ravel()
    array([0., 1.])
    """

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self.volumes = tuple(volumes)
        infos = [v.info for v in self.volumes]
        if not infos:
            raise VolumeError("a stack needs at least one volume")
        first = infos[0]
        for other in infos[1:]:
            if other.shape_zyx != first.shape_zyx:
                raise VolumeError(
                    f"{other.url} has {other.shape_zyx} voxels and {first.url} {first.shape_zyx}: channels of one "
                    "volume have the same shape"
                )
        stored = [i.stored_bytes for i in infos if i.stored_bytes is not None]
        chunk = [max(sides) for sides in zip(*(i.chunk_zyx for i in infos), strict=True)]
        self.info = replace(
            _one_level(first, first.shape_zyx),
            dtype=np.result_type(*(i.dtype for i in infos)).name,
            n_channels=sum(i.n_channels for i in infos),
            chunk_zyx=(chunk[0], chunk[1], chunk[2]),
            is_label=any(i.is_label for i in infos),
            stored_bytes=sum(stored) if len(stored) == len(infos) else None,
            stamp=" ".join(i.stamp for i in infos).strip(),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X], of all volumes."""
        return np.concatenate([v.read(box) for v in self.volumes], dtype=self.info.dtype)


def eight_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of integers: the upper byte of uint16.

    >>> eight_bit(np.array([0, 255, 256, 65535], np.uint16))
    array([  0,   0,   1, 255], dtype=uint8)
    """
    return values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)


def _one_level(seen: VolumeInfo, shape_zyx: Zyx) -> VolumeInfo:
    """A view shows the level that was opened, and no other."""
    return replace(seen, shape_zyx=shape_zyx, levels=(shape_zyx,), level=0)
