"""ResNet3D checkpoints with a decoder in three dimensions: ``resnet3d-152-3d-decoder`` and Hecate.

                        resnet3d-152-3d-decoder    Hecate 2.4             Hecate 9.6 micrometres
    layers              62 (any number runs)       64, 62 of them seen    16
    tile, stride        256, 128                   256, 128               64, 32
    grey values         0 .. 200, / 200            / 200, not clipped     / 255, not clipped

Read strictly, with the tensors that training alone needs (``backbone.fc``, ``decoder.aux_head``). Names, shapes and
numbers are those of the published files as their definition tells; the weights themselves were not tried.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from voxweft.backends.ink_checkpoint import (
    InkFile,
    InkRequest,
    clipped_scale,
    fill,
    layers_that_fit,
    mapping,
    number,
    tile_that_fits,
)
from voxweft.backends.ink_scales import scale_in_words, scale_of
from voxweft.backends.ink_surface import ProbabilityNetwork
from voxweft.errors import ModelError
from voxweft.model.contract import InputContract
from voxweft.model.head import Head
from voxweft.nets.decoder3d import LOGITS, Decoder3dSize, InkDecoder3d

USUAL_UM = (2.4, 2.4)  # of the published network
N_LAYERS = 62  # of the published network, where the file says nothing
CANONICAL = "canonical."
DEPTH_SCALE = "depth_coordinate_scale"


def build(file: InkFile, request: InkRequest) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network of ``resnet3d-<N>-3d-decoder``, and what its card says.

    Raises
    ------
    ModelError
        If the file does not fit together, or not what was asked for.
    """
    size = Decoder3dSize.of(file.state)
    depth = size.backbone.depth
    trained = int(file.number("num_frames")) or int(file.number("in_chans")) or N_LAYERS
    tile = int(file.number("size")) or 256
    scaled = clipped_scale(file)
    return _network(size, file, file.state), {
        "format": f"ink ResNet3D-{depth} 3-D decoder",
        "n_inputs": request.n_layers or trained,
        "contract": InputContract(trained, dtypes=("uint8",), tile=tile, usual_um=USUAL_UM),
        "details": {
            "architecture": f"ResNet3D-{depth}, decoder in 3-D, attention over features",
            "layers": trained,
            "voxel_size": "not in the file; the published model was trained at 2.4 micrometer",
            "scale": scale_in_words(scaled["normalization"][0]),
            **_sizes(size),
        },
        **scaled,
        **_tiles(size, request.tile or tile, file),
    }


def build_hecate(file: InkFile, request: InkRequest) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network of Hecate, and what its card says.

    Raises
    ------
    ModelError
        If the file does not fit together, or not what was asked for.
    """
    state = {k.removeprefix(CANONICAL): v for k, v in file.state.items()}
    pooled = Decoder3dSize.of(state).pooled
    usual = {"input_depth": 64, "depth_margin": 1} if pooled else {"input_depth": 16, "depth_margin": 0}
    settings = {**usual, **mapping(file.model_config, "canonical")}
    n_layers, margin = int(number(settings, "input_depth")), int(number(settings, "depth_margin"))
    stride = 4 if pooled else 1
    if (
        settings.get("native_xy_stride", stride) != stride
        or n_layers <= 2 * margin
        or settings.get("native_refinement")
    ):
        raise ModelError(f"{file.path} says {settings}, which its tensors do not fit: they are of stride {stride}")
    layers_that_fit(n_layers, file, request)
    size = Decoder3dSize.of(state, LOGITS, margin)
    um = number(file.more, "sampling_um") or (2.4 if pooled else 9.6)
    patch = file.patch or (n_layers, *((256, 256) if pooled else (64, 64)))
    divisor = 200.0 if pooled else 255.0
    scheme = scale_of(file.config, file.path, {"mode": "divide", "divisor": divisor})
    heads = (Head("ink", 1, "none"), Head("ink3d", n_layers, "none", stacked=True)) if request.depth_output else ()
    return _network(size, file, state, request.depth_output), {
        "format": "ink Hecate",
        "n_inputs": n_layers,
        "normalization": (scheme,),
        "divisor": scheme.std,
        "spacing_zyx": (um, um, um),
        "spacing_unit": "micrometer",
        "heads": heads,
        "separate": bool(heads),
        "n_classes": 1 + (n_layers if heads else 0),
        "class_names": ("ink", *(f"ink of layer {n}" for n in range(n_layers if heads else 0))),
        "contract": InputContract(n_layers, spacing_um=(um, um, um), dtypes=("uint8",), tile=patch[1]),
        "details": {
            "architecture": f"Hecate: ResNet3D-{size.backbone.depth}, decoder in 3-D, attention over logits",
            "layers": n_layers,
            "voxel_size": f"{um:g} micrometer along all three axes",
            "scale": scale_in_words(scheme),
            **_sizes(size),
        },
        **_tiles(size, request.tile or patch[1], file),
    }


def _network(
    size: Decoder3dSize, file: InkFile, state: dict[str, torch.Tensor], depth_output: bool = False
) -> ProbabilityNetwork:
    """The network with its tensors, ready for evaluation."""
    with torch.device("meta"):
        network = InkDecoder3d(size, depth_output=depth_output)
    network.to_empty(device="cpu")
    fill(network, state, file.path, size.unused(state))
    return ProbabilityNetwork(network.eval().requires_grad_(False).fold())


def _tiles(size: Decoder3dSize, tile: int, file: InkFile) -> dict[str, Any]:
    """Patch and stride of a card: half a tile."""
    divisor = 32 if size.pooled else 8
    step = tile_that_fits(tile, divisor, file) // 2
    return {"patch_zyx": (tile, 1, tile), "stride_zyx": (step, 1, step), "divisor_zyx": (divisor, 1, divisor)}


def _sizes(size: Decoder3dSize) -> dict[str, Any]:
    sizes = asdict(size.backbone)
    return {
        "batch_normalized_input": sizes.pop("normalization"),
        **sizes,
        "reduced": size.reduced,
        "margin": size.margin,
    }
