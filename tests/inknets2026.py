"""Checkpoints of the ink models of 2026 with random weights, at any width.

Names and shapes are written down from the description of the published files; nothing is taken from voxweft. The
published files have ``width=64``; the hybrid ones ``features=HYBRID``. No published weights exist here.

    save(path, "hecate-2.4", width=4)           a file as it is published, narrow
    state = random_state("hecate-2.4", width=4) its tensors alone
    plain("hecate-2.4", state, layers)          what they make of layers, by a second implementation
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation has it

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


def plain(kind: str, state: Mapping[str, torch.Tensor], layers: torch.Tensor, blocks: Shape = BLOCKS[152]) -> list[Any]:
    """Probabilities [B, Y, X], of Hecate also [B, L, Y, X], of scaled layers [B, L, Y, X], in float64.

    A second, plain implementation by the names of the tensors; ``blocks`` are those of the four stages of the ResNet.
    """
    s = {k.removeprefix("canonical."): v.double() for k, v in state.items()}
    x = layers.double().unsqueeze(1)
    if kind == "hybrid":
        return [_plain_hybrid(s, x).sigmoid()[:, 0]]
    if kind == "resnet3d-3d-decoder":
        features = _plain_features(s, x, blocks, pooled=True)
        score = F.conv3d(
            features, s["decoder.depth_collapse.attn_conv.weight"], s["decoder.depth_collapse.attn_conv.bias"]
        )
        weight = score.exp() / score.exp().sum(2, keepdim=True)
        logit = F.conv2d((features * weight).sum(2), s["decoder.logit.weight"], s["decoder.logit.bias"])
        return [_grown(torch.sigmoid(logit), x.shape[3:])[:, 0]]
    margin, stride = (1, 4) if kind == "hecate-2.4" else (0, 1)
    seen = x[:, :, margin : x.shape[2] - margin]
    features = _plain_features(s, seen, blocks, pooled=stride == 4)
    logits = F.conv3d(features, s["decoder.logit.weight"].unsqueeze(2), s["decoder.logit.bias"])[:, 0]
    score = F.conv3d(features, s["decoder.depth_collapse.attn_conv.weight"], s["decoder.depth_collapse.attn_conv.bias"])
    n = score.shape[2]
    score = score[:, 0] + s["depth_coordinate_scale"] * (torch.arange(n) - n // 2).view(1, -1, 1, 1) / (n // 2)
    known = (x[:, 0] != 0).any(1)
    fewer = known.unflatten(2, (-1, stride)).any(3).unflatten(1, (-1, stride)).any(2)
    weight = torch.where(fewer[:, None], score.exp() / score.exp().sum(1, keepdim=True), 0.0)
    flat = torch.sigmoid((weight * logits).sum(1))
    deep = F.interpolate(logits[:, None], seen.shape[2:], mode="trilinear")[:, 0]
    outside = torch.full_like(x[:, 0, :margin], -20)
    deep = torch.sigmoid(torch.cat([outside, deep, outside], 1))
    return [_grown(flat[:, None], x.shape[3:])[:, 0] * known, deep * known[:, None]]


def _plain_features(s: dict[str, torch.Tensor], x: torch.Tensor, blocks: Shape, pooled: bool) -> torch.Tensor:
    x = _plain_norm(s, "normalization", x)
    kernel = s["backbone.conv1.weight"]
    x = F.conv3d(x, kernel, stride=(1, 2, 2) if pooled else 1, padding=kernel.shape[-1] // 2)
    x = _plain_norm(s, "backbone.bn1", x).relu()
    if pooled:
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    maps = []
    for stage, count in enumerate(blocks):
        for b in range(count):
            at, stride = f"backbone.layer{stage + 1}.{b}", 2 if stage and b == 0 else 1
            y = _plain_norm(s, f"{at}.bn1", F.conv3d(x, s[f"{at}.conv1.weight"])).relu()
            y = _plain_norm(s, f"{at}.bn2", F.conv3d(y, s[f"{at}.conv2.weight"], stride=stride, padding=1)).relu()
            y = _plain_norm(s, f"{at}.bn3", F.conv3d(y, s[f"{at}.conv3.weight"]))
            if b == 0:
                x = F.conv3d(x, s[f"{at}.downsample.0.weight"], stride=stride)
                x = _plain_norm(s, f"{at}.downsample.1", x)
            x = (x + y).relu()
        small = F.conv3d(x, s[f"decoder.channel_reduce.{stage}.0.weight"])
        maps.append(_plain_groups(s, f"decoder.channel_reduce.{stage}.1", small).relu())
    x = maps[3]
    for n, finer in enumerate((maps[2], maps[1], maps[0])):
        at = f"decoder.decoder_blocks.{n}"
        both = torch.cat([F.interpolate(x, finer.shape[2:], mode="trilinear"), finer], 1)
        y = _plain_groups(s, f"{at}.gn1", F.conv3d(both, s[f"{at}.conv1.weight"], padding=1)).relu()
        y = _plain_groups(s, f"{at}.gn2", F.conv3d(y, s[f"{at}.conv2.weight"], padding=1))
        x = (y + F.conv3d(both, s[f"{at}.shortcut.weight"])).relu()
    return x


def _plain_hybrid(s: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for n in (0, 3):
        x = F.conv3d(x, s[f"depth_fusion.features.{n}.weight"], padding=1)
        x = _plain_instance(s, f"depth_fusion.features.{n + 1}", x)
    score = F.conv3d(x, s["depth_fusion.attention_logits.weight"], s["depth_fusion.attention_logits.bias"]).exp()
    x = torch.cat([(x * score).sum(2) / score.sum(2), x.max(2).values], 1)
    x = _plain_conv(s, "network.shared_encoder.stem.convs.0", x)
    n_stages = 1 + max(int(k.split(".")[3]) for k in s if k.startswith("network.shared_encoder.stages."))
    skips = []
    for stage in range(n_stages):
        for b in range(HYBRID_BLOCKS[stage]):
            at, stride = f"network.shared_encoder.stages.{stage}.blocks.{b}", 2 if stage and b == 0 else 1
            y = _plain_conv(s, f"{at}.conv2", _plain_conv(s, f"{at}.conv1", x, stride), slope=1)
            x = F.avg_pool2d(x, stride)
            if skip := next((k for k in s if k.startswith(f"{at}.skip.") and k.endswith(".conv.weight")), ""):
                x = _plain_conv(s, skip.removesuffix(".conv.weight"), x, slope=1)
            x = F.leaky_relu(x + y)
        skips.append(x)
    for n in range(n_stages - 1):
        at = "network.shared_decoder"
        x = F.conv_transpose2d(x, s[f"{at}.transpconvs.{n}.weight"], s[f"{at}.transpconvs.{n}.bias"], stride=2)
        x = _plain_conv(s, f"{at}.stages.{n}.convs.0", torch.cat([x, skips[-2 - n]], 1))
    return F.conv2d(x, s["network.task_heads.ink.weight"], s["network.task_heads.ink.bias"])


def _plain_conv(
    s: dict[str, torch.Tensor], at: str, x: torch.Tensor, stride: int = 1, slope: float = 0.01
) -> torch.Tensor:
    weight = s[f"{at}.conv.weight"]
    x = F.conv2d(x, weight, s.get(f"{at}.conv.bias"), stride=stride, padding=weight.shape[-1] // 2)
    return _plain_instance(s, f"{at}.norm", x, slope)


def _plain_instance(s: dict[str, torch.Tensor], at: str, x: torch.Tensor, slope: float = 0.01) -> torch.Tensor:
    axes = tuple(range(2, x.ndim))
    x = (x - x.mean(axes, keepdim=True)) / torch.sqrt(x.var(axes, correction=0, keepdim=True) + 1e-5)
    return F.leaky_relu(_plain_affine(s, at, x), slope)


def _plain_groups(s: dict[str, torch.Tensor], at: str, x: torch.Tensor) -> torch.Tensor:
    grouped = x.unflatten(1, (min(32, x.shape[1]), -1)).flatten(2)
    grouped = (grouped - grouped.mean(2, keepdim=True)) / torch.sqrt(grouped.var(2, correction=0, keepdim=True) + 1e-5)
    return _plain_affine(s, at, grouped.reshape(x.shape))


def _plain_norm(s: dict[str, torch.Tensor], at: str, x: torch.Tensor) -> torch.Tensor:
    mean, var = (s[f"{at}.{k}"].view(1, -1, 1, 1, 1) for k in ("running_mean", "running_var"))
    return _plain_affine(s, at, (x - mean) / torch.sqrt(var + 1e-5))


def _plain_affine(s: dict[str, torch.Tensor], at: str, x: torch.Tensor) -> torch.Tensor:
    weight, bias = (s[f"{at}.{k}"].view(1, -1, *(1,) * (x.ndim - 2)) for k in ("weight", "bias"))
    return x * weight + bias


def _grown(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear")
