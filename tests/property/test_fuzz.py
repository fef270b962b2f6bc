"""Odd metadata of volumes and models, a great many of them: a line of refusal or a result, soon, and nothing else.

VOXWEFT_FUZZ=2000 tries that many of each kind; what is tried then differs from run to run with VOXWEFT_EXPLORE=1.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import voxweft
from headnets import CellNet, as_onnx, torchscript
from voxweft.cli.app import execute
from voxweft.errors import VoxweftError
from voxweft.testing.strategies import damaged, mutated

N = int(os.environ.get("VOXWEFT_FUZZ", "60"))
LONGEST_S, MOST_BYTES = 10, 2 << 30
VOXELS = np.arange(6 * 7 * 8, dtype=np.uint16).reshape(6, 7, 8)
fuzz = settings(max_examples=N, suppress_health_check=[*HealthCheck], print_blob=True)

ZARR3 = {
    "zarr.json": {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "voxweft": {"direction_zyx": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "files": "7f"},
            "ome": {
                "version": "0.5",
                "image-label": {"colors": []},
                "multiscales": [
                    {
                        "name": "cells",
                        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
                        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
                        "datasets": [
                            {
                                "path": "0",
                                "coordinateTransformations": [
                                    {"type": "scale", "scale": [2.0, 0.5, 0.5]},
                                    {"type": "translation", "translation": [0.0, 1.0, 2.0]},
                                ],
                            }
                        ],
                    }
                ],
            },
        },
    },
    "0/zarr.json": None,
}
ZARR2 = {
    ".zgroup": {"zarr_format": 2},
    ".zattrs": {
        "multiscales": [
            {
                "version": "0.4",
                "axes": [
                    {"name": "z", "type": "space"},
                    {"name": "y", "type": "space"},
                    {"name": "x", "type": "space"},
                ],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]}],
            }
        ]
    },
    "0/.zarray": None,
    "0/.zattrs": {"_ARRAY_DIMENSIONS": ["z", "y", "x"]},
}
PLANS = {
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 100.0, "std": 20.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0}
    },
    "configurations": {
        "base": {
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
        },
        "3d_fullres": {
            "inherits_from": "base",
            "patch_size": [16, 16, 16],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [2, 4],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1],
                    "n_conv_per_stage_decoder": [1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        },
    },
}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "bone": 1, "all": [1, 2]},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}
SIDE = {
    "patch_size": [8, 8, 8],
    "divisor": [2, 2, 2],
    "num_classes": 2,
    "in_channels": 1,
    "activation": "softmax",
    "normalization": {"scheme": "ct", "lower": 0, "upper": 200, "mean": 90, "std": 20},
    "class_names": ["background", "cell"],
    "mirror_axes": [0, 1],
    "spacing": [1, 1, 1],
    "spacing_unit": "micrometer",
    "dimensions": 3,
}
HDF5 = {
    "axistags": {"axes": [{"key": n, "typeFlags": 2, "resolution": 0, "description": ""} for n in "zyx"]},
    "element_size_um": [2.0, 0.5, 0.5],
    "resolution": [4, 4, 40],
}


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command in this process takes its signals, and leaves them."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setenv("COLUMNS", "100000")
    yield
    for one, what in before.items():
        signal.signal(one, what)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MOST_BYTES


def told(*words: object) -> int:
    """The exit code of a command, 0 or 2, soon, in at most three printable lines."""
    said, out, begun = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        code = execute([str(word) for word in words])
    lines = said.getvalue().splitlines()
    assert time.monotonic() - begun < LONGEST_S
    assert "internal error" not in said.getvalue()
    assert code in (0, 2), said.getvalue()
    assert code == 0 or 1 <= len(lines) <= 3
    assert all(line.isprintable() for line in (*lines, *out.getvalue().splitlines()))
    return code


def look(path: Path) -> None:
    """Describe a volume and read of it what is small."""
    if told("info", path) == 0:
        with contextlib.suppress(VoxweftError):
            volume = voxweft.open_volume(path)
            stop = tuple(min(n, 8) for n in volume.info.shape_zyx)
            assert volume.read(voxweft.Box((0, 0, 0), stop)).shape[1:] == stop


def written(draw: Any, place: Path, document: Any) -> None:
    data = json.dumps(document).encode()
    place.write_bytes(draw(damaged(data)) if draw(st.integers(0, 9)) == 0 else data)


def changed(draw: Any, documents: dict[str, Any]) -> dict[str, Any]:
    """The documents, one of them with something odd in it."""
    name = draw(st.sampled_from(sorted(documents)))
    return documents | {name: draw(mutated(documents[name]))}


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:
    documents: dict[str, Any] = {2: ZARR2, 3: ZARR3}[version]
    root = tmp_path / "a.zarr"
    zarr.create_array(
        str(root / "0"), data=VOXELS, chunks=(4, 4, 4), shards=(4, 8, 8) if version == 3 else None, zarr_format=version
    )
    array = max(name for name in documents if documents[name] is None)
    documents = documents | {array: json.loads((root / array).read_text())}

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        for name, document in changed(data.draw, documents).items():
            written(data.draw, root / name, document)
        look(root)

    tried()


def test_hdf5(tmp_path: Path) -> None:
    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            dataset = file.create_dataset("raw", data=VOXELS)
            for name, value in changed(data.draw, HDF5).items():
                with contextlib.suppress(TypeError, ValueError, OverflowError, UnicodeError):  # what HDF5 cannot hold
                    dataset.attrs[name] = json.dumps(value) if name == "axistags" else value
        look(tmp_path / "a.h5")

    tried()


def test_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "b.ome.tif", VOXELS, photometric="minisblack", metadata={"axes": "ZYX", "PhysicalSizeX": 0.5}
    )
    tifffile.imwrite(tmp_path / "b.tif", VOXELS, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "nm"})
    originals = [path.read_bytes() for path in (tmp_path / "b.ome.tif", tmp_path / "b.tif")]

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        changed = data.draw(damaged(data.draw(damaged(data.draw(st.sampled_from(originals))))))
        (tmp_path / "a.tif").write_bytes(changed)
        look(tmp_path / "a.tif")

    tried()


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_side_files(tmp_path: Path, kind: str) -> None:
    if kind == "pt":
        torchscript(tmp_path / "net.pt", CellNet())
    else:
        as_onnx(tmp_path / "net.onnx", CellNet(), (8, 8, 8), ("cell",))

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        written(data.draw, tmp_path / "net.json", data.draw(mutated(SIDE)))
        told("info", tmp_path / f"net.{kind}")

    tried()


def test_model_folders(tmp_path: Path) -> None:
    from voxweft.backends.nnunet import build
    from voxweft.backends.plans import configuration_of, read_plans

    documents: dict[str, Any] = {"plans.json": PLANS, "dataset.json": DATASET}
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    plans, dataset = read_plans(tmp_path)
    network = build(configuration_of(plans, "3d_fullres", tmp_path), 1, len(dataset.class_names), tmp_path)
    (tmp_path / "fold_0").mkdir()
    settings = {"configuration": "3d_fullres"}
    content = {"network_weights": network.state_dict(), "init_args": settings, "trainer_name": "nnUNetTrainer"}
    torch.save(content, tmp_path / "fold_0/checkpoint_final.pth")
    assert told("info", tmp_path) == 0

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        for name, document in changed(data.draw, documents).items():
            written(data.draw, tmp_path / name, document)
        told("info", tmp_path)

    tried()


def test_damaged_model_files(tmp_path: Path) -> None:
    models = [
        torchscript(tmp_path / "a.pt", CellNet()),
        as_onnx(tmp_path / "a.onnx", CellNet(), (8, 8, 8), ("cell",)),
    ]
    contents = [path.read_bytes() for path in models]

    @fuzz
    @given(st.data())
    def tried(data: Any) -> None:
        which = data.draw(st.integers(0, len(models) - 1))
        models[which].write_bytes(data.draw(damaged(contents[which])))
        told("info", models[which])

    tried()
