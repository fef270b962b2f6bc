"""Views of a patch: what they do is undone, also to vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from voxweft.engine.forward import sum_of_views
from voxweft.ops.augment import views


def with_gradient(batch: torch.Tensor) -> torch.Tensor:
    """[B, 1, Z, Y, X] -> the values, and their gradient along x, y and z (in this order), and the values again."""
    z, y, x = torch.gradient(batch[:, 0], dim=(1, 2, 3))
    return torch.stack([batch[:, 0], x, y, z, batch[:, 0]], 1)


@pytest.mark.parametrize("kind", ["mirroring", "rotation", "turns:8"])
def test_the_gradient_of_a_turned_image_turns_back(kind: Any) -> None:
    batch = torch.rand((2, 1, 6, 6, 6), dtype=torch.float64)
    wanted = with_gradient(batch)
    for view in views(kind):
        found = sum_of_views(with_gradient, batch, (view,), vectors=(1,))
        assert torch.equal(found, wanted)
        if view.flips or view.swap:
            assert not torch.equal(sum_of_views(with_gradient, batch, (view,)), wanted)
