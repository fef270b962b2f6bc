"""Finishing logits that lie in an array already: what a sweep does at its end, as an operation on blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.op import Cell, Made, block_op
from voxweft.errors import RunError
from voxweft.ops.activate import Finish


@block_op
def finish_block(sources: Sequence[NDArray[Any] | None], cell: Cell, **settings: Any) -> Made:
    """Finished values of a cell.

    Parameters
    ----------
    sources
        Logits [C, Z, Y, X], and perhaps a mask [1, Z, Y, X] of the same voxels. Where every class is exactly 0 no
        patch ran; such a voxel becomes 0, as do those where the mask is not positive.
    cell
        Its place.
    **settings
        The fields of :class:`~voxweft.ops.activate.Finish`.

    Raises
    ------
    RunError
        If the logits are not finite.
    """
    return _finished(sources, cell, [settings])


@block_op
def finish_heads(sources: Sequence[NDArray[Any] | None], cell: Cell, *, heads: Sequence[Mapping[str, Any]]) -> Made:
    """The same for several outputs; ``heads`` has the settings of each."""
    return _finished(sources, cell, heads)


def _finished(sources: Sequence[NDArray[Any] | None], cell: Cell, wanted: Sequence[Mapping[str, Any]]) -> Made:
    import torch

    logits, *masks = sources
    inside = masks[0][0] > 0 if masks and masks[0] is not None else None
    if logits is None or not logits.any() or (inside is not None and not inside.any()):
        return Made()
    held = torch.from_numpy(logits.astype(np.float32))
    if not bool(held.sum().isfinite()):
        raise RunError(f"the logits of {cell.box} are NaN or Inf; blend them again")
    arrays, nowhere = [], ~logits.any(axis=0)
    for settings in wanted:
        finish = Finish(**settings)
        values = finish(held[1:] - held[:1] if finish.differences else held)
        values[:, nowhere] = 0
        if inside is not None:
            values[:, ~inside] = 0
        arrays.append(values)
    return Made(tuple(arrays))
