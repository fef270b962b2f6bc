"""From final planes of the accumulator to planes of the outputs: on the same grid, or on another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.known import KnownPlanes, tally
from voxweft.engine.masking import Mask, MaskPlanes
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.stage import Sweep
from voxweft.engine.weave import Weaver
from voxweft.errors import RunError
from voxweft.geometry.box import Box
from voxweft.geometry.regrid import AxisMap, Regrid
from voxweft.ops.activate_device import finish_of

if TYPE_CHECKING:
    import torch

STRIP_VOXELS = {"cpu": 1 << 18, "cuda": 1 << 26}
STRIP_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}  # logits that are resampled at once


class Finishing(Protocol):
    """Takes planes from the weaver as they become final."""

    def to(self, end: int) -> None:
        """All swept planes below ``end`` are final, in voxels of the swept grid."""

    def end(self) -> None:
        """No more will come."""


def finishing(
    stage: Sweep, box: Box, weaver: Weaver, mask: MaskPlanes, writer: SlabWriter, known: KnownPlanes | None = None
) -> Finishing:
    """That of a sweep of an output box."""
    if stage.regrid is None:
        return SameGrid(stage, box, weaver, mask, writer, known)
    return OtherGrid(stage, box, weaver, writer, stage.regrid)


class SameGrid:
    """Every voxel of the outputs is one of the sweep."""

    def __init__(
        self,
        stage: Sweep,
        box: Box,
        weaver: Weaver,
        mask: Mask,
        writer: SlabWriter,
        known: KnownPlanes | None = None,
    ) -> None:
        self._stage, self._box, self._weaver, self._mask, self._writer = stage, box, weaver, mask, writer
        self._known = known
        self.cursor = box.start[0]
        self._background = [
            np.array(f.background if f.output == "logits" else [0] * f.n_channels)[:, None] for f in stage.finishes
        ]

    def to(self, end: int) -> None:
        """Strip by strip."""
        lo, self.cursor = self.cursor, max(self.cursor, end)
        if lo < end:
            self.planes(lo, end)
            self._writer.advance(end)

    def end(self) -> None:
        """Nothing is left."""

    def planes(self, lo: int, end: int) -> None:
        """The planes ``lo <= z < end``, which are final."""
        blended, uncovered = self._weaver.take(lo, end)
        require_finite(blended, lo, end)
        height, width = blended.shape[2:]
        kind = blended.device.type
        rows = max(1, min(STRIP_VOXELS[kind] // width, 4 * STRIP_VALUES[kind] // (width * len(blended))))
        for z in range(lo, end):
            outside = self._mask.outside(z, self._box)
            holes = [e for e in (uncovered[z - lo] if uncovered is not None else None, outside) if e is not None]
            there = self._known.take(z, holes) if self._known else None
            for y in range(0, height, rows):
                strip = blended[:, z - lo : z - lo + 1, y : y + rows]
                made = [finish(strip) for finish in self._stage.finishes]
                for values, background in zip(made, self._background, strict=True) if holes else ():
                    for empty in holes:
                        values[:, 0, empty[y : y + rows]] = background
                if there is not None:
                    made.append(there[None, None, y : y + rows])
                self._writer.put(z, y, made, self._box)
            if there is not None:
                self._writer.note(tally(there))


class OtherGrid:
    """The outputs lie on a grid to which the logits are resampled, each voxel from its two neighbours along an axis.

        swept     z |====|====|====|          final: the last plane is kept, since the next output plane may need it
        outputs   z |==|==|==|==|==|==|       made as soon as both planes of theirs are final

    A linear map keeps what all neighbours agree on, so where only labels are wanted, voxels whose neighbours have one
    label take that label, and classes that are nowhere near the largest are left out: the result is the same.
    """

    def __init__(self, stage: Sweep, box: Box, weaver: Weaver, writer: SlabWriter, regrid: Regrid) -> None:
        self._stage, self._box, self._weaver, self._writer, self._regrid = stage, box, weaver, writer, regrid
        self._area = stage.source_box(box)
        self._cursor, self._z = self._area.start[0], box.start[0]
        self._kept: dict[int, torch.Tensor] = {}  # swept planes [C', Y, X] that output planes to come may need
        self._labels: dict[int, NDArray[Any]] = {}
        finishes = stage.finishes
        self._only_labels = len(finishes) == 1 and finishes[0].output in ("labels", "mask")
        self._exclusive = self._only_labels and finishes[0].differences and finishes[0].mode == "multiclass"
        self._rows = _Taps(regrid.axes[1], box.start[1], box.stop[1])
        self._columns = _Taps(regrid.axes[2], box.start[2], box.stop[2])

    def to(self, end: int) -> None:
        """Output planes whose swept planes are final."""
        lo, self._cursor = self._cursor, max(self._cursor, end)
        if lo >= end:
            return
        blended, _ = self._weaver.take(lo, end)
        require_finite(blended, lo, end)
        self._kept |= {lo + n: blended[:, n] for n in range(end - lo)}
        axis = self._regrid.axes[0]
        last = self._area.stop[0]
        while self._z < self._box.stop[0] and (end >= last or axis.span(self._z, self._z + 1)[1] <= end):
            self._plane(self._z)
            self._z += 1
        first = axis.span(self._z, self._z + 1)[0] if self._z < self._box.stop[0] else end
        self._kept = {z: p.clone() if z >= lo else p for z, p in self._kept.items() if z >= first}
        self._labels = {z: labels for z, labels in self._labels.items() if z >= first}
        self._writer.advance(self._z)

    def end(self) -> None:
        """Nothing is left."""

    def _plane(self, z: int) -> None:
        """One output plane, strip by strip."""
        first, weights = (a[z - self._regrid.axes[0].offset] for a in self._regrid.axes[0].taps)
        pair = [int(first) + k for k, w in enumerate(weights) if w]
        planes = [self._kept[k] for k in pair]
        device = planes[0].device
        height, width = self._box.shape[1:]
        mixed = self._mixed(pair) if self._only_labels else None
        rows = max(1, STRIP_VALUES[device.type] // (width * len(planes[0])))
        for y in range(0, height, rows):
            stop = min(height, y + rows)
            a, b = self._rows.span(y, stop)
            strip = _between(planes[0][:, a:b], planes[1][:, a:b] if planes[1:] else None, float(weights[-1]))
            if mixed is None:
                made = [finish_of(f, self._enlarged(strip, y, stop, (0, width))[:, None]) for f in self._stage.finishes]
            else:
                made = [self._labelled(strip, planes, (y, stop), mixed, pair[0])]
            self._writer.put(z, y, made, self._box)

    def _labelled(
        self, strip: torch.Tensor, planes: list[torch.Tensor], rows: tuple[int, int], mixed: NDArray[np.bool_], z: int
    ) -> NDArray[Any]:
        """Labels [1, 1, rows, width]: resampled logits only between the first and the last column that need them."""
        (y, stop), finish = rows, self._stage.finish
        labels = self._labels[z][self._rows.first[y:stop, None], self._columns.first][None, None]
        wanted = mixed[self._rows.first[y:stop, None], self._columns.first].any(axis=0)
        if wanted.any():
            lo, hi = int(wanted.argmax()), len(wanted) - int(wanted[::-1].argmax())
            if self._exclusive:
                a, b = self._rows.span(y, stop)
                c, d = self._columns.span(lo, hi)
                chosen = _in_reach([plane[:, a:b, c:d] for plane in planes])
                values = self._enlarged(strip[chosen], y, stop, (lo, hi))
                labels[0, 0, :, lo:hi] = _largest(values, chosen)
            else:
                labels[..., lo:hi] = finish_of(finish, self._enlarged(strip, y, stop, (lo, hi))[:, None])
        return np.asarray(labels)

    def _enlarged(self, strip: torch.Tensor, y: int, stop: int, columns: tuple[int, int]) -> torch.Tensor:
        """Rows and columns of the output, from a swept strip whose first row is the first that they need."""
        return self._columns.apply(self._rows.apply(strip, y, stop, 1), *columns, 2, begins=0)

    def _mixed(self, pair: list[int]) -> NDArray[np.bool_]:
        """Of every swept voxel [Y, X]: whether it and those after it along each axis have more than one label."""
        for k in pair:
            if k not in self._labels:
                self._labels[k] = finish_of(self._stage.finish, self._kept[k][:, None])[0, 0]
        first = self._labels[pair[0]]
        mixed = np.zeros(first.shape, np.bool_)
        for k in pair:
            labels = self._labels[k]
            mixed |= labels != first
            for rows, columns in ((1, 0), (0, 1), (1, 1)):
                here, there = (slice(None, -1) if n else slice(None) for n in (rows, columns))
                inside = (here, there)
                after = (slice(rows, None), slice(columns, None))
                mixed[inside] |= labels[after] != first[inside]
        return mixed


class _Taps:
    """The two neighbours of every voxel out along an axis, relative to the swept area, and the weight of the second."""

    def __init__(self, axis: AxisMap, lo: int, hi: int) -> None:
        start, stop = axis.span(lo, hi)
        first, weights = (a[lo - axis.offset : hi - axis.offset] for a in axis.taps)
        self.first = first - start
        self._second = np.minimum(self.first + 1, stop - start - 1)
        self._weight = weights[:, 1].astype(np.float32) if weights.shape[1] > 1 else np.zeros(hi - lo, np.float32)

    def span(self, lo: int, hi: int) -> tuple[int, int]:
        """The swept voxels that voxels out ``lo`` to ``hi`` are made of."""
        return int(self.first[lo:hi].min()), int(self._second[lo:hi].max()) + 1

    def apply(self, values: torch.Tensor, lo: int, hi: int, axis: int, begins: int | None = None) -> torch.Tensor:
        """The voxels out ``lo`` to ``hi`` along an axis; values begin with the first that they need, or ``begins``."""
        import torch

        begins = self.span(lo, hi)[0] if begins is None else begins
        device = values.device
        first, second = (torch.from_numpy(n[lo:hi] - begins).to(device) for n in (self.first, self._second))
        below = values.index_select(axis, first)
        if not self._weight[lo:hi].any():
            return below
        weight = torch.from_numpy(self._weight[lo:hi]).to(device).reshape([-1 if k == axis else 1 for k in range(3)])
        return values.index_select(axis, second).sub_(below).mul_(weight).add_(below)


def _between(a: torch.Tensor, b: torch.Tensor | None, weight: float) -> torch.Tensor:
    return a if b is None else (b - a).mul_(weight).add_(a)


def _in_reach(planes: list[torch.Tensor]) -> torch.Tensor:
    """Numbers of the channels that may be the largest somewhere between the voxels of planes [C', Y, X]."""
    highest = planes[0].amax(dim=(1, 2))
    lowest = planes[0].amin(dim=(1, 2))
    for plane in planes[1:]:
        highest = highest.maximum(plane.amax(dim=(1, 2)))
        lowest = lowest.minimum(plane.amin(dim=(1, 2)))
    margin = 1e-5 * (1 + highest.abs().max())  # rounding of the sums between
    return (highest >= lowest.max().clamp(min=0) - margin).nonzero()[:, 0]


def _largest(values: torch.Tensor, chosen: torch.Tensor) -> NDArray[Any]:
    """The class of each voxel, of differences to class 0 of the chosen others."""
    if not len(chosen):
        return np.zeros(tuple(values.shape[1:]), np.uint8)
    top, index = values.max(dim=0)
    return ((chosen[index] + 1) * (top > 0)).cpu().numpy()


def require_finite(blended: torch.Tensor, lo: int, hi: int) -> None:
    """Refuse logits that are not finite.

    Raises
    ------
    RunError
        Naming the planes.
    """
    if not bool(blended.sum().isfinite()):
        refuse(lo, hi)


def refuse(lo: int, hi: int) -> NoReturn:
    """Say that logits of planes are not finite."""
    raise RunError(
        f"the network returned NaN or Inf for planes z {lo} to {hi - 1}",
        "Look at the input there, or use --precision fp32.",
    )
