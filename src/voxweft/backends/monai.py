"""Networks of MONAI, described by the yaml that octopi trains: ``model.architecture``, ``labels``; weights as data.

The layout of the yaml is octopi's (MIT); the networks come from the package monai (Cardoso et al. 2022,
arXiv:2211.02701). No name in the yaml chooses what code runs: one of four architectures is built.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from voxweft.backends.checkpoint import read_checkpoint, weight_bytes
from voxweft.backends.described import trained_with
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError, RequestError, first_line
from voxweft.foreign import small_file
from voxweft.installed import install_line
from voxweft.model.card import ModelCard, Normalization

LARGEST = 1 << 12  # channels, features, patch
NORM, ACT = ["INSTANCE", {"affine": True}], ["leakyrelu", {"inplace": True, "negative_slope": 0.01}]
PREFIXES = ("module.", "_orig_mod.", "model.")  # that trainers put before the names of weights


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network of MONAI: its class, what the yaml must say, what it may say with its default, and its divisor."""

    name: str
    needed: tuple[str, ...]
    others: Mapping[str, Any]
    divisor: Callable[[Mapping[str, Any]], int]

    def arguments(self, model: Mapping[str, Any], place: object) -> dict[str, Any]:
        """What the class is called with.

        Raises
        ------
        ModelError
            If something is missing, or is a number that no network has.
        """
        if missing := [name for name in self.needed if name not in model]:
            raise ModelError(f"{place}: model has no {', '.join(missing)}, which its architecture needs")
        found = {name: model[name] for name in self.needed} | {n: model.get(n, d) for n, d in self.others.items()}
        if wrong := [name for name, value in found.items() if not _sane(value)]:
            raise ModelError(f"{place}: model.{wrong[0]} {found[wrong[0]]!r:.60} is nothing that a network has")
        return found


ARCHITECTURES = {
    "Unet": Architecture(
        "UNet", ("channels", "strides"), {"num_res_units": 0, "dropout": 0.0}, lambda a: math.prod(a["strides"])
    ),
    "DynUNet": Architecture(
        "DynUNet",
        ("kernel_size", "strides", "upsample_kernel_size"),
        {
            "filters": None,
            "dropout": None,
            "norm_name": NORM,
            "act_name": ACT,
            "deep_supervision": False,
            "deep_supr_num": 1,
            "res_block": True,
        },
        lambda a: math.prod(a["strides"]),
    ),
    "SegResNet": Architecture(
        "SegResNetDS",
        ("init_filters",),
        {
            "act": "prelu",
            "norm": "instance",
            "blocks_down": [1, 2, 2, 4],
            "blocks_up": None,
            "dsdepth": 1,
            "upsample_mode": "deconv",
            "resolution": None,
        },
        lambda a: 2 ** (len(a["blocks_down"]) - 1),
    ),
    "SwinUNETR": Architecture(
        "SwinUNETR",
        ("feature_size", "depths", "num_heads"),
        {"window_size": 7, "drop_rate": 0.0, "attn_drop_rate": 0.0, "dropout_path_rate": 0.0},
        lambda _: 32,
    ),
}


