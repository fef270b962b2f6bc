"""Numbers of a volume of which little is stored: a sample is read for a plan, what is stored for a run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from voxweft.model.card import Normalization
from voxweft.ops.normalize import PIECE, moments
from voxweft.runner.measure import estimate_volume, measure_volume
from voxweft.stores import open_volume
from voxweft.stores.zarr import ZarrVolume

ASKED = ((Normalization("global_zscore"),),)


@pytest.fixture(params=[2, 3])
def scarce(tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[ZarrVolume, np.ndarray, list[int]]:
    """512^3 of which 200 of 4096 chunks are stored, all its values, and the voxels of each box that is read."""
    array = zarr.create_array(
        tmp_path / "v.zarr", shape=(512,) * 3, chunks=(32,) * 3, dtype="uint8", zarr_format=request.param, fill_value=3
    )
    rng, n_read = np.random.default_rng(0), list[int]()
    for z, y, x in itertools.islice(itertools.product(range(4, 12), repeat=3), 200):
        array[z * 32 : z * 32 + 32, y * 32 : y * 32 + 32, x * 32 : x * 32 + 32] = rng.integers(
            20 + 5 * y, 150 + 5 * x, (32,) * 3, np.uint8
        )
    read = ZarrVolume.read
    monkeypatch.setattr(ZarrVolume, "read", lambda self, box: n_read.append(box.n_voxels) or read(self, box))
    return open_volume(tmp_path / "v.zarr"), np.asarray(array[:]), n_read


def test_a_plan_reads_a_sample_and_a_run_what_is_stored(scarce: Any) -> None:
    volume, values, n_read = scarce
    ((guess,),), (note,) = estimate_volume(volume, ASKED)
    assert sum(n_read) <= 65 * 32**3
    mean_error, std_error = map(float, re.findall(r"\+- ([\d.e-]+\d)", note))
    assert abs(guess.mean - values.mean()) < 4 * mean_error < 0.2 * values.mean()
    assert abs(guess.std - values.std()) < 4 * std_error < 0.2 * values.std()

    n_read.clear()
    ((exact,),) = measure_volume(volume, ASKED)
    assert sum(n_read) < values.size / 2  # rows of chunks of which nothing is stored are not
    np.testing.assert_allclose((exact.mean, exact.std), (values.mean(), values.std()), rtol=1e-12)

    volume.stores = lambda _box: True
    assert measure_volume(volume, ASKED) == ((exact,),)  # to the last bit


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("n", [1, 127, PIECE, PIECE + 1, 5 * PIECE + 9, 1_000_003])
def test_moments_have_the_bits_of_numpy(n: int, dtype: str) -> None:
    values = (np.random.default_rng(n).random((2, 1, 1, n)) * 250).astype(dtype)
    expected = values.reshape(2, n).var(axis=1, dtype=np.float64) * n
    np.testing.assert_array_equal(moments(values)["m2"][0], expected)
