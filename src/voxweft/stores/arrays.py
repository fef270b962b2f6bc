"""A plain zarr v3 array in a folder of its own, filled block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx


@dataclass(frozen=True, slots=True)
class Turn:
    """Axes z y x exchanged, then reversed: axis k of what is made is axis ``order[k]``.

    >>> Turn((1, 0, 2), (0,)).box(Box((0, 0, 0), (1, 2, 3)), (4, 5, 6))
    Box(start=(3, 0, 0), stop=(5, 1, 3))
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[int, ...] = ()

    def shape(self, shape: Zyx) -> Zyx:
        """Extent of what is made."""
        z, y, x = (shape[axis] for axis in self.order)
        return z, y, x

    def box(self, box: Box, shape: Zyx) -> Box:
        """Where a box goes, of an array of this shape."""
        sides = []
        for k, axis in enumerate(self.order):
            a, b, n = box.start[axis], box.stop[axis], shape[axis]
            sides.append((n - b, n - a) if k in self.flips else (a, b))
        (a, b), (c, d), (e, f) = sides
        return Box((a, c, e), (b, d, f))

    def values(self, values: NDArray[Any]) -> NDArray[Any]:
        """Voxels [C, Z, Y, X], turned."""
        turned = values.transpose(0, *(axis + 1 for axis in self.order))
        return np.flip(turned, tuple(axis + 1 for axis in self.flips))


def write_array(
    path: Path,
    blocks: Iterable[tuple[Box, NDArray[Any]]],
    shape: tuple[int, int, int, int],
    turn: Turn,
    attributes: Mapping[str, Any],
) -> None:
    """Write blocks [C, Z, Y, X] of an array [C, Z, Y, X], turned; float16 or whatever the first block is.

    Blosc lz4 with shuffling, as itk_infer stores logits; one chunk a block and channel at most.
    """
    import zarr
    from zarr.codecs import BloscCodec

    target: Any = None
    for box, values in blocks:
        made = turn.values(values)
        if target is None:
            target = zarr.create_array(
                str(path),
                shape=(shape[0], *turn.shape(shape[1:])),
                chunks=(1, *(min(n, 128) for n in turn.shape(shape[1:]))),
                dtype=values.dtype,
                compressors=BloscCodec(cname="lz4", clevel=6, shuffle="shuffle"),
                attributes=dict(attributes),
                dimension_names=("c", "z", "y", "x"),
            )
        target[(slice(None), *turn.box(box, shape[1:]).slices)] = made
