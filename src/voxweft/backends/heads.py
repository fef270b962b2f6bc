"""From what a network returns to one tensor of all its heads.

    card.heads      (cell, 2), (edge, 1, scale (1, 2, 2))
    returned        {"cell": [B, 2, Z, Y, X], "edge": [B, 1, Z, Y/2, X/2]}
    edge            enlarged to [B, 1, Z, Y, X]
    one tensor      [B, 3, Z, Y, X]: cell, cell, edge

A map of a coarser scale is enlarged by linear interpolation of its logits, edges not aligned (``align_corners=False``),
which is what the decoders of networks do themselves and what halving by means undoes best. A network for images takes
[B, C, Y, X]: the z axis of a patch (1, Y, X) is taken away before it and put back after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from voxweft.backends.ending import undone
from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx
from voxweft.model.card import ModelCard
from voxweft.model.head import Head

WHOLE = (1, 1, 1)


class OneTensor(torch.nn.Module):
    """A network that takes [B, n_inputs, Z, Y, X] and gives [B, n_classes, Z, Y, X], whatever the one inside does.

    Parameters
    ----------
    module
        Takes [B, n_inputs, Z, Y, X], or [B, n_inputs, Y, X] where the card has two dimensions; returns a tensor, or a
        dictionary, list or tuple of them.
    card
        Its heads and dimensions.
    """

    def __init__(self, module: torch.nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.module, self.card = module, card

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All channels."""
        return one_tensor(self.module(network_input(x, self.card)), self.card, (x.shape[2], x.shape[3], x.shape[4]))


class Cast(torch.nn.Module):
    """A network that takes another dtype than float32.

    Parameters
    ----------
    module
        The network.
    dtype
        What it takes; integers are those nearest to the voxels.
    """

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: torch.Tensor) -> Any:
        """What the network gives, a tensor in float32."""
        found = self.module((x if self.dtype.is_floating_point else x.round()).to(self.dtype))
        return found.float() if isinstance(found, torch.Tensor) else found


def network_input(x: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """What the network takes of a batch [B, C, Z, Y, X]: itself, or [B, C, Y, X] for one of two dimensions.

    Raises
    ------
    ModelError
        If the patch is thicker than one slice.
    """
    if card.n_dimensions == 3:
        return x
    if x.shape[2] != 1:
        given = ",".join(str(int(n)) for n in x.shape[2:])
        raise ModelError(f"{card.path} takes 2-D images: the patch is 1,Y,X and not {given}")
    return x.squeeze(2)


def one_tensor(result: Any, card: ModelCard, patch: Zyx) -> torch.Tensor:
    """The channels of all heads [B, n_classes, *patch] from what a network returned.

    A tensor is passed on as it is; so is the first of a list where the card names no heads (deep supervision).

    Raises
    ------
    ModelError
        If a head is missing, or has another size than the card says.
    """
    heads = card.heads
    if isinstance(result, torch.Tensor) and (len(heads) != 1 or heads[0].scale_zyx == WHOLE):
        return undone(_with_z(result, card), card.ends_in)
    if heads:
        maps = zip(heads, _maps(result, card), strict=True)
        return torch.cat([_enlarged(_with_z(found, card), head, card, patch) for head, found in maps], 1).contiguous()
    if isinstance(result, Mapping):
        names = ", ".join(map(str, result))
        raise ModelError(f"{card.path} returns a dictionary with {names}; say which are its heads, in its side file")
    return undone(_with_z(_first(result), card), card.ends_in)


def _maps(result: Any, card: ModelCard) -> list[torch.Tensor]:
    """The map of every head: of a dictionary by name, of a list or tuple by order."""
    names = [h.name for h in card.heads]
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        if missing := [n for n in names if n not in result]:
            found = ", ".join(map(str, result))
            raise ModelError(f"{card.path} returns no head {', '.join(map(repr, missing))}; it returns {found}")
        return [_first(result[n]) for n in names]
    if not isinstance(result, (list, tuple)):
        raise ModelError(f"{card.path} returns {type(result).__name__}; a tensor, a list or a dictionary can be read")
    if len(result) < len(names):
        missing = names[len(result) :]
        raise ModelError(
            f"{card.path} returns {len(result)} maps; there is none for head {', '.join(map(repr, missing))}"
        )
    if len(result) > len(names) > 1:
        raise ModelError(f"{card.path} returns {len(result)} maps, its heads are {', '.join(names)}; name all of them")
    return [_first(r) for r in result[: len(names)]]


def _enlarged(found: torch.Tensor, head: Head, card: ModelCard, patch: Zyx) -> torch.Tensor:
    """A map [B, n_channels, Z, Y, X] at the scale of the patch, float32."""
    if found.ndim != 5 or found.shape[1] != head.n_channels:
        shape = tuple(int(n) for n in found.shape)
        raise ModelError(f"{card.path}: head {head.name!r} gives {shape}, not the {head.n_channels} channels it should")
    size, wanted = tuple(int(n) for n in found.shape[2:]), [n / s for n, s in zip(patch, head.scale_zyx, strict=True)]
    if list(size) != wanted:
        raise ModelError(
            f"{card.path}: head {head.name!r} gives {size} voxels for a patch of {tuple(int(n) for n in patch)}; at "
            f"scale {head.scale_zyx} it should be ({', '.join(f'{n:g}' for n in wanted)})"
        )
    if head.scale_zyx == WHOLE:
        return found.float()
    return functional.interpolate(found.float(), size=patch, mode="trilinear", align_corners=False)


def _with_z(result: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """A map with its z axis, where the network knows none."""
    return result.unsqueeze(2) if card.n_dimensions == 2 and result.ndim == 4 else result


def _first(result: Any) -> torch.Tensor:
    """The output proper: of deep supervision's list the first, at full resolution."""
    return result[0] if isinstance(result, (list, tuple)) else result  # type: ignore[no-any-return]
