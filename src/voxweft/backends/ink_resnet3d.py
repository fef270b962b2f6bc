"""ResNet3D checkpoints of Vesuvius Challenge with a decoder in the plane."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from voxweft.backends.ink_checkpoint import InkFile, InkRequest, clipped_scale, fill, tile_that_fits
from voxweft.backends.ink_surface import SurfaceNetwork
from voxweft.errors import ModelError
from voxweft.nets.resnet3d import InkResNet3d, ResNet3dSize

DIVISOR = 32  # of a tile


def build(file: InkFile, request: InkRequest) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network, and what its card says.

    Raises
    ------
    ModelError
        If the file does not fit together, or nobody says how many layers to take.
    """
    size = ResNet3dSize.of(file.state)
    n_layers = request.n_layers or int(file.number("num_frames")) or int(file.number("in_chans"))
    if not n_layers:
        raise ModelError(f"{file.path} takes any number of layers; give the layer window")
    tile = tile_that_fits(request.tile or int(file.number("size")) or 256, DIVISOR, file)
    network = InkResNet3d(size)
    fill(network, {k: v for k, v in file.state.items() if not k.startswith("backbone.fc.")}, file.path, {})
    return SurfaceNetwork(network), {
        "format": f"ink ResNet3D-{size.depth}",
        "patch_zyx": (tile, 1, tile),
        "divisor_zyx": (DIVISOR, 1, DIVISOR),
        "n_inputs": n_layers,
        "details": asdict(size),
        **clipped_scale(file),
    }