def load(path: Path, model_config: str = "") -> TorchModel:
    """Read the weights of a network and the yaml that describes it.

    Parameters
    ----------
    path
        ``*.pth`` with a plain state dict.
    model_config
        The yaml; "": the one beside the weights, see :func:`voxweft.backends.described.trained_with`.

    Raises
    ------
    ModelError
        If one of both is missing, unsafe, or they do not fit each other.
    """
    config = Path(model_config) if model_config else trained_with(path)
    if config is None:
        raise ModelError(f"{path}: no yaml beside it describes the network; give --model-config")
    described = read_config(config)
    model, labels = described["model"], described["labels"]
    architecture = ARCHITECTURES[model["architecture"]]
    arguments = architecture.arguments(model, config)
    n_classes, side = (_whole(model, name, config) for name in ("num_classes", "dim_in"))
    module = _filled(_built(architecture, arguments, n_classes, config), path, config)
    names = {number: name for name, number in labels.items()}
    if names and not set(names) <= set(range(1, n_classes)):
        raise ModelError(f"{config}: labels {labels} do not fit a network of {n_classes} classes, 0 the background")
    card = ModelCard(
        path=str(path),
        format="MONAI (octopi)",
        digest=_digest(module, architecture.name, arguments),
        patch_zyx=(side, side, side),
        n_classes=n_classes,
        divisor_zyx=(max(1, architecture.divisor(arguments)),) * 3,
        class_names=("background", *(names.get(n, f"class-{n}") for n in range(1, n_classes))),
        normalization=(Normalization("global_zscore"),),
        details={"architecture": model["architecture"], "config": str(config), "labels": labels},
    )
    return TorchModel(card, [module.eval().requires_grad_(False)])


def read_config(path: Path) -> dict[str, Any]:
    """The yaml of a network: its "model", and "labels", empty where it has none.

    Raises
    ------
    ModelError
        If it is missing, no yaml of this kind, or names an architecture that is not built.
    """
    try:
        data = yaml.load(small_file(path, ModelError), _Loader)  # a safe loader
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no model config lies there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no yaml: {first_line(error)}") from error
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or "architecture" not in model:
        raise ModelError(f"{path} describes no network: it has no model.architecture")
    if model["architecture"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{path}: architecture {model['architecture']!r:.40} is unknown; use one of {known}")
    labels = data.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(n, int) for n in labels.values()):
        raise ModelError(f"{path}: labels must be a number for each name, not {labels!r:.60}")
    return {"model": model, "labels": {str(name): number for name, number in labels.items()}}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain yaml, and Python's tuples as lists."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_sequence)


def _built(architecture: Architecture, arguments: Mapping[str, Any], n_classes: int, place: Path) -> torch.nn.Module:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise RequestError(f"this model needs the extra 'cryoet': {install_line('cryoet')}") from error
    try:
        with torch.random.fork_rng(devices=()):  # its random weights are replaced
            module = getattr(nets, architecture.name)(
                spatial_dims=3, in_channels=1, out_channels=n_classes, **arguments
            )
    except Exception as error:  # whatever wrong arguments lead to
        raise ModelError(f"{place}: the network cannot be built: {first_line(error)}") from error
    return module  # type: ignore[no-any-return]


def _filled(module: torch.nn.Module, path: Path, config: Path) -> torch.nn.Module:
    """The network with its weights, all of them and no others."""
    state = read_checkpoint(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    weights = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    wanted = module.state_dict()
    for prefix in PREFIXES:
        short = {k.removeprefix(prefix): v for k, v in weights.items()}
        weights = short if short.keys() == wanted.keys() else weights
    bad = [
        *(wanted.keys() ^ weights.keys()),
        *(k for k in wanted.keys() & weights if wanted[k].shape != weights[k].shape),
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        shown = ", ".join(sorted(bad)[:3])
        raise ModelError(f"{path} does not fit {config}: {shown}{more} missing, extra or misshapen")
    module.load_state_dict({k: v.to(wanted[k].dtype, copy=True) for k, v in weights.items()}, assign=True)
    return module


def _sane(value: Any) -> bool:
    """Whether numbers, and those inside, may be sizes of a network."""
    if isinstance(value, (list, tuple, dict)):
        return len(value) < 32 and all(_sane(v) for v in (value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str) or (isinstance(value, (int, float)) and 0 <= value <= LARGEST)


def _whole(model: Mapping[str, Any], name: str, place: Path) -> int:
    value = model.get(name)
    if not isinstance(value, int) or not 2 <= value <= LARGEST:
        raise ModelError(f"{place}: model.{name} {value!r:.40} is no whole number from 2 on")
    return value


def _digest(module: torch.nn.Module, name: str, arguments: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([name, arguments], sort_keys=True).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(weight_bytes(value))
    return digest.hexdigest()
