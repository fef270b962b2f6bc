"""Checkpoints of the ink models of 2026 with random weights, at any width.

Names and shapes are written down from the description of the published files; nothing is taken from voxweft. The
published files have ``width=64``; the hybrid ones ``features=HYBRID``. No published weights exist here.

    save(path, "hecate-2.4", width=4)           a file as it is published, narrow
    state = random_state("hecate-2.4", width=4) its tensors alone
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

KINDS = ("resnet3d-3d-decoder", "hecate-2.4", "hecate-9.6", "hybrid")
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
HYBRID = (32, 64, 128, 256, 320, 320)
HYBRID_BLOCKS = (1, 3, 4, 6, 6, 6)
Shape = tuple[int, ...]


def layout(
    kind: str, width: int = 64, *, depth: int = 152, features: Sequence[int] = HYBRID, stem: int = 16
) -> dict[str, Shape]:
    """Names and shapes of a state dict.

    ``width`` and ``depth`` (layers of the ResNet: 50, 101, 152, 200) are those of the first three kinds, ``features``
    (channels of the stages of the U-Net) and ``stem`` those of the hybrid one.
    """
    if kind == "hybrid":
        return dict(_hybrid(tuple(features), stem))
    names = dict(_resnet(width, BLOCKS[depth], 3 if kind == "hecate-9.6" else 7))
    if kind == "resnet3d-3d-decoder":
        return names
    return {f"canonical.{name}": shape for name, shape in names.items()} | {"depth_coordinate_scale": ()}


def random_state(kind: str, width: int = 4, *, seed: int = 0, **sizes: Any) -> dict[str, torch.Tensor]:
    """Tensors for :func:`layout`, scaled such that answers differ from pixel to pixel."""
    random = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, shape in layout(kind, width, **sizes).items():
        if ".all_modules." in name:  # the same tensor under its second name
            continue
        found[name] = _values(name, shape, random)
    if kind != "hybrid":
        return found
    order = layout(kind, width, **sizes)
    return {name: found[name.replace("all_modules.0", "conv").replace("all_modules.1", "norm")] for name in order}


def save(path: Path, kind: str, width: int = 4, *, config: Mapping[str, Any] | None = None, **sizes: Any) -> Path:
    """A file in the container in which the kind is published; ``config`` adds to the settings in it."""
    torch.save(payload(kind, random_state(kind, width, **sizes), config), path)
    return path


def payload(kind: str, state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the file of a kind holds."""
    if kind == "resnet3d-3d-decoder":
        return {
            "state_dict": {f"model.{k}": v for k, v in state.items()},
            "epoch": 13,
            "hyper_parameters": {"size": 256},
        }
    if kind == "hybrid":
        return {"config": {**HYBRID_CONFIG, **(config or {})}, "ema_model": dict(state), "step": 75000}
    fine = kind == "hecate-2.4"
    canonical = {"input_depth": 64, "depth_margin": 1, "native_xy_stride": 4}
    settings = {
        "model_type": "multiteacher_3d_projection",
        "model_config": {
            "projection": {"kind": "canonical_logits"},
            "canonical": canonical if fine else {"input_depth": 16, "depth_margin": 0, "native_xy_stride": 1},
        },
        "patch_size": [64, 256, 256] if fine else [16, 64, 64],
        "image_normalization": {"mode": "divide", "divisor": 200.0 if fine else 255.0},
        **(config or {}),
    }
    return {
        "format_version": 1,
        "architecture_family": "hecate",
        "sampling_um": 2.4 if fine else 9.6,
        "weight_source": "ema_model",
        "config": settings,
        "ema_model": dict(state),
    }


HYBRID_CONFIG = {
    "mode": "flat",
    "model_type": "vesuvius_unet_3d_stem_2d",
    "model_config": {"autoconfigure": True, "stem_channels": 16},
    "targets": {"ink": {"activation": "none", "out_channels": 1}},
    "in_channels": 1,
    "patch_size": [17, 128, 128],
    "flat_z_window_jitter": {"enabled": True, "window_depth": 17, "max_offset": 2},
    "image_normalization": {"mode": "robust_mad", "percentile_lower": 1.0, "percentile_upper": 99.0},
}


