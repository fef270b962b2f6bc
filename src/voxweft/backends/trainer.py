"""Checkpoints of ``vesuvius.train``: a U-Net with a head for every target, and the configuration it was built from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.checkpoint import mentions, read_checkpoint, weight_bytes
from voxweft.backends.runtime import TorchModel
from voxweft.backends.training import TrainerConfig, activation_of, channels_of, read_config, size_of
from voxweft.errors import ModelError, RequestError, first_line
from voxweft.geometry.box import Zyx
from voxweft.model.card import SCHEMES, Intensity, ModelCard, Normalization
from voxweft.model.head import FIELDS, Head
from voxweft.nets.trainer_unet import TrainerUNet

WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
NOT_WEIGHTS = ("n_averaged",)  # what averaging leaves beside them
PER_PATCH = {
    "zscore": "instance_zscore",
    "instance_zscore": "instance_zscore",
    "minmax": "instance_minmax",
    "instance_minmax": "instance_minmax",
    "none": "none",
}
GREY = ("mean", "std", "percentile_00_5", "percentile_99_5")
MEDIANS = ("robust", "robust_mad")
UNTOLD = "the checkpoint does not say how its images were normalised; each patch is, to mean 0 and deviation 1"
State = dict[str, torch.Tensor]


def load(path: Path, targets: str = "") -> TorchModel:
    """Read a checkpoint and build its network.

    Parameters
    ----------
    path
        ``.pth`` or ``.pt`` of torch.save.
    targets
        Which of its targets, with commas between; "": all of them, in the order of its configuration.

    Raises
    ------
    ModelError
        If the file is damaged or unsafe, its network is of another kind, or its weights do not fit it.
    RequestError
        If it has no such target; those that it has are named.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} is no trainer checkpoint: it holds {type(content).__name__}")
    config = read_config(content, path)
    wanted = _chosen(targets, config, path)
    state, notes = _weights(content, config, path)
    channels = channels_of(config)
    heads = tuple(
        Head(name, channels[name], activation_of(name, one, channels[name], path))
        for name, one in config.targets.items()
        if name in wanted
    )
    alone = {name: any(k.startswith(f"task_decoders.{name}.") for k in state) for name in config.targets}
    size = size_of(config, alone, path)
    try:
        with torch.device("meta"):  # shapes alone, until the weights are known to fit them
            network = TrainerUNet(size)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError, KeyError) as error:
        raise ModelError(f"{path}: its network cannot be built: {first_line(error)}") from error
    _fill(network, state, path)
    network.keep(wanted)
    normalization, told = _normalization(config, path)
    flat = size.n_dimensions == 2
    card = ModelCard(
        path=str(path),
        format="vesuvius trainer",
        digest=_digest(state),
        patch_zyx=_with_z(config.patch_size, flat) if config.patch_size else None,
        n_inputs=config.in_channels,
        n_classes=sum(head.n_channels for head in heads),
        divisor_zyx=_with_z(list(size.divisor), flat),
        heads=heads,
        separate=len(heads) > 1 or heads[0].activation in FIELDS,
        normalization=(normalization,),
        intensity=_intensity(config),
        n_dimensions=size.n_dimensions,
        mirror_axes=(1, 2) if flat else (0, 1, 2),
        notes=(*notes, *told),
        details={
            "targets": [f"{h.name} ({h.activation} of {h.n_channels})" for h in heads],
            "all_targets": list(config.targets),
            "decoders": {name: "its own" if alone[name] else "shared" for name in wanted},
            "features_per_stage": list(size.features),
        },
    )
    return TorchModel(card, [network.eval().requires_grad_(False)])


def holds_targets(path: Path) -> bool:
    """Whether a file of torch.save is a checkpoint of the trainer, by the names in it; nothing is unpickled."""
    return mentions(path, "model_config", "targets") or mentions(path, "model_config", "shared_encoder.stages.")


def _chosen(targets: str, config: TrainerConfig, path: Path) -> list[str]:
    """The names of the wanted targets, in the order of the configuration."""
    asked = [name.strip() for name in targets.split(",")] if targets else list(config.targets)
    if unknown := [name for name in asked if name not in config.targets]:
        raise RequestError(f"--targets {unknown[0]!r}: {path} has the targets {', '.join(config.targets)}")
    return [name for name in config.targets if name in asked]


def _weights(content: Mapping[str, Any], config: TrainerConfig, path: Path) -> tuple[State, list[str]]:
    """The weights that were validated, without what wrappers put before their names; what to say of them."""
    averaged = config.ema.validate_with and isinstance(content.get("ema_model"), Mapping)
    state = content.get("ema_model" if averaged else "model", content.get("state_dict"))
    if not isinstance(state, Mapping) or not any(map(torch.is_tensor, state.values())):
        raise ModelError(f"{path} has the configuration of a network, but no weights: neither 'model' nor 'state_dict'")
    found = {}
    for name, value in state.items():
        short = str(name)
        while prefix := next((p for p in WRAPPERS if short.startswith(p)), ""):
            short = short.removeprefix(prefix)
        copied = short.startswith(("shared_decoder.", "task_decoders.")) and ".encoder." in short
        if torch.is_tensor(value) and short not in NOT_WEIGHTS and not copied:  # older decoders repeat the encoder
            found[short] = value
    return found, ["the averaged weights (ema_model) are used, as for its validation"] if averaged else []


def _fill(network: torch.nn.Module, state: State, path: Path) -> None:
    """Load every tensor, or none."""
    wanted = network.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is not known" for k in state if k not in wanted]
    problems += [
        f"{k} is {list(state[k].shape)} and not {list(value.shape)}"
        for k, value in wanted.items()
        if k in state and state[k].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(f"{path} does not fit its own configuration: {', '.join(problems[:3])}{more}")
    network.load_state_dict({k: v.to(wanted[k].dtype, copy=True) for k, v in state.items()}, assign=True)


def _normalization(config: TrainerConfig, path: Path) -> tuple[Normalization, list[str]]:
    """How patches are scaled, and what to say of it."""
    scheme, grey = (config.normalization_scheme or "").lower(), config.intensity_properties or {}
    if not scheme:
        return Normalization("instance_zscore"), [UNTOLD]
    if scheme in ("zscore", "global_zscore") and {"mean", "std"} <= set(grey):  # as the trainer's own inference does
        return Normalization("global_zscore", grey["mean"], grey["std"]), []
    if scheme == "ct":
        return Normalization("ct", *(grey.get(k) for k in GREY)), []
    if scheme == "global_zscore" or scheme in PER_PATCH:
        return Normalization(PER_PATCH.get(scheme, scheme)), []
    if scheme in MEDIANS and MEDIANS[1] in SCHEMES:
        return Normalization(MEDIANS[1]), []
    raise ModelError(
        f"{path}: its images were normalised by {scheme!r}, which voxweft does not know; it knows "
        f"{', '.join([*PER_PATCH, 'global_zscore', 'ct'])}"
    )


def _intensity(config: TrainerConfig) -> tuple[Intensity, ...]:
    """Grey values of the training, the same for all channels."""
    grey = config.intensity_properties
    if not grey:
        return ()
    return (Intensity(*(grey.get(k) for k in GREY)),) * config.in_channels


def _with_z(size: list[int], flat: bool) -> Zyx:
    """Voxels z y x, of a network for images one plane."""
    z, y, x = [1, *size] if flat else size
    return z, y, x


def _digest(state: State) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode())
        digest.update(weight_bytes(value))
    return digest.hexdigest()
