"""nnU-Net v2 model folders: plans.json, dataset.json, fold_*/checkpoint_final.pth.

The file layout is nnU-Net's (Isensee et al. 2021, Nature Methods); the networks come from the package
dynamic-network-architectures of the same authors.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.checkpoint import read_checkpoint, weight_bytes
from voxweft.backends.plans import Configuration, Foreground, configuration_of, read_plans
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError, first_line
from voxweft.model.card import Intensity, ModelCard, Normalization, Resampling

LARGEST, MOST_LAYERS = 1 << 16, 64
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


def load(path: Path, folds: str = "", checkpoint: str = "") -> TorchModel:
    """Read a model folder, all its folds, or one fold folder alone.

    Parameters
    ----------
    path
        The folder.
    folds
        Which of them, for example "0,1" or "all"; "": all that there are.
    checkpoint
        Name of the file of a fold; "": ``checkpoint_final.pth``, else ``checkpoint_best.pth``.

    Raises
    ------
    ModelError
        If files are missing, unsafe, or do not fit each other.
    """
    root, checkpoints, notes = _find(path, folds, checkpoint)
    plans, dataset = read_plans(root)
    states = [_checkpoint(c) for c in checkpoints]
    first = states[0]
    arguments = first.get("init_args")
    name = str((arguments if isinstance(arguments, dict) else {}).get("configuration") or "3d_fullres")
    configuration = configuration_of(plans, name, root)
    names, patch = dataset.class_names, configuration.patch_size
    if configuration.previous_stage:
        raise ModelError(
            f"{root}: configuration {name!r} is the second stage of a cascade, which needs the result of "
            f"{configuration.previous_stage!r} as further channels; voxweft runs models of one stage"
        )
    if len(configuration.spacing) != len(patch) or sorted(plans.transpose_forward) != [0, 1, 2]:
        wrong = f"patch {patch}, spacing {configuration.spacing}, transpose_forward {plans.transpose_forward}"
        raise ModelError(f"{root}: the axes of its plans do not fit together: {wrong}")
    flat = len(patch) == 2
    modules = []
    for file, state in zip(checkpoints, states, strict=True):
        with torch.device("meta"):  # shapes alone, until the weights are known to fit them
            module = build(configuration, dataset.n_inputs, len(names), root)
        _fill(module, state.get("network_weights"), file)
        modules.append(module.eval().requires_grad_(False))
    mirror = first.get("inference_allowed_mirroring_axes")
    strides, foreground = configuration.strides, plans.foreground_intensity_properties_per_channel
    grey = [foreground.get(str(c), Foreground()) for c in range(dataset.n_inputs)]
    card = ModelCard(
        path=str(path),
        format="nnU-Net v2",
        digest=_digest(states),
        patch_zyx=(1, patch[0], patch[1]) if flat else (patch[0], patch[1], patch[2]),
        n_dimensions=len(patch),
        n_inputs=dataset.n_inputs,
        n_classes=len(names),
        divisor_zyx=tuple([1] * flat + [math.prod(s[a] for s in strides) for a in range(len(patch))]),  # type: ignore[arg-type]
        class_names=names,
        activation="sigmoid" if dataset.is_regions else "softmax",
        label_ids=dataset.label_ids,
        normalization=_normalizations(configuration.normalization_schemes, grey, root),
        mirror_axes=tuple(a + flat for a in mirror) if mirror is not None else (),
        spacing_zyx=None if flat else tuple(configuration.spacing),  # type: ignore[arg-type]
        resampling=_resampling(configuration, root),
        transpose=tuple(plans.transpose_forward),  # type: ignore[arg-type]
        masked=tuple(configuration.use_mask_for_norm) if any(configuration.use_mask_for_norm) else (),
        n_folds=len(modules),
        intensity=tuple(Intensity(**g.model_dump()) for g in grey),
        normalization_note=MASKED if any(configuration.use_mask_for_norm) else "",
        notes=tuple(notes),
        details={
            "configuration": name,
            "trainer": str(first.get("trainer_name", "")),
            "checkpoints": [str(c.relative_to(root)) for c in checkpoints],
        },
    )
    return TorchModel(card, modules)


def _resampling(configuration: Configuration, root: Path) -> Resampling | None:
    """How its cases are resampled; None where they are not."""
    orders: list[tuple[int, int, bool | None]] = []
    for function, kernel in (
        (configuration.resampling_fn_data, configuration.resampling_fn_data_kwargs),
        (configuration.resampling_fn_probabilities, configuration.resampling_fn_probabilities_kwargs),
    ):
        if function == "no_resampling_data_or_seg_to_shape":
            return None
        if function == "resample_torch_fornnunet":
            orders.append((1, 0, kernel.force_separate_z))
        elif function != "resample_data_or_seg_to_shape" or {kernel.order, kernel.order_z} - {0, 1, 3}:
            raise ModelError(f"{root}: its plans resample by {function!r} {kernel!r:.80}, which voxweft cannot")
        else:
            orders.append((kernel.order, kernel.order_z, kernel.force_separate_z))
    (order, apart, separate), (back, back_apart, _) = orders
    if back > 1:
        raise ModelError(f"{root}: its plans resample logits by splines of order {back}; voxweft does by 0 or 1")
    flat = len(configuration.spacing) == 2
    spacing = (None, *configuration.spacing) if flat else tuple(configuration.spacing)
    return Resampling(spacing, order, back, apart, back_apart, False if flat else separate)  # type: ignore[arg-type]


def _find(path: Path, only: str = "", name: str = "") -> tuple[Path, list[Path], list[str]]:
    """The folder with plans.json, the checkpoints to use, and what to say of them.

    ``fold_all`` was trained on everything: it counts where it is asked for or alone. Folds that ended (``_final``) are
    not averaged with those that did not (``_best``).
    """
    root = path if (path / "plans.json").exists() else path.parent
    folders = [path] if path != root else [*sorted(root.glob("fold_*")), root]
    if only:
        folders = [root / f"fold_{n.strip()}" for n in only.split(",")]
    names = (name,) if name else CHECKPOINTS
    found = [next((f / c for c in names if (f / c).exists()), None) for f in folders]
    if only and None in found:
        raise ModelError(f"{folders[found.index(None)]} has no {' or '.join(names)}")
    checkpoints = [c for c in found if c is not None]
    if not checkpoints:
        raise ModelError(f"{path} has no fold_*/{names[0]}")
    if only:
        return root, checkpoints, []
    folds = [c for c in checkpoints if c.parent != root] or checkpoints
    counted = [c for c in folds if c.parent.name != "fold_all"] or folds
    final = [c for c in counted if c.name == CHECKPOINTS[0]] or counted
    notes = [
        f"{c.parent.name} is left out: {why}"
        for some, why in (
            ([c for c in folds if c not in counted], "it was trained on the cases of all folds"),
            ([c for c in counted if c not in final], f"it has {CHECKPOINTS[1]} only, and others are finished"),
        )
        for c in some
    ]
    return root, final, notes


def _checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint as plain data: tensors, numbers, text."""
    state = read_checkpoint(path)
    if not isinstance(state, dict) or "network_weights" not in state:
        raise ModelError(f"{path} is no nnU-Net checkpoint: it has no 'network_weights'")
    return state


