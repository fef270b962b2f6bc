"""Checkpoints as vesuvius.train saves them, and the plainest forward pass of their networks; no code of voxweft.

Names and shapes are written down here once more: stem, stages of residual or convolution blocks, decoders, heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

State = dict[str, torch.Tensor]
PATCH = (16, 16, 16)
INK = {"out_channels": 1, "activation": "sigmoid", "losses": [{"name": "BCEWithLogitsLoss", "weight": 1.0}]}
SURFACE = {"out_channels": 2, "activation": "none", "losses": [{"name": "nnUNet_DC_and_CE_loss"}]}
NORMALS = {
    "out_channels": 3,
    "activation": "none",
    "losses": [{"name": "MaskedCosineLoss"}],
    "task_type": "surface_normals",
}
DISTANCE = {"out_channels": 1, "activation": "none", "losses": [{"name": "SmoothL1Loss"}]}
TARGETS = {"surface_normals": NORMALS, "surface": SURFACE}


def config(targets: dict[str, Any] = TARGETS, **changes: Any) -> dict[str, Any]:
    """A model_config of a narrow network."""
    made = {
        "model_name": "narrow",
        "basic_encoder_block": "BasicBlockD",
        "basic_decoder_block": "ConvBlock",
        "bottleneck_block": "BasicBlockD",
        "features_per_stage": [4, 6, 8],
        "num_stages": 3,
        "n_blocks_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "conv_bias": True,
        "norm_op": "InstanceNorm3d",
        "norm_op_kwargs": {"affine": True, "eps": 1e-5},
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {"inplace": True, "negative_slope": 0.01},
        "patch_size": PATCH,
        "batch_size": 2,
        "in_channels": 1,
        "autoconfigure": False,
        "targets": targets,
        "separate_decoders": True,
    }
    return made | changes


class _Maker:
    """Random tensors by name."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self._random = torch.Generator().manual_seed(seed)

    def tensor(self, *shape: int, scale: float, shift: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=self._random) * scale + shift

    def convolution(self, name: str, n_in: int, n_out: int, kernel: list[int], bias: bool = True) -> None:
        fan = n_in * int(np.prod(kernel))
        self.state[f"{name}.weight"] = self.tensor(n_out, n_in, *kernel, scale=fan**-0.5)
        if bias:
            self.state[f"{name}.bias"] = self.tensor(n_out, scale=0.1)

    def block(self, name: str, n_in: int, n_out: int, kernel: list[int], bias: bool = True) -> None:
        """A convolution and its norm, both under two names."""
        self.convolution(f"{name}.conv", n_in, n_out, kernel, bias)
        self.state[f"{name}.norm.weight"] = self.tensor(n_out, scale=0.1, shift=1.0)
        self.state[f"{name}.norm.bias"] = self.tensor(n_out, scale=0.1)
        for n, part in enumerate(("conv", "norm")):
            for kind in ("weight", "bias") if bias or n else ("weight",):
                self.state[f"{name}.all_modules.{n}.{kind}"] = self.state[f"{name}.{part}.{kind}"]


def weights(made: dict[str, Any], seed: int = 0) -> State:
    """A random state dict with the names of a configuration."""
    maker, features, kernels = _Maker(seed), made["features_per_stage"], made["kernel_sizes"]
    residual, one = made["basic_encoder_block"] == "BasicBlockD", [1] * len(kernels[0])
    maker.block("shared_encoder.stem.convs.0", made["in_channels"], features[0], kernels[0])
    n_in = features[0]
    for s, n_out in enumerate(features):
        for b in range(made["n_blocks_per_stage"][s]):
            if residual:
                name = f"shared_encoder.stages.{s}.blocks.{b}"
                maker.block(f"{name}.conv1", n_in, n_out, kernels[s])
                maker.block(f"{name}.conv2", n_out, n_out, kernels[s])
                if n_in != n_out:
                    pooled = b == 0 and max(made["strides"][s]) > 1
                    maker.block(f"{name}.skip.{int(pooled)}", n_in, n_out, one, bias=False)
            else:
                maker.block(f"shared_encoder.stages.{s}.0.convs.{b}", n_in, n_out, kernels[s])
            n_in = n_out
    targets = made["targets"]
    alone = [t for t in targets if targets[t].get("separate_decoder", made["separate_decoders"])]
    for name in ([] if len(alone) == len(targets) else ["shared_decoder"]) + [f"task_decoders.{t}" for t in alone]:
        target = targets.get(name.removeprefix("task_decoders."))
        for n, s in enumerate(reversed(range(len(features) - 1))):
            below, here = features[s + 1], features[s]
            maker.state[f"{name}.transpconvs.{n}.weight"] = maker.tensor(
                below, here, *made["strides"][s + 1], scale=below**-0.5
            )
            maker.state[f"{name}.transpconvs.{n}.bias"] = maker.tensor(here, scale=0.1)
            for c in range(made["n_conv_per_stage_decoder"][n]):
                maker.block(f"{name}.stages.{n}.convs.{c}", here if c else 2 * here, here, kernels[s])
            if target:
                maker.convolution(f"{name}.seg_layers.{n}", here, target["out_channels"], one)
    for t in targets:
        if t not in alone:
            maker.convolution(f"task_heads.{t}", features[0], targets[t]["out_channels"], one)
    return maker.state


