"""Networks of MONAI by the yaml of octopi: four architectures, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import voxweft
from voxweft.errors import ModelError
from voxweft.model.protocols import ForwardSetting

nets = pytest.importorskip("monai.networks.nets")
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int]] = {
    "Unet": ("UNet", {"channels": [4, 6, 8], "strides": [2, 2], "num_res_units": 1, "dropout": 0.1}, 4),
    "DynUNet": (
        "DynUNet",
        {
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [4, 6, 8],
            "norm_name": ("INSTANCE", {"affine": True}),
            "act_name": ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            "deep_supervision": True,
            "deep_supr_num": 1,
            "res_block": True,
        },
        4,
    ),
    "SegResNet": ("SegResNetDS", {"init_filters": 4, "act": "prelu", "norm": "instance", "dsdepth": 2}, 8),
    "SwinUNETR": (
        "SwinUNETR",
        {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "drop_rate": 0.0},
        32,
    ),
}


def write(folder: Path, name: str, weights: Any = None, **changes: Any) -> Path:
    """Weights of a network and its yaml, as octopi leaves them."""
    kind, arguments, side = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = getattr(nets, kind)(spatial_dims=3, in_channels=1, out_channels=3, **arguments)
    torch.save(network.state_dict() if weights is None else weights(network), folder / "best_model.pth")
    model = {"architecture": name, "num_classes": 3, "dim_in": 2 * side if side > 16 else 32, **arguments} | changes
    text = yaml.dump({"model": {k: v for k, v in model.items() if v is not ...}, "labels": {"cage": 2, "shell": 1}})
    (folder / "best_model_config.yaml").write_text(text)
    return folder / "best_model.pth"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_gives_what_monai_gives(tmp_path: Path, name: str) -> None:
    """Also from a yaml with the tuples of Python."""
    model = voxweft.load_model(write(tmp_path, name))
    card, (kind, arguments, side) = model.card, ARCHITECTURES[name]
    assert card.class_names == ("background", "shell", "cage")
    assert card.divisor_zyx == (side,) * 3
    torch.manual_seed(0)
    network = getattr(nets, kind)(spatial_dims=3, in_channels=1, out_channels=3, **arguments).eval()
    patch = card.patch_zyx
    batch = torch.randn(1, 1, *patch)
    with torch.inference_mode():
        wanted = network(batch)
        found = model.open(ForwardSetting("torch", "cpu", "fp32", 1, patch))(batch)
    wanted = wanted[0] if isinstance(wanted, (list, tuple)) else wanted
    assert torch.equal(found, wanted)


def test_names_that_trainers_put_before_weights(tmp_path: Path) -> None:
    plain = voxweft.load_model(write(tmp_path, "Unet")).card.digest
    for prefix in ("module.", "_orig_mod.", "model."):  # of monai's UNet all names begin with "model." already
        path = write(tmp_path, "Unet", lambda net, p=prefix: {f"{p}{k}": v for k, v in net.state_dict().items()})
        assert voxweft.load_model(path).card.digest == plain
    path = write(tmp_path, "Unet", lambda net: {"state_dict": net.state_dict(), "epoch": 4})
    assert voxweft.load_model(path).card.digest == plain


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"architecture": "os.system"}, "'os.system' is unknown; use one of Unet"),
    "missing": ({"channels": ...}, "no channels"),
    "huge": ({"channels": [4, 6, 10**9]}, "nothing that a network has"),
    "misfit": ({"channels": [4, 6, 10]}, "does not fit"),
    "classes": ({"num_classes": 0}, "num_classes 0"),
    "labels": ({"num_classes": 2}, "do not fit a network of 2 classes|does not fit"),
    "strides": ({"strides": [2, 2, 2, 2, 2, 2]}, "cannot be built|does not fit"),
}


@pytest.mark.parametrize("change", WRONG)
def test_what_does_not_fit_is_said(tmp_path: Path, change: str) -> None:
    changes, said = WRONG[change]
    with pytest.raises(ModelError, match=said):
        voxweft.load_model(write(tmp_path, "Unet", **changes))


def test_yaml_that_is_none_or_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "Unet")
    for text, said in (
        ("{", "no yaml"),
        ("a: 1", "no model.architecture"),
        ("!!python/object/apply:os.getcwd []", "no yaml"),
    ):
        (tmp_path / "other.yaml").write_text(text)
        with pytest.raises(ModelError, match=said):
            voxweft.load_model(path, model_config=str(tmp_path / "other.yaml"))
    with pytest.raises(ModelError, match="no model config lies there"):
        voxweft.load_model(path, model_config=str(tmp_path / "nowhere.yaml"))
    (tmp_path / "best_model_config.yaml").unlink()
    with pytest.raises(ModelError, match="holds weights only"):
        voxweft.load_model(path)
