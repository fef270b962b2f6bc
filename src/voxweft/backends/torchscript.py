"""TorchScript files (``torch.jit.save``); deprecated upstream, but published EM models come this way."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from voxweft.backends.ending import ending_of_script, probed
from voxweft.backends.runtime import TorchModel
from voxweft.backends.sidecar import Sidecar
from voxweft.errors import ModelError, first_line

PROBE = 32


def load(path: Path) -> TorchModel:
    """Read a TorchScript network [B, C, Z, Y, X] -> [B, n_classes, Z, Y, X], or what its ``NAME.json`` says instead.

    The number of inputs comes from the first weight, the number of classes from a run on zeros, unless ``NAME.json``
    gives them; the patch size comes from there or from ``--patch-size``.

    Raises
    ------
    ModelError
        If the file is damaged, or the network has other dimensions than it should.
    """
    sidecar = Sidecar.beside(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of TorchScript
            module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # of a damaged one torch raises whatever it meets
        raise ModelError(f"{path} cannot be read as TorchScript: {first_line(error)}") from error
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters()):
        module = module.float()  # weights saved in 16 bit are weights
    weight = next((p for p in module.parameters() if p.ndim >= 4), None)
    if weight is not None and weight.ndim != sidecar.n_axes:
        raise ModelError(
            f"{path} is a network for {weight.ndim - 2}-D images; {path.stem}.json says dimensions {sidecar.dimensions}"
            if sidecar.dimensions == 2
            else f'{path} is a network for 2-D images; with "dimensions": 2 in {path.stem}.json it runs slice by slice'
        )
    ending = ending_of_script(module)
    n_inputs = sidecar.in_channels or (int(weight.shape[1]) if weight is not None else 1)
    if ending is None and not sidecar.heads:
        ending = probed(module, (1, n_inputs, *_some_patch(sidecar)))
    card = sidecar.card(
        path,
        "TorchScript",
        ends_in=ending or "",
        n_inputs=n_inputs,
        n_classes=sidecar.n_classes or _count_classes(module, n_inputs, sidecar, path),
    )
    return TorchModel(card, [module], ("torch",))


def _some_patch(sidecar: Sidecar) -> tuple[int, ...]:
    return (sidecar.patch_zyx or (PROBE,) * 3)[3 - sidecar.dimensions :]


def _count_classes(module: torch.nn.Module, n_inputs: int, sidecar: Sidecar, path: Path) -> int:
    patch = _some_patch(sidecar)
    with torch.inference_mode():
        try:
            result = module(torch.zeros((1, n_inputs, *patch)))
        except Exception as error:
            line = first_line(RuntimeError(str(error).strip().rpartition("\n")[2]))
            raise ModelError(f"{path} refuses zeros: {line}. Give its patch_size in {path.stem}.json.") from error
    first = result[0] if isinstance(result, (list, tuple)) else result
    if not isinstance(first, torch.Tensor):
        found = f" with {', '.join(map(str, result))}" if isinstance(result, dict) else ""
        raise ModelError(f"{path} returns {type(result).__name__}{found}; name its heads in {path.stem}.json")
    return int(first.shape[1])
