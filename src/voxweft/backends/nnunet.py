"""nnU-Net v2 model folders: plans.json, dataset.json, fold_*/checkpoint_final.pth.

The file layout is nnU-Net's (Isensee et al. 2021, Nature Methods); the networks come from the package
dynamic-network-architectures of the same authors.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.checkpoint import read_checkpoint, weight_bytes
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError
from voxweft.model.card import Intensity, ModelCard, Normalization

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
SAFE_MODULES = ("torch.nn.", "dynamic_network_architectures.")
SCHEMES = {
    "ZScoreNormalization": "global_zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "global_minmax",
}
ARCHITECTURES = {
    "PlainConvUNet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "ResidualEncoderUNet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
MASKED = "the plans normalise within a mask of non-zero voxels; voxweft takes the statistics of all voxels"


def load(path: Path) -> TorchModel:
    """Read a model folder, all its folds, or one fold folder alone.

    Raises
    ------
    ModelError
        If files are missing, unsafe, or do not fit each other.
    """
    root, checkpoints = _find(path)
    plans, dataset = _json(root / "plans.json"), _json(root / "dataset.json")
    states = [_checkpoint(c) for c in checkpoints]
    first = states[0]
    name = first.get("init_args", {}).get("configuration") or "3d_fullres"
    configuration = _configuration(plans, name, root)
    channels = dataset.get("channel_names") or dataset.get("modality") or {"0": ""}
    names, activation = _classes(dataset)
    patch = configuration["patch_size"]
    if len(patch) != 3:
        raise ModelError(f"{root}: configuration {name!r} is {len(patch)}-D; voxweft runs 3-D configurations")
    if plans.get("transpose_forward", [0, 1, 2]) != [0, 1, 2]:
        raise ModelError(f"{root}: its plans exchange axes {plans['transpose_forward']}, which is not supported")
    modules = []
    for checkpoint, state in zip(checkpoints, states, strict=True):
        module = build(configuration, len(channels), len(names), root)
        _fill(module, state.get("network_weights"), checkpoint)
        modules.append(module.eval().requires_grad_(False))
    mirror = first.get("inference_allowed_mirroring_axes")
    strides = _strides(configuration)
    card = ModelCard(
        path=str(path),
        format="nnU-Net v2",
        digest=_digest(states),
        patch_zyx=tuple(patch),
        n_inputs=len(channels),
        n_classes=len(names),
        divisor_zyx=tuple(math.prod(s[a] for s in strides) for a in range(3)),  # type: ignore[arg-type]
        class_names=tuple(names),
        activation=activation,
        normalization=tuple(_normalizations(plans, configuration, root)),
        mirror_axes=tuple(mirror) if mirror is not None else (),
        spacing_zyx=tuple(float(s) for s in configuration["spacing"]),  # type: ignore[arg-type]
        n_folds=len(modules),
        intensity=tuple(_foreground(plans, c) for c in range(len(channels))),
        normalization_note=MASKED if any(configuration.get("use_mask_for_norm", [])) else "",
        details={
            "configuration": name,
            "trainer": str(first.get("trainer_name", "")),
            "checkpoints": [str(c.relative_to(root)) for c in checkpoints],
        },
    )
    return TorchModel(card, modules)


def _find(path: Path) -> tuple[Path, list[Path]]:
    """The folder with plans.json, and the checkpoints to use."""
    root = path if (path / "plans.json").exists() else path.parent
    if not (root / "dataset.json").exists():
        raise ModelError(f"{root} has plans.json but no dataset.json beside it")
    folders = [path] if path != root else [*sorted(root.glob("fold_*")), root]
    found = [next((f / c for c in CHECKPOINTS if (f / c).exists()), None) for f in folders]
    checkpoints = [c for c in found if c is not None]
    if not checkpoints:
        raise ModelError(f"{path} has no fold_*/checkpoint_final.pth")
    return root, checkpoints[: -1 if len(checkpoints) > 1 and checkpoints[-1].parent == root else None]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


def _checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint as plain data: tensors, numbers, text."""
    state = read_checkpoint(path)
    if not isinstance(state, dict) or "network_weights" not in state:
        raise ModelError(f"{path} is no nnU-Net checkpoint: it has no 'network_weights'")
    return state


def _configuration(plans: dict[str, Any], name: str, root: Path) -> dict[str, Any]:
    """A configuration with what it inherits."""
    all_of_them = plans.get("configurations", {})
    if name not in all_of_them:
        raise ModelError(f"{root}: the checkpoint is for {name!r}, plans.json has {', '.join(all_of_them) or 'none'}")
    own = dict(all_of_them[name])
    if parent := own.pop("inherits_from", None):
        return _configuration(plans, parent, root) | own
    return own


def _classes(dataset: dict[str, Any]) -> tuple[list[str], str]:
    """Names by output channel, and the activation: regions are sigmoids, labels a softmax."""
    labels = {k: v for k, v in dataset.get("labels", {}).items() if k != "ignore"}
    regions = [k for k, v in labels.items() if isinstance(v, (list, tuple)) and len(v) > 1]
    if regions:
        return [k for k, v in labels.items() if v != 0], "sigmoid"
    value = {k: v[0] if isinstance(v, (list, tuple)) else v for k, v in labels.items()}
    return sorted(value, key=lambda k: int(value[k])), "softmax"


