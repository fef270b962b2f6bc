"""Hybrid 3-D/2-D checkpoints of villa's ``ink_detection``, such as those of ``scrollprize/ink_9um``.

Names and shapes are those of the published files as their definition tells; the weights themselves were not tried.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from voxweft.backends.ink_checkpoint import InkFile, InkRequest, fill, layers_that_fit, mapping, number, tile_that_fits
from voxweft.backends.ink_scales import scale_in_words, scale_of
from voxweft.backends.ink_surface import SurfaceNetwork
from voxweft.errors import ModelError
from voxweft.model.contract import InputContract
from voxweft.nets.hybrid3d2d import HybridSize, InkHybrid

TILE = 128
USUAL_UM = (9.3, 9.7)  # of the published networks
FORM, SOURCE_LEVEL, REDUCTION = "level2-zmean4-21slice-v1", "2", 4  # of the volumes prepared for training
SUPPORTED = {  # of the configuration of the U-Net: what the network is made of; absent is the first
    "pool_type": ("conv",),
    "nonlin": ("nn.LeakyReLU", "LeakyReLU"),
    "norm_op": ("nn.InstanceNorm3d", "nn.InstanceNorm2d", "InstanceNorm2d", "InstanceNorm3d"),
    "squeeze_excitation": (False,),
    "upsample_mode": ("transpconv",),
}


def build(file: InkFile, request: InkRequest) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network, and what its card says.

    Raises
    ------
    ModelError
        If the file does not fit together, or not what was asked for.
    """
    for name, words in SUPPORTED.items():
        if (said := file.model_config.get(name, words[0])) not in words:
            raise ModelError(f"{file.path} says {name} {said!r}, which is not supported; {words[0]!r} is")
    patch = file.patch
    n_layers = patch[0] if patch else request.n_layers
    if not n_layers:
        raise ModelError(f"{file.path} does not say how many layers it takes; give the layer window")
    layers_that_fit(n_layers, file, request)
    size = HybridSize.of(file.state)
    trained = patch[1] if patch else TILE
    tile = tile_that_fits(request.tile or trained, size.divisor, file)
    scheme = scale_of(file.config, file.path, {})
    with torch.device("meta"):
        network = InkHybrid(size)
    network.to_empty(device="cpu")
    fill(network, file.state, file.path, {})
    return SurfaceNetwork(network), {
        "format": "ink hybrid 3-D/2-D",
        "patch_zyx": (tile, 1, tile),
        "stride_zyx": (tile // 2, 1, tile // 2),
        "divisor_zyx": (size.divisor, 1, size.divisor),
        "n_inputs": n_layers,
        "normalization": (scheme,),
        "divisor": scheme.std,
        "contract": _contract(file, n_layers, trained, scheme.std),
        "details": {
            "architecture": "3-D stem, attention and maximum over depth, 2-D U-Net",
            "layers": n_layers,
            "voxel_size": "not in the file; the published models were trained at 9.4 to 9.6 micrometer",
            "scale": scale_in_words(scheme),
            **asdict(size),
        },
    }


def _contract(file: InkFile, n_layers: int, tile: int, divisor: float | None) -> InputContract:
    """Windows cut from prepared volumes of a few layers more, where the configuration says that training moved them."""
    moved = mapping(file.config, "flat_z_window_jitter")
    jitter = int(number(moved, "max_offset")) if moved.get("enabled") else 0
    dtypes = ("uint8",) if divisor else ()
    if not jitter:
        return InputContract(n_layers, dtypes=dtypes, tile=tile, usual_um=USUAL_UM)
    return InputContract(
        n_layers,
        trained_layers=n_layers + 2 * jitter,
        jitter=jitter,
        dtypes=dtypes,
        tile=tile,
        usual_um=USUAL_UM,
        form=FORM,
        source_level=SOURCE_LEVEL,
        reduction=REDUCTION,
    )
