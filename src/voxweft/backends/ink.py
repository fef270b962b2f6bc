"""Checkpoints of the ink networks of Vesuvius Challenge: which network a file holds, and its card.

A surface volume comes with its layers as channels, so that the sweep over rows meets them all at once:

    [B, layers, rows, 1, columns] -> network -> probabilities [B, 1, rows, 1, columns]
"""

from __future__ import annotations

import hashlib
import zipfile
from importlib import import_module
from pathlib import Path

from voxweft.backends.ink_checkpoint import InkFile, InkRequest, read_ink
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError, first_line
from voxweft.model.card import ModelCard
from voxweft.nets.resnet3d import BLOCKS, ResNet3dSize

HECATE, HYBRID = "hecate", "hybrid-3d2d"
MODEL_TYPES = (
    "auto",
    "timesformer",
    "resnet3d",
    *(f"resnet3d-{d}" for d in BLOCKS),
    *(f"resnet3d-{d}-3d-decoder" for d in BLOCKS),
    HECATE,
    HYBRID,
)
OTHER_NAMES = {  # those of villa's configurations
    "multiteacher_3d_projection": HECATE,
    "vesuvius_unet_3d_stem_2d": HYBRID,
    "unet_3d_stem_2d": HYBRID,
}
TIMESFORMER, RESNET, FUSION = (
    "to_patch_embedding.weight",
    "backbone.layer1.0.conv1.weight",
    "depth_fusion.attention_logits.weight",
)
MARKS = (TIMESFORMER, RESNET, FUSION)
DECODER_3D = ("decoder.channel_reduce.", "decoder.decoder_blocks.", "decoder.depth_collapse.")
CANONICAL = ("canonical.", "depth_coordinate_scale")
BUILDERS = {
    "timesformer": ("ink_timesformer", "build"),
    "resnet3d": ("ink_resnet3d", "build"),
    "resnet3d-3d-decoder": ("ink_decoder3d", "build"),
    HECATE: ("ink_decoder3d", "build_hecate"),
    HYBRID: ("ink_hybrid", "build"),
}


def load(
    path: Path,
    model_type: str = "auto",
    n_layers: int = 0,
    tile: int = 0,
    trust_code: bool = False,
    depth_output: bool = False,
) -> TorchModel:
    """Read a checkpoint; sizes come from the shapes of its tensors, the rest from its settings.

    Parameters
    ----------
    path
        ``.ckpt`` of Lightning, ``.pt``, ``.pth`` or ``.bin`` of torch.save, or ``.safetensors``.
    model_type
        One of ``MODEL_TYPES``; must be what the file holds.
    n_layers
        Layers in the window that will be read; needed where the file does not say it, else compared with it.
    tile
        Side of a tile in pixels; likewise (64 for a TimeSformer, 256 for a ResNet3D where nobody says it).
    trust_code
        Load pickles that hold more than tensors and numbers, which may run any code.
    depth_output
        Let a Hecate give the probabilities of every layer after that of the surface, from one pass: heads ``ink`` (1
        channel) and ``ink3d`` (a channel each layer).

    Raises
    ------
    ModelError
        If the file is damaged, unsafe, no ink network, or contradicts the arguments.
    """
    model_type = OTHER_NAMES.get(model_type, model_type)
    if model_type not in MODEL_TYPES:
        raise ModelError(f"model type {model_type!r} is unknown; use one of {', '.join(MODEL_TYPES)}")
    file, request = read_ink(path, trust_code), InkRequest(model_type, n_layers, tile, depth_output)
    module, function = BUILDERS[_kind(file, request)]
    build = getattr(import_module(f"voxweft.backends.{module}"), function)
    try:
        network, found = build(file, request)
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError) as error:
        raise ModelError(f"{path} does not describe an ink network: {first_line(error)}") from error
    usual = {"n_classes": 1, "class_names": ("ink",), "activation": "none", "mirror_axes": (0, 2)}
    card = ModelCard(path=str(path), digest=_digest(path), **{**usual, **found})
    return TorchModel(card, [network.eval().requires_grad_(False)])


def holds_ink(path: Path) -> bool:
    """Whether the names in a file of torch.save are those of an ink network; nothing is unpickled."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next((n for n in archive.namelist() if Path(n).name == "data.pkl"), "")
                head = archive.read(name) if name else b""
        else:
            with path.open("rb") as file:
                head = file.read(1 << 24)
    except (OSError, zipfile.BadZipFile):
        return False
    return any(mark.encode() in head for mark in MARKS)


def _kind(file: InkFile, request: InkRequest) -> str:
    """A key of ``BUILDERS``, by the names of the tensors.

    Raises
    ------
    ModelError
        If they are of another network, or not of the one that was asked for.
    """
    state, path, asked = file.state, file.path, request.model_type
    if any(k.startswith(CANONICAL) for k in state):
        kind = holds = HECATE
    elif any(k.startswith("depth_fusion.") for k in state):
        kind = holds = HYBRID
    elif any(k.endswith(TIMESFORMER) for k in state):
        kind = holds = "timesformer"
    elif RESNET in state and any(k.startswith("decoder.") for k in state):
        flat = not any(k.startswith(DECODER_3D) for k in state)
        kind = "resnet3d" if flat else "resnet3d-3d-decoder"
        holds = f"resnet3d-{ResNet3dSize.of(state).depth}{'' if flat else '-3d-decoder'}"
    else:
        some = ", ".join(list(state)[:3])
        raise ModelError(
            f"{path} is no ink network (TimeSformer, ResNet3D, Hecate or hybrid): its tensors are {some}, ..."
        )
    if asked not in ("auto", kind, holds):
        raise ModelError(f"{path} holds a {holds}, not a {asked}; use --model-type {holds} or auto")
    if request.depth_output and kind != HECATE:
        raise ModelError(f"{path} holds a {holds}, which gives no probabilities of voxels; Hecate does")
    return kind


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