def build(configuration: dict[str, Any], n_inputs: int, n_classes: int, root: Path) -> torch.nn.Module:
    """The network of a configuration of plans.json, with random weights."""
    name, arguments = _architecture(configuration, root)
    try:
        module = _resolve(name, root)(
            input_channels=n_inputs, num_classes=n_classes, deep_supervision=True, **arguments
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{root}: its network {name} cannot be built: {str(error).splitlines()[0][:160]}") from error
    return module  # type: ignore[no-any-return]


def _architecture(configuration: dict[str, Any], root: Path) -> tuple[str, dict[str, Any]]:
    """Class and arguments, from plans of nnU-Net 2.5 and later, or of before."""
    if new := configuration.get("architecture"):
        needs_import = new.get("_kw_requires_import", ())
        arguments = {
            k: _resolve(v, root) if k in needs_import and v is not None else v for k, v in new["arch_kwargs"].items()
        }
        return new["network_class_name"], arguments
    old = configuration.get("UNet_class_name")
    if old not in ARCHITECTURES:
        raise ModelError(f"{root}: the network class {old!r} is unknown; voxweft builds {', '.join(ARCHITECTURES)}")
    kernels, strides = configuration["conv_kernel_sizes"], configuration["pool_op_kernel_sizes"]
    encoder = "n_blocks_per_stage" if old == "ResidualEncoderUNet" else "n_conv_per_stage"
    base, top = configuration["UNet_base_num_features"], configuration.get("unet_max_num_features", 320)
    return ARCHITECTURES[old], {
        "n_stages": len(kernels),
        "features_per_stage": [min(base * 2**i, top) for i in range(len(kernels))],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": kernels,
        "strides": strides,
        encoder: configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def _resolve(name: str, root: Path) -> Any:
    """A class by its dotted name, from torch.nn or dynamic_network_architectures only."""
    if not name.startswith(SAFE_MODULES):
        raise ModelError(
            f"{root}: its plans name {name!r}; voxweft builds networks from {' and '.join(SAFE_MODULES)}* only, "
            "since a name in a file must not choose what code runs"
        )
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{root}: its plans name {name!r}, which is not installed") from error


def _fill(module: torch.nn.Module, weights: Any, checkpoint: Path) -> None:
    """Load the weights strictly and switch deep supervision off."""
    clean = {k.removeprefix("module.").removeprefix("_orig_mod."): v for k, v in dict(weights or {}).items()}
    wanted = module.state_dict()
    bad = [k for k in wanted if k not in clean] + [k for k in clean if k not in wanted]
    bad += [k for k in wanted if k in clean and clean[k].shape != wanted[k].shape]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ModelError(f"{checkpoint} does not fit its plans: {', '.join(bad[:3])}{more} missing, extra or misshapen")
    module.load_state_dict(clean)
    if hasattr(module, "decoder"):
        module.decoder.deep_supervision = False  # type: ignore[union-attr]


def _normalizations(plans: dict[str, Any], configuration: dict[str, Any], root: Path) -> list[Normalization]:
    """One scheme a channel, with nnU-Net's meaning: z-score over the case, CT by the training foreground."""
    properties = plans.get("foreground_intensity_properties_per_channel", {})
    found = []
    for channel, scheme in enumerate(configuration.get("normalization_schemes", ["ZScoreNormalization"])):
        numbers = properties.get(str(channel), {})
        if scheme == "CTNormalization":
            low, high = numbers.get("percentile_00_5"), numbers.get("percentile_99_5")
            found.append(Normalization("ct", numbers.get("mean"), numbers.get("std"), low, high))
        elif scheme == "RGBTo01Normalization":
            found.append(Normalization("global_minmax", lower=0.0, upper=255.0))
        elif scheme in SCHEMES:
            found.append(Normalization(SCHEMES[scheme]))
        else:
            known = ", ".join([*SCHEMES, "CTNormalization", "RGBTo01Normalization"])
            raise ModelError(f"{root}: normalization {scheme!r} is unknown; voxweft knows {known}")
    return found


def _foreground(plans: dict[str, Any], channel: int) -> Intensity:
    """Grey values of the training foreground, as far as the plans have them."""
    numbers = plans.get("foreground_intensity_properties_per_channel", {}).get(str(channel), {})
    return Intensity(**{f.name: float(numbers[f.name]) for f in fields(Intensity) if f.name in numbers})


def _strides(configuration: dict[str, Any]) -> list[list[int]]:
    new = configuration.get("architecture", {}).get("arch_kwargs", {}).get("strides")
    strides = new or configuration.get("pool_op_kernel_sizes") or [[1, 1, 1]]
    return [[s] * 3 if isinstance(s, int) else s for s in strides]


def _digest(states: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for state in states:
        for key, value in sorted(state["network_weights"].items()):
            digest.update(key.encode())
            digest.update(weight_bytes(value))
    return digest.hexdigest()
