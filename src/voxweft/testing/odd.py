"""Volumes and models as they should not be: what a front end must refuse in a line, or read right; needs hypothesis.

Each strategy writes a file or folder that is whole, but for one to three values of its metadata, or a few bytes, and
gives its path.

>>> from hypothesis import given
>>> from voxweft.errors import VoxweftError
>>> import tempfile, voxweft
>>> @given(odd_zarrs(Path(tempfile.mkdtemp())))
... def test_an_odd_volume_is_read_or_refused(path):
...     try:
...         voxweft.open_volume(path)
...     except VoxweftError:
...         pass
>>> test_an_odd_volume_is_read_or_refused()
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from voxweft.testing.strategies import damaged, mutated

VOXELS = np.arange(6 * 7 * 8, dtype=np.uint16).reshape(6, 7, 8)
NETWORK, CHECKPOINT = "3d_fullres", "fold_0/checkpoint_final.pth"
ZARR3: dict[str, Any] = {
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
ZARR2: dict[str, Any] = {
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
PLANS: dict[str, Any] = {
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
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "bone": 1, "all": [1, 2]},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}
SIDE: dict[str, Any] = {
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
HDF5: dict[str, Any] = {
    "axistags": {"axes": [{"key": n, "typeFlags": 2, "resolution": 0, "description": ""} for n in "zyx"]},
    "element_size_um": [2.0, 0.5, 0.5],
    "resolution": [4, 4, 40],
}


@st.composite
def odd_zarrs(draw: st.DrawFn, folder: Path, versions: tuple[int, ...] = (2, 3)) -> Path:
    """OME-Zarr groups of one level, zarr v2 or v3, odd in the metadata of the group or of the array."""
    import zarr

    version: Any = draw(st.sampled_from(versions))
    root = folder / f"v{version}.zarr"
    documents: dict[str, Any] = {2: ZARR2, 3: ZARR3}[version]
    shards = (4, 8, 8) if version == 3 else None
    zarr.create_array(
        str(root / "0"), data=VOXELS, chunks=(4, 4, 4), shards=shards, zarr_format=version, overwrite=True
    )
    name = max(name for name in documents if documents[name] is None)
    documents = documents | {name: json.loads((root / name).read_text())}
    for place, document in _changed(draw, documents).items():
        _write(draw, root / place, document)
    return root


@st.composite
def odd_hdf5(draw: st.DrawFn, folder: Path) -> Path:
    """HDF5 files of one dataset with odd attributes."""
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset("raw", data=VOXELS)
        for name, value in _changed(draw, HDF5).items():
            with contextlib.suppress(TypeError, ValueError, OverflowError, UnicodeError):  # what HDF5 cannot hold
                dataset.attrs[name] = json.dumps(value) if name == "axistags" else value
    return folder / "a.h5"


@st.composite
def odd_tiffs(draw: st.DrawFn, folder: Path) -> Path:
    """TIFF files, of OME and of ImageJ, damaged in two places."""
    import tifffile

    path = folder / "a.tif"
    if draw(st.booleans()):
        about: dict[str, Any] = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm"}
        tifffile.imwrite(path, VOXELS, photometric="minisblack", ome=True, metadata=about)
    else:
        tifffile.imwrite(path, VOXELS, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "nm"})
    path.write_bytes(draw(damaged(draw(damaged(path.read_bytes())))))
    return path


@st.composite
def odd_side_files(draw: st.DrawFn, model: Path) -> Path:
    """A model file with an odd ``NAME.json`` beside it."""
    _write(draw, model.with_suffix(".json"), draw(mutated(SIDE)))
    return model


@st.composite
def odd_nnunets(draw: st.DrawFn, folder: Path) -> Path:
    """nnU-Net folders of a very small network, with odd ``plans.json`` or ``dataset.json``."""
    documents: dict[str, Any] = {"plans.json": PLANS, "dataset.json": DATASET}
    if not (folder / CHECKPOINT).exists():
        _make_checkpoint(folder, documents)
    for name, document in _changed(draw, documents).items():
        _write(draw, folder / name, document)
    return folder


def _make_checkpoint(folder: Path, documents: dict[str, Any]) -> None:
    import torch

    from voxweft.backends.nnunet import build
    from voxweft.backends.plans import configuration_of, read_plans

    (folder / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    plans, dataset = read_plans(folder)
    network = build(configuration_of(plans, NETWORK, folder), 1, len(dataset.class_names), folder)
    about = {"init_args": {"configuration": NETWORK}, "trainer_name": "nnUNetTrainer"}
    torch.save({"network_weights": network.state_dict(), **about}, folder / CHECKPOINT)


def _changed(draw: st.DrawFn, documents: dict[str, Any]) -> dict[str, Any]:
    """The documents, one of them with something odd in it."""
    name = draw(st.sampled_from(sorted(documents)))
    return documents | {name: draw(mutated(documents[name]))}


def _write(draw: st.DrawFn, place: Path, document: Any) -> None:
    data = json.dumps(document).encode()
    place.write_bytes(draw(damaged(data)) if draw(st.integers(0, 9)) == 0 else data)
