"""The numbers of a whole volume, from blocks of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxweft.engine import samples
from voxweft.model.card import Normalization
from voxweft.runner import measure
from voxweft.stores.memory import MemoryVolume
from voxweft.testing.strategies import volumes


@given(volumes(channels=2), st.sampled_from([1, 1 << 10, 1 << 25]))
def test_blocks_have_the_numbers_of_the_whole(array: NDArray[Any], max_voxels: int) -> None:
    volume = MemoryVolume(array, chunk_zyx=(4, 8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "block_of_chunks", lambda s, c: samples.block_of_chunks(s, c, max_voxels))
        (zscores, minmax, none) = measure.measure_volume(
            volume, tuple((Normalization(name),) for name in ("global_zscore", "global_minmax", "none"))
        )
    wide = array.reshape(2, -1).astype(float)
    np.testing.assert_allclose([(n.mean, n.std) for n in zscores], [(c.mean(), c.std()) for c in wide], rtol=1e-12)
    assert [(n.lower, n.upper) for n in minmax] == [(c.min(), c.max()) for c in wide]
    assert none == (Normalization("none"),)
