"""Mitochondria of a real stack, with the network of shared/models; neurons; and how images are made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from conftest import Voxweft
from voxweft.apps import panoptic
from voxweft.apps.panoptic.options import ImageJob, StackJob
from voxweft.geometry.box import Box
from voxweft.geometry.regrid import Regrid
from voxweft.image.resampled import Resample

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("cc3d")
HELD_OUT = 816  # rows from here on were not seen in training
README_DICE = 0.8427


@pytest.fixture(scope="module")
def stack(shared: Path) -> Any:
    folder = shared / "data" / "em_sstem_vnc_nc"
    return tifffile.imread(folder / "raw.tif"), tifffile.imread(folder / "semantic.tif") == 2


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "empanada_vnc_mito" / "VNCMito_tiny.pth"


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_dice_of_rows_that_were_held_out(stack: Any, model: Path) -> None:
    image, truth = stack
    sink = voxweft.open_sink("memory://")
    panoptic.image(image, sink, model, ImageJob(centers_min_distance=7, chunk="16,256,256"))
    found = sink.read(Box.of(image.shape))[0]
    assert found[found > 0].min() >= 10001
    assert abs(dice(found[:, HELD_OUT:] > 0, truth[:, HELD_OUT:]) - README_DICE) < 0.02


def test_stack_and_ortho_by_the_command(
    tmp_path: Path, shared: Path, stack: Any, model: Path, voxweft: Voxweft
) -> None:
    _, truth = stack
    data = shared / "data" / "em_sstem_vnc_nc" / "raw.tif"
    settings = ("-m", model, "--nms-kernel", 7, "--min-size", 100, "--min-extent", 2)
    scores = {}
    for command, more in (("stack", ()), ("ortho", ("--voxel-vote-thr", 1, "--permit-detections-in-1-stack"))):
        voxweft("panoptic", command, data, f"{command}.zarr", *settings, *more)
        found = zarr.open(tmp_path / f"{command}.zarr", mode="r")["0"][:]
        scores[command] = dice(found[:, HELD_OUT:] > 0, truth[:, HELD_OUT:])
        page = (tmp_path / f"{command}.zarr.voxweft" / "report.html").read_text()
        assert "The least certain" in page
    assert scores["stack"] > README_DICE - 0.02
    assert scores["ortho"] > 0.4  # slices of xz and yz of voxels ten times as long as wide look unlike those of xy


def test_half_the_resolution_finds_most_of_them(stack: Any, model: Path) -> None:
    image, truth = stack
    sink = voxweft.open_sink("memory://")
    panoptic.stack(image, sink, model, StackJob(image_downsampling=2, centers_min_distance=3, min_extent=2))
    found = sink.read(Box.of(image.shape))[0]
    assert found.shape == image.shape
    assert dice(found > 0, truth) > 0.4


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_images_are_made_smaller_as_opencv_does(stack: Any, scale: int) -> None:
    cv2 = pytest.importorskip("cv2")
    image = stack[0][0][:1001, :637]
    size = tuple(-(-n // scale) for n in image.shape)
    view = Resample(Regrid.of((1, *image.shape), (1, *size), 1), dtype="uint8").of(voxweft.open_volume(image[None]))
    found = view.read(Box.of((1, *size)))[0, 0].astype(int)
    wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(found - wanted).max() <= 1
    assert np.abs(found - wanted).mean() < 0.2  # it rounds in 11 bits, each of its releases in its own way


def variation(a: Any, b: Any) -> tuple[float, float]:
    """Variation of information in bits: what is split, and what is merged, of ``b`` in ``a``."""
    keys = a.astype(np.int64) * (int(b.max()) + 1) + b

    def entropy(values: Any) -> float:
        n = np.unique(values, return_counts=True)[1] / values.size
        return float(-(n * np.log2(n)).sum())

    return entropy(keys) - entropy(b), entropy(keys) - entropy(a)


def test_neurons_in_one_two_and_five_parts(tmp_path: Path, shared: Path, voxweft: Voxweft) -> None:
    labels = zarr.open(shared / "data" / "labels_connectomics" / "labels.zarr", mode="r")
    truth = (labels if hasattr(labels, "shape") else labels["0"])[200:264, :192, :192]
    zarr.create_array(tmp_path / "neurons.zarr", data=truth, chunks=(32, 64, 64))
    settings = ("-m", "fake://labels", "--fine-boundaries", "--accept-labels", "--median", "plain", "--min-size", 0)
    settings = (*settings, "--min-extent", 0, "--memory", "600MB", "--merge-ioa-thr", 0.8)
    made = []
    for n in (1, 2, 5):
        for part in range(n):
            share = ("--num-parts", n, "--part-id", part) if n > 1 else ()
            voxweft("panoptic", "stack", "neurons.zarr", f"{n}.zarr", *settings, *share)
        made.append(zarr.open(tmp_path / f"{n}.zarr", mode="r")["0"][:])
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])
    split, merged = variation(made[0], truth)
    assert split < 1.5
    assert merged < 1.5
