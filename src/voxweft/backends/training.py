"""The configuration that ``vesuvius.train`` leaves in its checkpoints, as typed objects.

checkpoint["model_config"]                       what the network was built from, targets and patch among it
checkpoint["config"], ["config"]["model_config"]  the same in older ones: the settings of the training around it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from voxweft.errors import ModelError
from voxweft.foreign import checked
from voxweft.nets.trainer_unet import ACTIVATIONS, BLOCKS, UPSAMPLING, Target, TrainerSize

Side = Annotated[int, Field(ge=1, le=1 << 16)]
Few = Annotated[int, Field(ge=1, le=64)]
Stages = Annotated[list[list[Side]], Field(min_length=2, max_length=16)]
SMALLEST_MAP = 4  # voxels that a side keeps when strides are chosen
FEATURES = [32, 64, 128, 256, 320, 320, 320]
NORMALS = ("surface_normals", "normals")
MAPS = ("distance_transform", "inplane_direction", "structure_tensor", "nearest_component")  # kinds of targets
CLASS_LOSS = re.compile(
    r"bce|ce_|_ce|cross|entropy|dice|dc_|focal|tversky|iou|jaccard|lovasz|nll|betti|recall|planarity", re.I
)
MAP_LOSS = re.compile(r"mse|l1|l2|huber|cosine|normal|eikonal|distance|direction", re.I)
NORMAL_LOSS = re.compile(r"cosine|normal", re.I)


def _repeated(value: Any) -> Any:
    return [value] * 3 if isinstance(value, int) else value


def _short(value: Any) -> Any:
    """``nn.LeakyReLU`` as ``LeakyReLU``."""
    return value.rpartition(".")[2] if isinstance(value, str) else value


class TargetConfig(BaseModel):
    """What one target of the training was."""

    out_channels: Side | None = None
    channels: Side | None = None
    activation: str | None = "none"
    task_type: str | None = ""
    losses: list[dict[str, Any]] = []
    loss_fn: str | None = ""

    @property
    def loss_names(self) -> list[str]:
        """What it was trained with."""
        return [name for name in [*(str(one.get("name", "")) for one in self.losses), self.loss_fn or ""] if name]


class Average(BaseModel):
    """Of the weights, while they were trained."""

    validate_with: bool = Field(default=False, alias="validate")


class TrainerConfig(BaseModel):
    """What fixes the network and how it sees patches; the rest of the training is left aside."""

    targets: Annotated[dict[str, TargetConfig], Field(min_length=1, max_length=64)]
    patch_size: Annotated[list[Side], Field(min_length=2, max_length=3), BeforeValidator(_repeated)] | None = None
    in_channels: Side = 1
    architecture_type: str | None = "unet"
    autoconfigure: bool = False
    basic_encoder_block: str = "BasicBlockD"
    basic_decoder_block: str = "ConvBlock"
    features_per_stage: Annotated[list[Side], Field(min_length=2, max_length=16)] | None = None
    n_stages: Annotated[int, Field(ge=2, le=16)] = 7
    n_blocks_per_stage: list[Few] | Few | None = None
    n_conv_per_stage_decoder: list[Few] | Few | None = None
    kernel_sizes: Stages | None = None
    strides: Stages | None = None
    do_stem: bool = True
    stem_channels: Side | None = None
    bottleneck_channels: list[Side] | Side | None = None
    conv_bias: bool = True
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: Annotated[str, BeforeValidator(_short)] = "LeakyReLU"
    nonlin_kwargs: dict[str, Any] | None = None
    pool_type: str = "conv"
    upsample_mode: str = "transpconv"
    squeeze_excitation: bool = False
    guide_backbone: str | None = None
    target_z_projection: dict[str, Any] | None = None
    normalization_scheme: str | None = None
    intensity_properties: dict[str, float] | None = None
    ema: Average = Average()


FIELDS = [*TrainerConfig.model_fields, "train_patch_size", "image_normalization"]


def read_config(content: Mapping[str, Any], path: Path) -> TrainerConfig:
    """The configuration in the content of a checkpoint, of either age.

    Raises
    ------
    ModelError
        Naming all that is wrong with it, or the kind of network that voxweft does not build.
    """
    found: dict[str, Any] = {}
    older = content.get("config")
    for one in (older, older.get("model_config") if isinstance(older, Mapping) else None, content.get("model_config")):
        found |= {k: v for k, v in one.items() if k in FIELDS and v is not None} if isinstance(one, Mapping) else {}
    found |= {k: content[k] for k in ("normalization_scheme", "intensity_properties") if content.get(k) is not None}
    if "train_patch_size" in found:
        found["patch_size"] = found.pop("train_patch_size")
    if older_word := found.pop("image_normalization", None):
        found.setdefault("normalization_scheme", older_word)
    if "targets" not in found:
        raise ModelError(f"{path}: its configuration has no targets, so nobody knows what its channels are")
    config = checked(TrainerConfig, _plain(found), f"{path}: its configuration", ModelError)
    _require_known(config, path)
    return config


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's; what is no data as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _require_known(config: TrainerConfig, path: Path) -> None:
    """Refuse networks that are not the plain U-Net, and names that no output can have."""
    flat = config.patch_size is not None and len(config.patch_size) == 2
    kind = (config.architecture_type or "unet").lower()
    strange = [
        word
        for word, odd in (
            (f"architecture_type {config.architecture_type!r}", kind != "unet"),
            (f"a guide {config.guide_backbone!r}", bool(config.guide_backbone)),
            ("a projection along z", any((config.target_z_projection or {}).values())),
            ("squeeze and excitation", config.squeeze_excitation),
            (f"basic_encoder_block {config.basic_encoder_block!r}", config.basic_encoder_block not in BLOCKS),
            (f"basic_decoder_block {config.basic_decoder_block!r}", config.basic_decoder_block not in BLOCKS),
            (f"nonlin {config.nonlin!r}", config.nonlin not in ACTIVATIONS),
            (f"pool_type {config.pool_type!r}", config.pool_type not in ("conv", "avg", "max")),
            ("pooling before convolutions", config.pool_type != "conv" and config.basic_encoder_block == "ConvBlock"),
            (f"upsample_mode {config.upsample_mode!r}", config.upsample_mode not in UPSAMPLING),
            (
                f"upsample_mode {config.upsample_mode!r} in two dimensions",
                flat and config.upsample_mode != UPSAMPLING[0],
            ),
        )
        if odd
    ]
    if strange:
        raise ModelError(
            f"{path} is a trainer checkpoint with {strange[0]}; voxweft builds the U-Nets of vesuvius.train from "
            "residual and convolution blocks"
        )
    if odd := [name for name in config.targets if not re.fullmatch(r"\w[\w-]*", name)]:
        raise ModelError(f"{path}: the target {odd[0]!r} cannot name an output; use letters, digits, - and _")


def channels_of(config: TrainerConfig) -> dict[str, int]:
    """Channels of every target, in order."""
    return {
        name: t.out_channels or t.channels or (3 if _names_normals(name, t) else config.in_channels)
        for name, t in config.targets.items()
    }


def activation_of(name: str, target: TargetConfig, n_channels: int, path: Path) -> str:
    """How the logits of a target are to be read: "sigmoid", "softmax", "normals", or "raw" for numbers of any kind.

    Raises
    ------
    ModelError
        If it was trained with what voxweft does not know.
    """
    losses, said = target.loss_names, (target.activation or "none").lower()
    if said not in ("none", "sigmoid", "softmax"):
        raise ModelError(
            f"{path}: the target {name!r} has the activation {said!r}; none, sigmoid and softmax can be read"
        )
    if n_channels == 3 and said == "none" and (_names_normals(name, target) or any(map(NORMAL_LOSS.search, losses))):
        return "normals"
    if said != "none":
        return said
    if target.task_type in MAPS or _names_normals(name, target):
        return "raw"
    if not losses or any(map(CLASS_LOSS.search, losses)):
        return "sigmoid" if n_channels == 1 else "softmax"
    if any(map(MAP_LOSS.search, losses)):
        return "raw"
    raise ModelError(
        f"{path}: the target {name!r} was trained with {', '.join(losses)}, which says nothing of what it means.",
        "Choose others with --targets.",
    )


def _names_normals(name: str, target: TargetConfig) -> bool:
    return name in NORMALS or target.task_type == NORMALS[0]


def size_of(config: TrainerConfig, alone: Mapping[str, bool], path: Path) -> TrainerSize:
    """The sizes of its network; ``alone`` says which targets have a decoder of their own.

    Raises
    ------
    ModelError
        If its lists have different lengths, or neither strides nor a patch to choose them by is there.
    """
    strides, kernels = _strides_and_kernels(config, path)
    features = config.features_per_stage or _features(config, len(strides))
    n, norm, slopes = len(features), config.norm_op_kwargs, config.nonlin_kwargs or {}
    inner = config.bottleneck_channels
    lists = {
        "kernel_sizes": kernels,
        "strides": strides,
        "n_blocks_per_stage": _per_stage(config.n_blocks_per_stage, [*[1, 3, 4][:n], *[6] * (n - 3)], n),
        "bottleneck_channels": _per_stage(inner, [None] * n, n),
    }
    convolutions = _per_stage(config.n_conv_per_stage_decoder, [1] * (n - 1), n - 1)
    wrong = [f"{name} has {len(found)}" for name, found in lists.items() if len(found) != n]
    wrong += [f"n_conv_per_stage_decoder has {len(convolutions)}, not {n - 1}"] if len(convolutions) != n - 1 else []
    n_dimensions = {len(one) for one in (*kernels, *strides)} | (
        {len(config.patch_size)} if config.patch_size else set()
    )
    wrong += [f"kernels, strides and patch have {n_dimensions} axes"] if len(n_dimensions) > 1 else []
    wrong += ["no bottleneck_channels"] if config.basic_encoder_block == "BottleneckBlockD" and not inner else []
    odd = [s for s in strides if len(set(s)) > 1]
    wrong += (
        [f"upsample_mode pixelshuffle with strides {odd[0]}"] if config.upsample_mode == UPSAMPLING[2] and odd else []
    )
    if wrong:
        raise ModelError(f"{path}: its configuration has {n} stages; {'; '.join(wrong)}")
    return TrainerSize(
        n_inputs=config.in_channels,
        targets=tuple(Target(name, k, alone[name]) for name, k in channels_of(config).items()),
        features=tuple(features),
        n_blocks=tuple(lists["n_blocks_per_stage"]),
        kernels=tuple(map(tuple, kernels)),
        strides=tuple(map(tuple, strides)),
        n_decoder_blocks=tuple(convolutions),
        encoder=config.basic_encoder_block,
        decoder=config.basic_decoder_block,
        stem=(config.stem_channels or features[0]) if config.do_stem else 0,
        bottleneck=tuple(lists["bottleneck_channels"]),
        bias=config.conv_bias,
        dropout=float((config.dropout_op_kwargs or {}).get("p", 0.5)) if config.dropout_op else None,
        norm_eps=float((norm or {}).get("eps", 1e-5)),
        affine=norm is None or bool(norm.get("affine", False)),
        activation=config.nonlin,
        slope=float(slopes.get("negative_slope", 0.01)),
        pool=config.pool_type,
        upsampling=config.upsample_mode,
    )


def _per_stage(value: Any, default: list[Any], n: int) -> list[Any]:
    """A number for every stage."""
    if value is None:
        return default
    return [value] * n if isinstance(value, int) else value


def _features(config: TrainerConfig, n: int) -> list[int]:
    if config.autoconfigure:
        return [min(FEATURES[0] * 2**s, FEATURES[-1]) for s in range(n)]
    return FEATURES[:n]


def _strides_and_kernels(config: TrainerConfig, path: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Those that were saved; else as the trainer chooses them for a patch."""
    strides, kernels = config.strides, config.kernel_sizes
    if strides and kernels:
        return strides, kernels
    if not config.patch_size:
        raise ModelError(f"{path}: its configuration has neither a patch size nor the strides of its network")
    n_axes = len(config.patch_size)
    if config.autoconfigure or config.features_per_stage:
        chosen, fitting = _chosen(config.patch_size)
        n = len(config.features_per_stage or chosen)
        return strides or chosen[:n], kernels or fitting[:n]
    n = min(config.n_stages, len(FEATURES))
    return strides or [[1] * n_axes] * n, kernels or [[3] * n_axes] * n


def _chosen(patch: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """Strides and kernels for a patch of voxels with equal sides, as nnU-Net plans them.

    An axis is halved while it keeps 4 voxels and its voxels stay less than twice as long as the shortest of those axes.

    >>> _chosen([8, 16, 16])[0]
    [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
    """
    sides, lengths, kernel = list(patch), [1] * len(patch), [1] * len(patch)
    strides, kernels = [[1] * len(patch)], list[list[int]]()
    while long := [a for a, n in enumerate(sides) if n >= 2 * SMALLEST_MAP]:
        shortest = min(lengths[a] for a in long)
        halved = [a for a in long if lengths[a] < 2 * shortest]
        kernel = [3 if lengths[a] < 2 * min(lengths) else k for a, k in enumerate(kernel)]
        strides.append([2 if a in halved else 1 for a in range(len(patch))])
        kernels.append(kernel)
        for a in halved:
            sides[a], lengths[a] = -(-sides[a] // 2), 2 * lengths[a]
    return strides, [*kernels, [3] * len(patch)]
