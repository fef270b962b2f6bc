"""TimeSformer checkpoints of Vesuvius Challenge."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from voxweft.backends.ink_checkpoint import InkFile, InkRequest, State, clipped_scale, fill, layers_that_fit
from voxweft.backends.ink_surface import SurfaceNetwork
from voxweft.errors import ModelError
from voxweft.nets.timesformer import TimeSformer, TimeSformerSize


def build(file: InkFile, request: InkRequest) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network, and what its card says.

    Raises
    ------
    ModelError
        If the file does not fit together, or not what was asked for.
    """
    path, state = file.path, file.state
    normalization = {k: v for k, v in state.items() if k.startswith("normalization.")}
    names = [k for k in state if k not in normalization]
    start = len("backbone.") if all(k.startswith("backbone.") for k in names) else 0
    own = {k[start:]: state[k] for k in names}
    size = TimeSformerSize.of(own, _frame(own, file, request))
    layers_that_fit(size.num_frames, file, request)
    if request.tile not in (0, size.image_size):
        raise ModelError(
            f"tiles of {request.tile} pixels were asked for, {path} takes {size.image_size} x {size.image_size}"
        )
    side = math.isqrt(size.num_classes)
    if size.channels != 1 or side**2 != size.num_classes:
        raise ModelError(
            f"{path} takes {size.channels} channels and gives {size.num_classes} values; an ink network takes "
            "1 and gives a square of them, such as 4 x 4"
        )
    batchnorm = torch.nn.BatchNorm3d(1) if normalization else None
    network = TimeSformer(size)
    fill(network, own, path, {})
    if batchnorm:
        fill(batchnorm, {k.removeprefix("normalization."): v for k, v in normalization.items()}, path, {})
    return SurfaceNetwork(network, batchnorm), {
        "format": "ink TimeSformer",
        "patch_zyx": (size.image_size, 1, size.image_size),
        "n_inputs": size.num_frames,
        "fixed_patch": True,
        "details": {"normalization": bool(normalization), **asdict(size)},
        **clipped_scale(file),
    }


def _frame(own: State, file: InkFile, request: InkRequest) -> dict[str, int]:
    """What the shapes do not tell: from the checkpoint, else from the request."""
    known = {name: int(file.number(name)) for name in ("num_frames", "image_size", "channels", "dim_head")}
    known["image_size"] = known["image_size"] or int(file.number("size")) or request.tile or 64
    if "pos_emb.weight" not in own:
        known["num_frames"] = known["num_frames"] or request.n_layers
        if not known["num_frames"]:
            raise ModelError(f"{file.path} does not say how many layers it takes; give the layer window")
    return known
