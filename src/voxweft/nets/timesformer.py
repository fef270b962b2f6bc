"""TimeSformer: divided attention over time and space (Bertasius et al. 2021, arXiv 2102.05095).

State dicts of the package timesformer-pytorch 0.4 load as they are, and the arithmetic is the same up to the order of
float32 sums. Two steps are left out because nothing reads their result: in the last layer only the class token goes
through the attention over space and through the feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from voxweft.errors import ModelError

HIGHEST = 5.0  # of the initial frequencies over space, in periods over a picture
Rotation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # order of the weights, cosines and sines [L, dim_head]


@dataclass(frozen=True, slots=True)
class TimeSformerSize:
    """All that fixes the shapes of a :class:`TimeSformer`.

    Attributes
    ----------
    dim, depth, heads, dim_head
        Width of a token, number of layers, heads of an attention and the width of one.
    image_size, patch_size
        Side of a frame and of the square of pixels that makes one token; the first is a multiple of the second.
    num_frames, channels
        Length of the sequence and channels of a frame.
    num_classes
        Outputs.
    rotary_emb
        Positions as rotations of queries and keys; else as a learned vector for each token.
    """

    dim: int
    image_size: int
    patch_size: int
    num_frames: int
    num_classes: int
    channels: int = 1
    depth: int = 8
    heads: int = 6
    dim_head: int = 64
    rotary_emb: bool = True

    @property
    def side(self) -> int:
        """Tokens along one side of a frame."""
        return self.image_size // self.patch_size

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], hyper: Mapping[str, int]) -> TimeSformerSize:
        """Sizes from the shapes of a state dict.

        Parameters
        ----------
        state
            Tensors by the names of timesformer-pytorch, without a prefix.
        hyper
            What shapes do not tell, 0 or absent where unknown: ``image_size`` and ``num_frames`` (with learned
            positions one of the two is enough), ``channels`` (1), and ``dim_head`` (64) with learned positions.

        Raises
        ------
        ModelError
            If names are missing, or sizes do not fit each other.
        """
        rotary = "pos_emb.weight" not in state
        dim = _shape(state, "cls_token")[1]
        inner = _shape(state, "layers.0.0.fn.to_qkv.weight")[0] // 3
        dim_head = 2 * _shape(state, "frame_rot_emb.inv_freqs")[0] if rotary else hyper.get("dim_head") or 64
        channels = hyper.get("channels") or 1
        pixels = _shape(state, "to_patch_embedding.weight")[1]
        patch = math.isqrt(pixels // channels)
        if channels * patch**2 != pixels or inner % dim_head:
            raise ModelError(
                f"the TimeSformer takes {pixels} values a token and is {inner} wide in its attentions, which does not "
                f"fit {channels} channels and heads of {dim_head}"
            )
        image, frames = hyper.get("image_size") or 0, hyper.get("num_frames") or 0
        if not rotary:
            image, frames = _fit(_shape(state, "pos_emb.weight")[0] - 1, image, frames, patch)
        if not frames or not image or image % patch:
            raise ModelError(f"a TimeSformer of {frames} frames of {image} x {image} pixels with tokens of {patch}")
        return cls(
            dim=dim,
            image_size=image,
            patch_size=patch,
            num_frames=frames,
            num_classes=_shape(state, "to_out.1.weight")[0],
            channels=channels,
            depth=len({name.split(".")[1] for name in state if name.startswith("layers.")}),
            heads=inner // dim_head,
            dim_head=dim_head,
            rotary_emb=rotary,
        )


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise ModelError(f"the state dict of a TimeSformer has no {name!r}")
    return tuple(state[name].shape)


def _fit(tokens: int, image: int, frames: int, patch: int) -> tuple[int, int]:
    """Image size and frames that make ``tokens`` positions, one of them given (the frames win)."""
    side = math.isqrt(tokens // frames) if frames else image // patch
    frames = frames or (tokens // side**2 if side else 0)
    if frames * side**2 != tokens:
        raise ModelError(f"the TimeSformer has {tokens} positions, {frames} frames of {side} x {side} need others")
    return side * patch, frames


class TimeSformer(torch.nn.Module):
    """Video classifier, float32 [B, num_frames, channels, H, W] -> [B, num_classes].

    Tokens are [B, 1 + num_frames * side * side, dim]: the class token, then frames, rows and columns.
    """

    order: torch.Tensor
    frame_cos: torch.Tensor
    frame_sin: torch.Tensor
    image_cos: torch.Tensor
    image_sin: torch.Tensor

    def __init__(self, size: TimeSformerSize) -> None:
        super().__init__()
        self.size = size
        self.to_patch_embedding = torch.nn.Linear(size.channels * size.patch_size**2, size.dim)
        self.cls_token = torch.nn.Parameter(torch.randn(1, size.dim))
        if size.rotary_emb:
            frame = 10000.0 ** -(torch.arange(0, size.dim_head, 2).float() / size.dim_head)
            image = torch.logspace(0.0, math.log2(HIGHEST), size.dim_head // 4, base=2)
            self.frame_rot_emb, self.image_rot_emb = _Frequencies("inv_freqs", frame), _Frequencies("scales", image)
            self.register_buffer("order", _pairs_apart(size.heads, size.dim_head), persistent=False)
            self._fill_tables()
            self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        else:
            self.pos_emb = torch.nn.Embedding(size.num_frames * size.side**2 + 1, size.dim)
        self.layers = torch.nn.ModuleList(_Layer(size) for _ in range(size.depth))
        self.to_out = torch.nn.Sequential(torch.nn.LayerNorm(size.dim), torch.nn.Linear(size.dim, size.num_classes))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Logits [B, num_classes]."""
        size, batch = self.size, video.shape[0]
        squares_yx = (size.side, size.patch_size)
        squares = torch.unflatten(torch.unflatten(video, 4, squares_yx), 3, squares_yx).permute(0, 1, 3, 5, 4, 6, 2)
        tokens = self.to_patch_embedding(squares.flatten(4).flatten(1, 3))
        x = torch.cat((self.cls_token.expand(batch, 1, size.dim), tokens), 1)
        over_time = over_space = None
        if size.rotary_emb:
            over_time = (self.order, self.frame_cos, self.frame_sin)
            over_space = (self.order, self.image_cos, self.image_sin)
        else:
            x = x + self.pos_emb.weight
        for i, layer in enumerate(self.layers):
            x = layer(x, over_time, over_space, i == size.depth - 1)
        return self.to_out(x[:, 0])  # type: ignore[no-any-return]

    def _fill_tables(self) -> None:
        """Cosines and sines [L, dim_head] of the rotations, in the order of :func:`_pairs_apart`."""
        size, device = self.size, self.cls_token.device
        steps = torch.arange(size.num_frames, device=device).float()
        angles = torch.outer(steps, self.frame_rot_emb.values())
        frame = torch.cat((angles, angles), 1)
        along = torch.linspace(-1.0, 1.0, size.side, device=device)
        angles = along[:, None] * self.image_rot_emb.values() * math.pi
        rows, columns = angles.repeat_interleave(size.side, 0), angles.repeat(size.side, 1)
        image = torch.cat((rows, columns), 1).repeat_interleave(2, 1)
        for name, table in (("frame", frame), ("image", image)):
            cos, sin = _halves(table, size.dim_head)
            self.register_buffer(f"{name}_cos", cos, persistent=False)
            self.register_buffer(f"{name}_sin", sin, persistent=False)


