"""What a caller from Python may give, paths, arrays and names, as what a plan is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxweft.backends import load_model
from voxweft.engine import planning
from voxweft.engine.named import takes_options, with_named
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.image.info import VolumeInfo
from voxweft.model.card import ModelCard
from voxweft.model.protocols import Model
from voxweft.model.ref import ModelRef, model_ref
from voxweft.stores import open_volume


@takes_options(RunOptions)
def make_plan(source: Any, model: Any, options: RunOptions | None = None, **named: Any) -> Plan:
    """Plan a run by arithmetic alone: no voxel is read, nothing is measured or written.

    :func:`voxweft.forecast` measures, too, and says what the run will cost.

    Parameters
    ----------
    source
        Path or URL of a volume, an array, a :class:`~voxweft.image.Volume`, or what is known of one
        (:class:`~voxweft.image.VolumeInfo`) that need not be there.
    model
        Path or name of a model, a loaded one, its card or its reference; several in a list are an ensemble.
    options, **named
        As for :func:`voxweft.run`.

    Raises
    ------
    RequestError
        All that does not fit, named at once.

    Examples
    --------
    >>> import numpy as np
    >>> make_plan(np.zeros((90, 90, 90), np.uint8), "fake://null?patch=64,64,64", overlap=0.25)
    <plan of run: 8 patches of 64 x 64 x 64 voxels, 1 slab of sweep, 1 block of level-1>
    >>> info = VolumeInfo("v.zarr", "zarr v3", (500, 500, 500), "uint8")
    >>> make_plan(info, "fake://null?patch=64,64,64", overlap=0.25).sweep.grid.n_tiles
    1331
    """
    asked = with_named(named, RunOptions, options)
    if not isinstance(source, VolumeInfo):
        source = open_volume(source, level=asked.level, select=asked.select).info
    models = model if isinstance(model, (list, tuple)) else [model]
    return planning.make_plan(source, [_ref(one, asked) for one in models], asked)


def load_models(model: Any, options: RunOptions) -> Sequence[Model]:
    """The model, or those of a list, with the targets that are asked for."""
    models = model if isinstance(model, (list, tuple)) else [model]
    return [load_model(one, targets=options.targets) for one in models]


def _ref(model: Any, options: RunOptions) -> ModelRef:
    if isinstance(model, ModelRef):
        return model
    return ModelRef(model) if isinstance(model, ModelCard) else model_ref(load_models(model, options)[0])
