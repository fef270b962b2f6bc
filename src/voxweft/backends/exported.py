"""Programs of ``torch.export.save`` (``.pt2``)."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from voxweft.backends.ending import ending_of_program, probed
from voxweft.backends.heads import Cast
from voxweft.backends.runtime import TorchModel
from voxweft.backends.sidecar import Sidecar
from voxweft.errors import ModelError, first_line

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
PROBE = 32  # voxels of a side where the network leaves it open
CODE = ("custom_obj", "opaque_obj")  # archive members that hold pickled objects of any class


def load(path: Path) -> TorchModel:
    """Read an exported program; input and output shapes come from its graph, the rest from ``NAME.json``.

    Raises
    ------
    ModelError
        If the file is damaged, holds objects that would run code, or the network has other dimensions than it should.
    """
    _refuse_code(path)
    try:
        with warnings.catch_warnings(), _weights_only():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except UnpicklingError as error:
        raise ModelError(f"{path} wants to run code when loaded and was refused; nothing was executed.") from error
    except Exception as error:  # of a damaged one torch raises whatever it meets
        raise ModelError(f"{path} cannot be read as a torch.export program: {first_line(error)}") from error
    (given, dtype), (result, _) = (_shape(program, side) for side in ("input", "output"))
    sidecar = Sidecar.beside(path)
    if len(given) != sidecar.n_axes or len(result) != sidecar.n_axes:
        flat = f'; for 2-D images say "dimensions": 2 in {path.stem}.json' if len(given) == 4 else ""
        raise ModelError(f"{path} takes {given} and gives {result}; voxweft run needs {sidecar.axes} for both{flat}")
    module, ending = program.module(), ending_of_program(program)
    if ending is None and not sidecar.heads:
        ending = probed(module, [n or PROBE for n in given])
    patch = tuple(([1] * (3 - sidecar.dimensions)) + given[2:]) if all(given[2:]) else None
    card = sidecar.card(
        path,
        "torch.export",
        ends_in=ending or "",
        n_inputs=given[1],
        n_classes=result[1],
        patch_zyx=patch,
        batch_size=given[0] or None,
        fixed_patch=patch is not None,
    )
    return TorchModel(card, [module if dtype == torch.float32 else Cast(module, dtype)], ("torch", "openvino"))


def _refuse_code(path: Path) -> None:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{path} cannot be read as a torch.export program: {first_line(error)}") from error
    if bad := [n for n in names if Path(n).name.startswith(CODE)]:
        raise ModelError(f"{path} holds pickled objects ({bad[0]}), which would run code when loaded; it was refused")


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make every torch.load inside torch.export refuse code; torch reads this variable at each call."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(FORCE) if before is None else os.environ.update({FORCE: before})


def _shape(program: Any, side: str) -> tuple[list[int], torch.dtype]:
    """Sizes of the first user input or output, 0 where a size is dynamic, and its dtype."""
    names = program.graph_signature.user_inputs if side == "input" else program.graph_signature.user_outputs
    node = next(n for n in program.graph.nodes if n.name == names[0])
    value = node.meta["val"]
    return [n if isinstance(n, int) else 0 for n in value.shape], value.dtype