def _resnet(w: int, blocks: Shape, stem: int) -> Iterator[tuple[str, Shape]]:
    yield from _batch_norm("normalization", 1)
    yield "backbone.conv1.weight", (w, 1, stem, stem, stem)
    yield from _batch_norm("backbone.bn1", w)
    before = w
    for s, n_blocks in enumerate(blocks):
        inner, outer = w << s, 4 * w << s
        for b in range(n_blocks):
            at = f"backbone.layer{s + 1}.{b}"
            shapes = ((inner, before, 1, 1, 1), (inner, inner, 3, 3, 3), (outer, inner, 1, 1, 1))
            for c, shape in enumerate(shapes, 1):
                yield f"{at}.conv{c}.weight", shape
                yield from _batch_norm(f"{at}.bn{c}", shape[0])
            if b == 0:
                yield f"{at}.downsample.0.weight", (outer, before, 1, 1, 1)
                yield from _batch_norm(f"{at}.downsample.1", outer)
            before = outer
    yield from (("backbone.fc.weight", (1039, before)), ("backbone.fc.bias", (1039,)))
    for s in range(4):
        yield f"decoder.channel_reduce.{s}.0.weight", (w << s, 4 * w << s, 1, 1, 1)
        yield from _affine(f"decoder.channel_reduce.{s}.1", w << s)
    for n, s in enumerate((2, 1, 0)):
        at, both, out = f"decoder.decoder_blocks.{n}", (w << s) + (w << s + 1), w << s
        for c, inputs in ((1, both), (2, out)):
            yield f"{at}.conv{c}.weight", (out, inputs, 3, 3, 3)
            yield from _affine(f"{at}.gn{c}", out)
        yield f"{at}.shortcut.weight", (out, both, 1, 1, 1)
    for name, shape in (
        ("depth_collapse.attn_conv", (1, w, 1, 1, 1)),
        ("logit", (1, w, 1, 1)),
        ("aux_head_s2.conv", (1, 4 * w, 1, 1)),
        ("aux_head_s1.conv", (1, 2 * w, 1, 1)),
    ):
        yield from ((f"decoder.{name}.weight", shape), (f"decoder.{name}.bias", (1,)))


def _hybrid(features: Shape, stem: int) -> Iterator[tuple[str, Shape]]:
    for n, inputs in ((0, 1), (3, stem)):
        yield f"depth_fusion.features.{n}.weight", (stem, inputs, 3, 3, 3)
        yield from _affine(f"depth_fusion.features.{n + 1}", stem)
    yield from (
        ("depth_fusion.attention_logits.weight", (1, stem, 1, 1, 1)),
        ("depth_fusion.attention_logits.bias", (1,)),
    )
    yield from _conv_norm("network.shared_encoder.stem.convs.0", (features[0], 2 * stem, 3, 3))
    before = features[0]
    for s, out in enumerate(features):
        for b in range(HYBRID_BLOCKS[s]):
            at = f"network.shared_encoder.stages.{s}.blocks.{b}"
            yield from _conv_norm(f"{at}.conv1", (out, before, 3, 3))
            yield from _conv_norm(f"{at}.conv2", (out, out, 3, 3))
            if before != out:
                yield from _conv_norm(f"{at}.skip.{1 if s else 0}", (out, before, 1, 1), bias=False)
            before = out
    for n, s in enumerate(range(len(features) - 2, -1, -1)):
        at = "network.shared_decoder"
        yield from _conv_norm(f"{at}.stages.{n}.convs.0", (features[s], 2 * features[s], 3, 3))
        yield f"{at}.transpconvs.{n}.weight", (features[s + 1], features[s], 2, 2)
        yield f"{at}.transpconvs.{n}.bias", (features[s],)
    yield from (
        ("network.task_heads.ink.weight", (1, features[0], 1, 1)),
        ("network.task_heads.ink.bias", (1,)),
    )


def _conv_norm(at: str, shape: Shape, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    """A convolution and its normalisation, each under two names."""
    for conv, norm in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
        yield f"{at}.{conv}.weight", shape
        if bias:
            yield f"{at}.{conv}.bias", shape[:1]
        yield from _affine(f"{at}.{norm}", shape[0])


def _affine(at: str, n: int) -> Iterator[tuple[str, Shape]]:
    yield from ((f"{at}.weight", (n,)), (f"{at}.bias", (n,)))


def _batch_norm(at: str, n: int) -> Iterator[tuple[str, Shape]]:
    yield from _affine(at, n)
    yield from ((f"{at}.running_mean", (n,)), (f"{at}.running_var", (n,)), (f"{at}.num_batches_tracked", ()))


def _values(name: str, shape: Shape, random: torch.Generator) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name == "depth_coordinate_scale":
        return torch.tensor(0.7)
    if name.endswith("running_var"):
        return torch.rand(shape, generator=random) + 0.5
    noise = torch.randn(shape, generator=random)
    if len(shape) > 1:
        return noise * math.sqrt(2 / math.prod(shape[1:]))
    return noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