def forward(made: dict[str, Any], state: State, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits of all targets of [B, C, Z, Y, X], in float64, function by function."""
    w = {name: value.double() for name, value in state.items()}
    strides, n_dims = made["strides"], len(made["strides"][0])
    convolve: Callable[..., Any] = functional.conv2d if n_dims == 2 else functional.conv3d
    raise_: Callable[..., Any] = functional.conv_transpose2d if n_dims == 2 else functional.conv_transpose3d
    pool: Callable[..., Any] = functional.avg_pool2d if n_dims == 2 else functional.avg_pool3d

    def block(name: str, x: torch.Tensor, stride: Any = 1, active: bool = True) -> torch.Tensor:
        kernel = w[f"{name}.conv.weight"]
        pad = [(k - 1) // 2 for k in kernel.shape[2:]]
        x = convolve(x, kernel, w.get(f"{name}.conv.bias"), stride, pad)
        axes = tuple(range(2, x.ndim))
        x = (x - x.mean(axes, keepdim=True)) / torch.sqrt(x.var(axes, correction=0, keepdim=True) + 1e-5)
        shape = (1, -1, *[1] * n_dims)
        x = x * w[f"{name}.norm.weight"].reshape(shape) + w[f"{name}.norm.bias"].reshape(shape)
        return torch.where(x > 0, x, 0.01 * x) if active else x

    maps, x = [], block("shared_encoder.stem.convs.0", x.double())
    for s, n_blocks in enumerate(made["n_blocks_per_stage"]):
        for b in range(n_blocks):
            stride = strides[s] if b == 0 else 1
            if made["basic_encoder_block"] == "ConvBlock":
                x = block(f"shared_encoder.stages.{s}.0.convs.{b}", x, stride)
                continue
            name = f"shared_encoder.stages.{s}.blocks.{b}"
            beside = pool(x, strides[s]) if b == 0 and max(strides[s]) > 1 else x
            skip = next((n for n in (f"{name}.skip.0", f"{name}.skip.1") if f"{n}.conv.weight" in w), None)
            beside = block(skip, beside, active=False) if skip else beside
            x = block(f"{name}.conv2", block(f"{name}.conv1", x, stride), active=False) + beside
            x = torch.where(x > 0, x, 0.01 * x)
        maps.append(x)

    def decoded(name: str) -> torch.Tensor:
        x = maps[-1]
        for n, s in enumerate(reversed(range(len(maps) - 1))):
            up = raise_(x, w[f"{name}.transpconvs.{n}.weight"], w[f"{name}.transpconvs.{n}.bias"], strides[s + 1])
            x = torch.cat([up, maps[s]], 1)
            for c in range(made["n_conv_per_stage_decoder"][n]):
                x = block(f"{name}.stages.{n}.convs.{c}", x)
        last = f"{name}.seg_layers.{len(maps) - 2}"
        return convolve(x, w[f"{last}.weight"], w[f"{last}.bias"]) if f"{last}.weight" in w else x

    found = {}
    for t in made["targets"]:
        if f"task_heads.{t}.weight" in w:
            found[t] = convolve(decoded("shared_decoder"), w[f"task_heads.{t}.weight"], w[f"task_heads.{t}.bias"])
        else:
            found[t] = decoded(f"task_decoders.{t}")
    return found


def checkpoint(path: Path, made: dict[str, Any] | None = None, seed: int = 0, **more: Any) -> Path:
    """A file as save_checkpoint writes it."""
    made = made or config()
    content = {
        "model": weights(made, seed),
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": {},
        "epoch": 7,
    }
    torch.save(content | {"model_config": made} | more, path)
    return path


def legacy(path: Path, made: dict[str, Any], average: State | None = None, validate: bool = True) -> Path:
    """A file of older releases: the settings of the training around the configuration of the network."""
    outside = ("targets", "in_channels", "patch_size")
    inner = {k: v for k, v in made.items() if k not in outside}
    settings = {k: made[k] for k in outside} | {"model_config": inner, "image_normalization": "instance_minmax"}
    settings["ema"] = {"validate": validate, "decay": np.float64(0.999)}
    content: dict[str, Any] = {"model": weights(made), "config": settings, "epoch": 3}
    if average is not None:
        content["ema_model"] = {f"module.{k}": v for k, v in average.items()} | {"n_averaged": torch.tensor(5)}
    torch.save(content, path)
    return path
