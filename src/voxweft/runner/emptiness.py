"""How many patches of a volume hold anything, from a look at some of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from voxweft.engine.stage import Sweep
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.sampling import spread_points
from voxweft.image.protocols import Volume
from voxweft.runner.measure import stores_of

N_LOOKED = 4096  # patches, at most; most of those of an empty volume are not read, since nothing is stored there


@dataclass(frozen=True, slots=True)
class Emptiness:
    """Of a sweep.

    Attributes
    ----------
    share_run
        Of its patches, those that are run; the others hold one value only, and are skipped.
    middle
        Of the region where a patch is run there, else of one that is run, as near as was found.
    """

    share_run: float
    middle: Zyx

    @classmethod
    def of(cls, stage: Sweep, volume: Volume, seconds: float) -> Emptiness:
        """Look at patches spread over the region for about so many seconds."""
        middle = _middle(stage.region)
        if not stage.skip_empty or stage.sparse:
            return cls(1.0, middle)
        end, whole = time.perf_counter() + seconds, Box.of(stage.info.shape_zyx)
        stores = stores_of(volume)
        ranges = stage.grid.touching(stage.region)
        indices = Box(tuple(r.start for r in ranges), tuple(r.stop for r in ranges))  # type: ignore[arg-type]

        def is_run(index: Zyx) -> bool:
            box = stage.grid.tile(index).box & whole
            return stores(box) and not is_constant(volume.read(box))

        n, run = 0, list[Zyx]()
        for index in spread_points(indices, min(N_LOOKED, indices.n_voxels)):
            n += 1
            if is_run(index):
                run.append(_middle(stage.grid.tile(index).box & whole))
            if time.perf_counter() > end:
                break
        share = len(run) / n
        if not run or is_run(_middle(indices)):
            return cls(share, middle)
        return cls(share, min(run, key=lambda place: math.dist(place, middle)))


def is_constant(voxels: NDArray[Any]) -> bool:
    """Whether every channel [C, Z, Y, X] holds one value only."""
    return bool((voxels == voxels[:, :1, :1, :1]).all())


def _middle(box: Box) -> Zyx:
    z, y, x = ((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
    return z, y, x
