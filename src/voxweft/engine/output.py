"""What stages read and write, and how their units are shared out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from voxweft.errors import RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.order import AS_IT_IS, Order, inverse, permute_box
from voxweft.model.frozen import FrozenDict


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a stage writes.

    Attributes
    ----------
    name
        "" for the result itself; others have a name, and lie beside it unless they were given a place.
    spec
        The array; None for a file that a gather writes.
    level
        Resolution level of the array, 0 is the finest.
    attributes
        What the array says of itself, plain JSON values.
    place
        URL of a named array that is not to lie beside the result.
    """

    name: str = ""
    spec: OutputSpec | None = None
    level: int = 0
    attributes: Mapping[str, Any] = field(default_factory=FrozenDict)
    place: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", FrozenDict(self.attributes))

    @property
    def shape_zyx(self) -> Zyx:
        """Voxels of the level; of a file none."""
        if self.spec is None:
            return (0, 0, 0)
        return self.spec.level_shapes[self.level]


@dataclass(frozen=True, slots=True)
class Source:
    """What a block or a gather reads.

    Attributes
    ----------
    name
        Of an input of the plan, or of an earlier stage.
    output
        Which output of that stage.
    finer_zyx
        Voxels of the source per voxel that is made, an axis.
    halo_zyx
        Voxels of the source that are read beyond the block, on both sides.
    only_after
        Whether they are read behind the block only.
    order
        How the source lies: axis k of the stage is axis ``order[k]`` of the source, as ``numpy.transpose`` takes it.
    """

    name: str
    output: int = 0
    finer_zyx: Zyx = (1, 1, 1)
    halo_zyx: Zyx = (0, 0, 0)
    only_after: bool = False
    order: Order = AS_IT_IS

    def reads(self, box: Box) -> Box:
        """What is read for a box, in the axes of the source; it may leave the source.

        >>> str(Source("image", finer_zyx=(2, 2, 2), halo_zyx=(1, 0, 0)).reads(Box((4, 0, 0), (6, 3, 3))))
        '7:13,0:6,0:6'
        """
        before = (0, 0, 0) if self.only_after else self.halo_zyx
        start = (a * f - h for a, f, h in zip(box.start, self.finer_zyx, before, strict=True))
        stop = (b * f + h for b, f, h in zip(box.stop, self.finer_zyx, self.halo_zyx, strict=True))
        return permute_box(Box(tuple(start), tuple(stop)), inverse(self.order))  # type: ignore[arg-type]


def share_of(n_units: int, index: int, count: int) -> range:
    """Shares differ by at most one unit; some are empty where there are more parts than units.

    >>> [share_of(5, i, 3) for i in range(3)]
    [range(0, 1), range(1, 3), range(3, 5)]
    """
    if count < 1 or not 0 <= index < count:
        raise RequestError(f"--part-id {index} with --num-parts {count}: use 0 to {max(count, 1) - 1}")
    return range(index * n_units // count, (index + 1) * n_units // count)


def broken(run: range, before: Collection[int]) -> Iterator[range]:
    """A range in pieces, of which each after the first begins with one of the numbers.

    >>> list(broken(range(2, 8), {2, 5, 9}))
    [range(2, 5), range(5, 8)]
    """
    starts = [run.start, *sorted(n for n in before if run.start < n < run.stop), run.stop]
    yield from (range(a, b) for a, b in itertools.pairwise(starts))


def consecutive(units: Iterable[int]) -> Iterator[range]:
    """Ascending numbers as ranges.

    >>> list(consecutive([0, 1, 2, 5, 6, 9]))
    [range(0, 3), range(5, 7), range(9, 10)]
    """
    for _, group in itertools.groupby(enumerate(sorted(units)), key=lambda pair: pair[1] - pair[0]):
        numbers = [unit for _, unit in group]
        yield range(numbers[0], numbers[-1] + 1)