def _after_load(module: TimeSformer, _: object) -> None:
    module._fill_tables()


def _pairs_apart(heads: int, dim_head: int) -> torch.Tensor:
    """int64 [3 heads dim_head]: rows of ``to_qkv`` that put the first of each rotated pair before all the second.

    Scores do not change when queries and keys are permuted alike, and halves are faster to swap than neighbours.
    """
    within = torch.arange(dim_head).view(-1, 2).T.flatten()
    rows = (torch.arange(heads)[:, None] * dim_head + within).flatten()
    inner = heads * dim_head
    return torch.cat((rows, rows + inner, torch.arange(inner) + 2 * inner))


def _halves(angles: torch.Tensor, dim_head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine [L, dim_head] of angles [L, <= dim_head]; channels without an angle stay unrotated."""
    pairs = torch.unflatten(functional.pad(angles, (0, dim_head - angles.shape[1])), 1, (-1, 2))
    sign = torch.tensor([-1.0, 1.0], device=angles.device)
    return pairs.cos().transpose(1, 2).flatten(1), (pairs.sin() * sign).transpose(1, 2).flatten(1)


class _Frequencies(torch.nn.Module):
    """Frequencies that a checkpoint carries as a buffer."""

    def __init__(self, name: str, initial: torch.Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, initial)

    def values(self) -> torch.Tensor:
        return self.get_buffer(self.name).float()


class _Layer(torch.nn.ModuleList):
    """Attention over time, attention over space, feed-forward: numbers 0, 1 and 2 of the state dict."""

    def __init__(self, size: TimeSformerSize) -> None:
        parts = (_Attention(size), _Attention(size), _FeedForward(size.dim))
        super().__init__(_PreNorm(size.dim, part) for part in parts)
        self.frames = size.num_frames

    def forward(self, x: torch.Tensor, time: Rotation | None, space: Rotation | None, last: bool) -> torch.Tensor:
        """Tokens to tokens; in the last layer to the class token alone."""
        x = x + self[0](x, self.frames, 1, time)
        if last:
            x = x[:, :1] + self[1](x, 1, 0, None)
        else:
            x = x + self[1](x, self.frames, 2, space)
        return x + self[2](x)  # type: ignore[no-any-return]


class _PreNorm(torch.nn.Module):
    def __init__(self, dim: int, fn: torch.nn.Module) -> None:
        super().__init__()
        self.fn, self.norm = fn, torch.nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, *arguments: object) -> torch.Tensor:
        return self.fn(self.norm(x), *arguments)  # type: ignore[no-any-return]


class _FeedForward(torch.nn.Module):
    """Two linear layers with a gated GELU (Shazeer 2020, arXiv 2002.05202) between them."""

    def __init__(self, dim: int, times: int = 4) -> None:
        super().__init__()
        wide, narrow = torch.nn.Linear(dim, 2 * times * dim), torch.nn.Linear(times * dim, dim)
        self.net = torch.nn.ModuleDict({"0": wide, "3": narrow})  # 1 and 2 have no weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.net["0"](x).chunk(2, -1)
        return self.net["3"](value * functional.gelu(gate))  # type: ignore[no-any-return]


class _Attention(torch.nn.Module):
    def __init__(self, size: TimeSformerSize) -> None:
        super().__init__()
        self.heads, self.inner = size.heads, size.heads * size.dim_head
        self.to_qkv = torch.nn.Linear(size.dim, 3 * self.inner, bias=False)
        self.to_out = torch.nn.Sequential(torch.nn.Linear(self.inner, size.dim))

    def forward(self, x: torch.Tensor, frames: int, axis: int, rotation: Rotation | None) -> torch.Tensor:
        """Attention along ``axis`` (1 time, 2 space) to the line of a token and the class token, which sees all.

            [B, 1 + F N, dim] -> class [B, heads, 1, D], tokens [B, F, N, heads, D] -> lines [B, N or F, heads, L, D]

        With axis 0 only the class token is asked for.
        """
        if axis == 0:
            return self._first(x)
        weight = self.to_qkv.weight if rotation is None else self.to_qkv.weight.index_select(0, rotation[0])
        q, k, v = torch.unflatten(functional.linear(x, weight), 2, (3, self.heads, -1)).unbind(2)
        q_first, k_first, v_first = (t[:, :1].transpose(1, 2) for t in (q, k, v))
        first = functional.scaled_dot_product_attention(q_first, k.transpose(1, 2), v.transpose(1, 2))
        order = (0, 3 - axis, 3, axis, 4)
        q, k, v = (torch.unflatten(t[:, 1:], 1, (frames, -1)).permute(order) for t in (q, k, v))
        if rotation is not None:
            q, k = (_rotate(t, *rotation[1:]) for t in (q, k))
        each = (-1, q.shape[1], -1, -1, -1)
        k, v = (torch.cat((f[:, None].expand(each), t), 3) for f, t in ((k_first, k), (v_first, v)))
        lines = _attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).transpose(1, 2).flatten(2)
        grid = torch.unflatten(lines, 0, (x.shape[0], -1))
        grid = grid.transpose(1, 2) if axis == 1 else grid
        return self.to_out(torch.cat((first.transpose(1, 2).flatten(2), grid.flatten(1, 2)), 1))  # type: ignore[no-any-return]

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        """The class token alone [B, 1, dim]."""
        q = functional.linear(x[:, :1], self.to_qkv.weight[: self.inner])
        k, v = functional.linear(x, self.to_qkv.weight[self.inner :]).chunk(2, 2)
        q, k, v = (torch.unflatten(t, 2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        first = functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(first.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (i, D/2 + i) of [..., L, D] by the angles of its place."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, torch.cat((x[..., half:], x[..., :half]), -1), sin)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention [B, heads, L, D] of many short lines; on a CPU plain products are faster than the fused kernel."""
    if q.is_cuda:
        return functional.scaled_dot_product_attention(q, k, v)
    return torch.matmul(torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3)).softmax(-1), v)
