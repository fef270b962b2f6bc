"""Files of ink networks: their tensors by name, their settings, and what was asked of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.checkpoint import read_checkpoint
from voxweft.errors import ModelError, first_line
from voxweft.installed import install_line
from voxweft.model.card import Normalization

WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and trainers
PLACES = ("state_dict", "model_state_dict", "ema_model", "model")  # where weights lie; averaged ones come first
AVERAGED = ("ema_model", "state_dict", "model_state_dict", "model")  # in files that carry a configuration
LARGEST = 4096  # of hyper-parameters: layers, pixels of a tile
DIVISOR = 200.0  # grey values are clipped to 0 .. 200 and divided by 200
TRUST = "--trust-code loads it all the same; do so only for files you trust, for such a file can run any code."
SHOWN = 3  # differences of a state dict
State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class InkFile:
    """What a file holds.

    Attributes
    ----------
    path
        Where it lies.
    state
        Tensors by name, without the prefixes of wrappers.
    hyper
        Hyper-parameters of a Lightning checkpoint.
    config
        Configuration of villa's ``ink_detection``.
    more
        What else lies beside the weights.
    """

    path: Path
    state: State
    hyper: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A positive hyper-parameter, or 0 where it is absent or something else.

        Raises
        ------
        ModelError
            If it is beyond all reason.
        """
        return number(self.hyper, name)

    @property
    def model_config(self) -> Mapping[str, Any]:
        """The part of the configuration that is about the network."""
        return mapping(self.config, "model_config")

    @property
    def patch(self) -> tuple[int, ...]:
        """Layers, rows and columns of a patch by the configuration, or nothing."""
        found = self.config.get("patch_size", self.config.get("crop_size"))
        numbers = {str(n): value for n, value in enumerate(found)} if isinstance(found, (list, tuple)) else {}
        sizes = tuple(int(number(numbers, name)) for name in numbers)
        return sizes if len(sizes) == 3 and min(sizes) > 0 else ()


@dataclass(frozen=True, slots=True)
class InkRequest:
    """What the caller asked for; 0 where it did not."""

    model_type: str = "auto"
    n_layers: int = 0
    tile: int = 0
    depth_output: bool = False


def read_ink(path: Path, trust_code: bool) -> InkFile:
    """Read a file.

    Raises
    ------
    ModelError
        If it is damaged, wants to run code, or holds no tensors by name.
    """
    content = (
        _safetensors(path)
        if path.suffix == ".safetensors"
        else read_checkpoint(path, trust_code=trust_code, hint=TRUST)
    )
    hyper: dict[str, Any] = {}
    config: Mapping[str, Any] = {}
    more: dict[str, Any] = {}
    if isinstance(content, Mapping):
        flat = dict(mapping(content, "hyper_parameters"))
        hyper = {**flat, **mapping(flat, "backbone")}
        config = mapping(content, "config")
        more = {str(k): v for k, v in content.items() if isinstance(v, (str, int, float))}
        places = AVERAGED if config else PLACES
        content = next((content[k] for k in places if k in content), content)
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ModelError(f"{path} holds no state dict: neither 'state_dict' nor 'model_state_dict' nor tensors by name")
    state = {str(k).replace("_orig_mod.", ""): v for k, v in content.items()}
    while prefix := next((w for w in WRAPPERS if all(k.startswith(w) for k in state)), ""):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return InkFile(path, state, hyper, config, more)


def fill(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, unused: Mapping[str, tuple[int, ...]]
) -> None:
    """Load every tensor, or none; those that training alone needs are only looked at.

    Raises
    ------
    ModelError
        With the first three differences between the file and the network.
    """
    own = module.state_dict()
    wanted = {k: tuple(v.shape) for k, v in own.items()} | dict(unused)
    problems = [f"{k} is missing" for k in wanted if k not in state]
    problems += [f"{k} is not known" for k in state if k not in wanted]
    problems += [
        f"{k} is {list(state[k].shape)} and not {list(shape)}"
        for k, shape in wanted.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ModelError(f"{path} does not fit the network that its shapes tell: {', '.join(problems[:SHOWN])}{more}")
    module.load_state_dict({k: state[k] for k in own})


def layers_that_fit(n_layers: int, file: InkFile, request: InkRequest) -> int:
    """The number of layers that a network takes.

    Raises
    ------
    ModelError
        If another number was asked for.
    """
    if request.n_layers not in (0, n_layers):
        raise ModelError(
            f"Channel mismatch: the layer window has {request.n_layers} layers, {file.path} takes {n_layers}"
        )
    return n_layers


def tile_that_fits(tile: int, divisor: int, file: InkFile) -> int:
    """The side of a tile.

    Raises
    ------
    ModelError
        If it is not a multiple of the strides.
    """
    if tile % divisor:
        raise ModelError(f"tiles of {tile} pixels do not fit {file.path}: they must be a multiple of {divisor}")
    return tile


def clipped_scale(file: InkFile) -> dict[str, Any]:
    """Normalisation and divisor of a card: grey values clipped to 0 .. 200 and divided by 200.

    Raises
    ------
    ModelError
        If the file names another divisor that cannot be.
    """
    divisor = file.number("normalize_divisor") or DIVISOR
    if not 1 <= divisor <= 255:
        raise ModelError(f"{file.path} says normalize_divisor {divisor}; 200 and 255 are usual")
    scheme = Normalization("ct", mean=0.0, std=divisor, lower=0.0, upper=divisor)
    return {"normalization": (scheme,), "divisor": divisor}


def mapping(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping among settings; an empty one where it is absent or something else."""
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def number(settings: Mapping[str, Any], name: str) -> float:
    """A positive number among settings, or 0 where it is absent or something else.

    Raises
    ------
    ModelError
        If it is beyond all reason.
    """
    value = settings.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        return 0.0
    if value > LARGEST or not math.isfinite(value):
        raise ModelError(f"the checkpoint says {name} {value}; that cannot be")
    return float(value)


def _safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(f"{path} needs the extra 'ink': {install_line('ink')}") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
