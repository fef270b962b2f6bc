"""Checkpoints of the ink networks: TimeSformer and ResNet3D of Vesuvius Challenge.

A surface volume comes with its layers as channels, so that the sweep over rows meets them all at once:

    [B, layers, rows, 1, columns] -> network [B, 1, k, k] -> sigmoid -> enlarged: probabilities [B, 1, rows, 1, columns]
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from voxweft.backends.checkpoint import read_checkpoint
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError, first_line
from voxweft.model.card import ModelCard, Normalization
from voxweft.nets.resnet3d import BLOCKS, InkResNet3d, ResNet3dSize
from voxweft.nets.timesformer import TimeSformer, TimeSformerSize

MODEL_TYPES = ("auto", "timesformer", "resnet3d", *(f"resnet3d-{d}" for d in BLOCKS))
WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and trainers
MARKS = ("to_patch_embedding.weight", "backbone.layer1.0.conv1.weight")
DECODER_3D = ("decoder.channel_reduce.", "decoder.decoder_blocks.", "decoder.depth_collapse.")
LARGEST = 4096  # of hyper-parameters: layers, pixels of a tile
DIVISOR = 200.0  # grey values are clipped to 0 .. 200 and divided by 200
TRUST = "--trust-code loads it all the same; do so only for files you trust, for such a file can run any code."
State = dict[str, torch.Tensor]


class SurfaceNetwork(torch.nn.Module):
    """Ink probabilities float32 [B, 1, Y, 1, X] of layers [B, L, Y, 1, X].

    Parameters
    ----------
    network
        A TimeSformer, [B, L, 1, Y, X] -> [B, k * k] row by row, or an InkResNet3d, [B, 1, L, Y, X] -> [B, 1, k, k].
    normalization
        Of the one channel [B, 1, L, Y, X] before a TimeSformer, or nothing.
    """

    def __init__(self, network: torch.nn.Module, normalization: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.normalization = network, normalization or torch.nn.Identity()
        self.side = math.isqrt(network.size.num_classes) if isinstance(network, TimeSformer) else 0

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        volume = self.normalization(layers.squeeze(3).unsqueeze(1))
        if self.side:
            logits = self.network(volume.transpose(1, 2)).unflatten(1, (1, self.side, self.side))
        else:
            logits = self.network(volume)
        size = (layers.shape[2], layers.shape[4])
        wide = functional.interpolate(logits.float().sigmoid(), size, mode="bilinear", align_corners=False)
        return wide.unsqueeze(3)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the caller asked for, and where the file lies."""

    path: Path
    model_type: str
    n_layers: int
    tile: int


def load(
    path: Path, model_type: str = "auto", n_layers: int = 0, tile: int = 0, trust_code: bool = False
) -> TorchModel:
    """Read a checkpoint; sizes come from the shapes of its tensors, the rest from its hyper-parameters.

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

    Raises
    ------
    ModelError
        If the file is damaged, unsafe, no ink network, or contradicts the arguments.
    """
    if model_type not in MODEL_TYPES:
        raise ModelError(f"model type {model_type!r} is unknown; use one of {', '.join(MODEL_TYPES)}")
    state, hyper = _read(path, trust_code)
    request = _Request(path, model_type, n_layers, tile)
    build = _timesformer if _kind(state, request) == "timesformer" else _resnet3d
    try:
        network, found = build(state, hyper, request)
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError) as error:
        raise ModelError(f"{path} does not describe an ink network: {first_line(error)}") from error
    divisor = _number(hyper, "normalize_divisor") or DIVISOR
    if not 1 <= divisor <= 255:
        raise ModelError(f"{path} says normalize_divisor {divisor}; 200 and 255 are usual")
    card = ModelCard(
        path=str(path),
        digest=_digest(path),
        n_classes=1,
        class_names=("ink",),
        activation="none",
        mirror_axes=(0, 2),
        normalization=(Normalization("ct", mean=0.0, std=divisor, lower=0.0, upper=divisor),),
        divisor=divisor,
        **found,
    )
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


def _timesformer(state: State, hyper: Mapping[str, Any], request: _Request) -> tuple[SurfaceNetwork, dict[str, Any]]:
    normalization = {k: v for k, v in state.items() if k.startswith("normalization.")}
    names = [k for k in state if k not in normalization]
    start = len("backbone.") if all(k.startswith("backbone.") for k in names) else 0
    own = {k[start:]: state[k] for k in names}
    size = TimeSformerSize.of(own, _frame(own, hyper, request))
    if request.n_layers not in (0, size.num_frames):
        raise ModelError(
            f"Channel mismatch: the layer window has {request.n_layers} layers, {request.path} takes {size.num_frames}"
        )
    if request.tile not in (0, size.image_size):
        raise ModelError(
            f"tiles of {request.tile} pixels were asked for, {request.path} takes {size.image_size} x {size.image_size}"
        )
    side = math.isqrt(size.num_classes)
    if size.channels != 1 or side**2 != size.num_classes:
        raise ModelError(
            f"{request.path} takes {size.channels} channels and gives {size.num_classes} values; an ink network takes "
            "1 and gives a square of them, such as 4 x 4"
        )
    batchnorm = torch.nn.BatchNorm3d(1) if normalization else None
    network = TimeSformer(size)
    _fill(network, own, request.path)
    if batchnorm:
        _fill(batchnorm, {k.removeprefix("normalization."): v for k, v in normalization.items()}, request.path)
    return SurfaceNetwork(network, batchnorm), {
        "format": "ink TimeSformer",
        "patch_zyx": (size.image_size, 1, size.image_size),
        "n_inputs": size.num_frames,
        "fixed_patch": True,
        "details": {"normalization": bool(normalization), **asdict(size)},
    }


