"""Operations on blocks of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from voxweft.engine.op import Cell, Made, block_op
from voxweft.ops.statistics import label_statistics


@block_op
def statistics_block(sources: Sequence[NDArray[Any]], cell: Cell, *, n_labels: int) -> Made:
    """What is known of the labels of a cell, from labels and image [1, Z, Y, X] of the same voxels."""
    labels, *images = sources
    return Made(table=label_statistics(labels[0], images[0][0] if images else None, cell.box.start, n_labels))
