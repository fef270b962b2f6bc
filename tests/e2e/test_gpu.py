"""On an accelerator: the bits of any cut, and the values of the CPU within one grey level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import voxweft as package
from voxweft.testing import make_phantom

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.parametrize("model", ["demo", "fake://blur?patch=64,64,64&normalization=instance_zscore"])
def test_a_gpu_gives_the_cpus_values_and_its_own_bits_in_any_cut(tmp_path: Path, model: Any) -> None:
    image = make_phantom((160, 160, 160), seed=1).image
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(64, 64, 64), dtype="uint8")[:] = image

    def values(device: str, **options: str) -> np.ndarray:
        output = str(tmp_path / f"{device}{len(list(tmp_path.iterdir()))}.zarr")
        asked = package.RunOptions(device=device, runtime="torch", precision="fp32", **options)
        assert package.run(str(tmp_path / "in.zarr"), output, model, asked).status == "complete"
        return np.asarray(zarr.open_array(f"{output}/0", mode="r")[:]).astype(int)

    gpu = values("cuda")
    assert np.array_equal(gpu, values("cuda", chunk="32,64,64"))
    assert np.abs(gpu - values("cpu")).max() <= 1