def _frame(own: State, hyper: Mapping[str, Any], request: _Request) -> dict[str, int]:
    """What the shapes do not tell: from the checkpoint, else from the request."""
    known = {name: int(_number(hyper, name)) for name in ("num_frames", "image_size", "channels", "dim_head")}
    known["image_size"] = known["image_size"] or int(_number(hyper, "size")) or request.tile or 64
    if "pos_emb.weight" not in own:
        known["num_frames"] = known["num_frames"] or request.n_layers
        if not known["num_frames"]:
            raise ModelError(f"{request.path} does not say how many layers it takes; give the layer window")
    return known


def _resnet3d(state: State, hyper: Mapping[str, Any], request: _Request) -> tuple[SurfaceNetwork, dict[str, Any]]:
    size = ResNet3dSize.of(state)
    n_layers = request.n_layers or int(_number(hyper, "num_frames")) or int(_number(hyper, "in_chans"))
    if not n_layers:
        raise ModelError(f"{request.path} takes any number of layers; give the layer window")
    tile = request.tile or int(_number(hyper, "size")) or 256
    if tile % 32:
        raise ModelError(f"tiles of {tile} pixels do not fit {request.path}: they must be a multiple of 32")
    network = InkResNet3d(size)
    _fill(network, {k: v for k, v in state.items() if not k.startswith("backbone.fc.")}, request.path)
    return SurfaceNetwork(network), {
        "format": f"ink ResNet3D-{size.depth}",
        "patch_zyx": (tile, 1, tile),
        "divisor_zyx": (32, 1, 32),
        "n_inputs": n_layers,
        "details": asdict(size),
    }


def _kind(state: State, request: _Request) -> str:
    """Either "timesformer" or "resnet3d", by the names of the tensors.

    Raises
    ------
    ModelError
        If they are of another network, or not of the one that was asked for.
    """
    path, asked = request.path, request.model_type
    if any(k.startswith(DECODER_3D) for k in state):
        raise ModelError(
            f"{path} holds a ResNet3D with a 3-D decoder, which is not supported; use one with a 2-D decoder"
        )
    if any(k.endswith(MARKS[0]) for k in state):
        kind = holds = "timesformer"
    elif MARKS[1] in state and any(k.startswith("decoder.") for k in state):
        kind, holds = "resnet3d", f"resnet3d-{ResNet3dSize.of(state).depth}"
    else:
        some = ", ".join(list(state)[:3])
        raise ModelError(f"{path} is no ink network (TimeSformer or ResNet3D): its tensors are {some}, ...")
    if asked not in ("auto", kind, holds):
        raise ModelError(f"{path} holds a {holds}, not a {asked}; use --model-type {holds} or auto")
    return kind


def _fill(module: torch.nn.Module, state: State, path: Path) -> None:
    """Load every tensor, or none."""
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is not known" for k in state if k not in wanted]
    problems += [
        f"{k} is {list(state[k].shape)} and not {list(shape)}"
        for k, shape in wanted.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(f"{path} does not fit the network that its shapes tell: {', '.join(problems[:3])}{more}")
    module.load_state_dict(state)


def _read(path: Path, trust_code: bool) -> tuple[State, dict[str, Any]]:
    """Tensors by name, without the prefixes of wrappers, and hyper-parameters."""
    content = (
        _safetensors(path)
        if path.suffix == ".safetensors"
        else read_checkpoint(path, trust_code=trust_code, hint=TRUST)
    )
    hyper: dict[str, Any] = {}
    if isinstance(content, Mapping):
        stored = content.get("hyper_parameters")
        flat = dict(stored) if isinstance(stored, Mapping) else {}
        hyper = {**flat, **(flat["backbone"] if isinstance(flat.get("backbone"), Mapping) else {})}
        content = next((content[k] for k in ("state_dict", "model_state_dict", "model") if k in content), content)
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ModelError(f"{path} holds no state dict: neither 'state_dict' nor 'model_state_dict' nor tensors by name")
    state = {str(k).replace("_orig_mod.", ""): v for k, v in content.items()}
    while prefix := next((w for w in WRAPPERS if all(k.startswith(w) for k in state)), ""):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state, hyper


def _safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(f"{path} needs the extra 'ink': pip install 'voxweft[ink]'") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error


def _number(hyper: Mapping[str, Any], name: str) -> float:
    """A positive hyper-parameter, or 0 where it is absent or something else.

    Raises
    ------
    ModelError
        If it is beyond all reason.
    """
    value = hyper.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        return 0.0
    if value > LARGEST:
        raise ModelError(f"the checkpoint says {name} {value}; that cannot be")
    return float(value)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