def build(configuration: Configuration, n_inputs: int, n_classes: int, root: Path) -> torch.nn.Module:
    """The network of a configuration of plans.json, with random weights."""
    name, arguments = _architecture(configuration, root)
    _require_buildable(arguments, root)
    try:
        module = _resolve(name, root)(
            input_channels=n_inputs, num_classes=n_classes, deep_supervision=True, **arguments
        )
    except Exception as error:  # whatever wrong arguments lead to
        raise ModelError(f"{root}: its network {name} cannot be built: {first_line(error)}") from error
    return module  # type: ignore[no-any-return]


def _require_buildable(arguments: Any, root: Path, key: str = "") -> None:
    """Refuse numbers that no network has, before anything is built with so many layers or channels."""
    if isinstance(arguments, (dict, list, tuple)):
        items = arguments.items() if isinstance(arguments, dict) else ((key, value) for value in arguments)
        for name, value in items:
            _require_buildable(value, root, str(name))
    elif isinstance(arguments, (int, float)) and not 0 <= arguments <= (
        MOST_LAYERS if key.startswith("n_") else LARGEST
    ):
        raise ModelError(f"{root}: its plans have {key} {arguments!r:.40}, which no network has")


def _architecture(configuration: Configuration, root: Path) -> tuple[str, dict[str, Any]]:
    """Class and arguments, from plans of nnU-Net 2.5 and later, or of before."""
    if new := configuration.architecture:
        arguments = {
            k: _resolve(str(v), root) if k in new.needs_import and v is not None else v
            for k, v in new.arch_kwargs.items()
        }
        return new.network_class_name, arguments
    old = str(configuration.UNet_class_name)
    if old not in ARCHITECTURES:
        raise ModelError(f"{root}: the network class {old!r} is unknown; voxweft builds {', '.join(ARCHITECTURES)}")
    kernels, base = configuration.conv_kernel_sizes, configuration.UNet_base_num_features
    encoder = "n_blocks_per_stage" if old == "ResidualEncoderUNet" else "n_conv_per_stage"
    return ARCHITECTURES[old], {
        "n_stages": len(kernels),
        "features_per_stage": [min(base * 2**i, configuration.unet_max_num_features) for i in range(len(kernels))],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": kernels,
        "strides": configuration.pool_op_kernel_sizes,
        encoder: configuration.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": configuration.n_conv_per_stage_decoder,
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
    module.load_state_dict({k: v.to(wanted[k].dtype, copy=True) for k, v in clean.items()}, assign=True)
    if hasattr(module, "decoder"):
        module.decoder.deep_supervision = False  # type: ignore[union-attr]


def _normalizations(schemes: list[str], grey: Sequence[Foreground], root: Path) -> tuple[Normalization, ...]:
    """One a channel; one scheme alone holds for all."""
    if len(schemes) not in (1, len(grey)):
        raise ModelError(f"{root}: its plans have {len(schemes)} normalizations for {len(grey)} channels")
    schemes = schemes * len(grey) if len(schemes) == 1 else schemes
    return tuple(_normalization(scheme, one, root) for scheme, one in zip(schemes, grey, strict=True))


def _normalization(scheme: str, grey: Foreground, root: Path) -> Normalization:
    """With nnU-Net's meaning: z-score over the case, CT by the training foreground."""
    if scheme == "CTNormalization":
        return Normalization("ct", grey.mean, grey.std, grey.percentile_00_5, grey.percentile_99_5)
    if scheme == "RGBTo01Normalization":
        return Normalization("global_minmax", lower=0.0, upper=255.0)
    if scheme in SCHEMES:
        return Normalization(SCHEMES[scheme])
    known = ", ".join([*SCHEMES, "CTNormalization", "RGBTo01Normalization"])
    raise ModelError(f"{root}: normalization {scheme!r} is unknown; voxweft knows {known}")


def _digest(states: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for state in states:
        for key, value in sorted(state["network_weights"].items()):
            digest.update(key.encode())
            digest.update(weight_bytes(value))
    return digest.hexdigest()
