"""Networks whose code is Python: an MMEngine configuration with its checkpoint, or a factory with a state dict.

A configuration is a program, and so is what it names; both are only run where the user says why they may
(``--trust-code``). Weights are data and are read as such.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from voxweft.backends.checkpoint import read_checkpoint, weight_bytes
from voxweft.backends.loaded import LoadedModel
from voxweft.backends.runtime import TorchModel
from voxweft.errors import ModelError, first_line
from voxweft.geometry.box import Zyx
from voxweft.installed import install_line
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.ref import ModelRef

TRUST = 'give --trust-code WHY, for example --trust-code "our own training" if you know where it comes from'
PREFIXES = ("module.", "backbone.")
PROBE: Zyx = (32, 32, 32)


def load_mmengine(cfg_path: str, ckpt_path: str, network: str = "", trust_code: str = "") -> LoadedModel:
    """A network by a configuration or a factory, with its weights.

    Parameters
    ----------
    cfg_path
        MMEngine configuration: ``model`` with ``backbone`` and ``num_classes``; ``wl``, ``ww`` and
        ``model.inference_config`` where they are there.
    ckpt_path
        The weights: a state dict, or one under ``state_dict``; prefixes ``backbone.`` and ``module.`` are dropped.
    network
        ``package.module:factory``, called without arguments, in place of the configuration.
    trust_code
        Why the code may run.

    Raises
    ------
    ModelError
        If it may not, cannot be built, or the weights do not fit.
    """
    code = network or cfg_path
    if not trust_code:
        raise ModelError(f"{code} is Python code, which runs when it is loaded; {TRUST}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where a user's own module lies
    module, facts = _from_factory(network) if network else _from_config(cfg_path)
    path = Path(ckpt_path)
    if not path.is_file():
        raise ModelError(f"--ckpt-path {ckpt_path}: no file lies there")
    state = read_checkpoint(path)
    weights = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise ModelError(f"{ckpt_path} holds no state dict of tensors")
    _fill(module, weights, ckpt_path)
    digest = hashlib.sha256(
        json.dumps([network or Path(cfg_path).read_text(encoding="utf-8"), facts], sort_keys=True, default=str).encode()
    )
    for key, value in sorted(weights.items()):
        digest.update(key.encode() + weight_bytes(value))
    card = _card(module, facts, ckpt_path, digest.hexdigest())
    arguments = {
        "cfg_path": str(Path(cfg_path).resolve()) if cfg_path else "",
        "network": network,
        "trust_code": trust_code,
    }
    return LoadedModel(ModelRef(card, arguments), TorchModel(card, [module.eval().requires_grad_(False)]))


def _from_factory(network: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    name, colon, attribute = network.partition(":")
    if not colon:
        raise ModelError(f"--network {network!r} is no package.module:factory")
    try:
        module = getattr(importlib.import_module(name), attribute)()
    except Exception as error:  # whatever code of others raises
        raise ModelError(f"--network {network} cannot be built: {first_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"--network {network} gives a {type(module).__name__}, not a torch module")
    return module, {}


def _from_config(cfg_path: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The backbone that a configuration describes, and what else it says."""
    try:
        from mmengine import MODELS, Config
    except ImportError as error:
        raise ModelError(
            f"{cfg_path} needs the extra 'mmengine': {install_line('mmengine')}",
            "Or give --network package.module:factory and the weights.",
        ) from error
    try:
        config = Config.fromfile(cfg_path)
    except FileNotFoundError as error:
        raise ModelError(f"--cfg-path {cfg_path}: no file lies there") from error
    except Exception as error:  # whatever code of others raises
        raise ModelError(f"{cfg_path} cannot be read as an MMEngine configuration: {first_line(error)}") from error
    model = config.get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    if not isinstance(backbone, Mapping):
        raise ModelError(f"{cfg_path} has no model with a backbone")
    try:
        module = MODELS.build(backbone)
    except Exception as error:
        raise ModelError(f"{cfg_path}: its backbone cannot be built: {first_line(error)}") from error
    inference = model.get("inference_config") or {}
    return module, {
        "wl": config.get("wl", config.get("window_level", model.get("wl"))),
        "ww": config.get("ww", config.get("window_width", model.get("ww"))),
        "num_classes": model.get("num_classes"),
        "patch_size": inference.get("patch_size"),
        "patch_stride": inference.get("patch_stride"),
        "threshold": model.get("binary_segment_threshold"),
    }


def _fill(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    clean = dict(weights)
    wanted = module.state_dict()
    for prefix in PREFIXES:
        if not set(wanted) <= set(clean):
            clean = {k.removeprefix(prefix): v for k, v in clean.items() if k.startswith(prefix)} or clean
    bad = [k for k in wanted if k not in clean or clean[k].shape != wanted[k].shape]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ModelError(f"{path} does not fit the network: {', '.join(bad[:3])}{more} missing or misshapen")
    module.load_state_dict({k: clean[k] for k in wanted})


def _card(module: torch.nn.Module, facts: Mapping[str, Any], path: str, digest: str) -> ModelCard:
    patch, stride = (_three(facts.get(name), name, path) for name in ("patch_size", "patch_stride"))
    with torch.inference_mode():
        try:
            out = module.eval()(torch.zeros(1, 1, *(patch or PROBE)))
        except Exception as error:
            raise ModelError(f"{path}: the network does not take [1, 1, Z, Y, X]: {first_line(error)}") from error
    out = out[0] if isinstance(out, (list, tuple)) else out
    n_classes = int(out.shape[1])
    if facts.get("num_classes") not in (None, n_classes):
        raise ModelError(f"{path}: its configuration has {facts['num_classes']} classes, its network gives {n_classes}")
    level, width = facts.get("wl"), facts.get("ww")
    normalization = Normalization()
    if level is not None and width is not None:
        low = float(level) - float(width) / 2
        normalization = Normalization("ct", mean=low, std=float(width), lower=low, upper=low + float(width))
    return ModelCard(
        path=path,
        format="MMEngine",
        digest=digest,
        patch_zyx=patch,
        stride_zyx=stride,
        n_classes=n_classes,
        activation="sigmoid" if n_classes == 1 else "softmax",
        normalization=(normalization,),
        mirror_axes=(),
    )


def _three(value: Any, name: str, path: str) -> Zyx | None:
    if value is None:
        return None
    if len(value) != 3 or not all(isinstance(n, int) and n > 0 for n in value):
        raise ModelError(f"{path}: the {name} of its inference_config is {value!r}, not three integers")
    z, y, x = value
    return z, y, x
