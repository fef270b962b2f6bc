"""Parameters tried on some slices before a long run: the network runs once a scale, all else is repeated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.panoptic.codes import classes_of
from voxweft.apps.panoptic.job import opened_model, opened_sweep, plan_job
from voxweft.apps.panoptic.look import open_image
from voxweft.apps.panoptic.options import PLANES, ImageJob, SliceOptions
from voxweft.apps.panoptic.slices import one_slice
from voxweft.apps.panoptic.stages import rules_of
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.slices import maps_of_slice
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume
from voxweft.image.views import Permute
from voxweft.runner.devices import budget_of, devices_of

NETWORK = ("image_downsampling", "fine_boundaries", "use_quantized", "patch_size", "overlap", "tile_size")
MOST = 64


@dataclass(frozen=True, slots=True)
class Trial:
    """A slice with one choice of parameters.

    Attributes
    ----------
    z, settings
        The slice; what differs from the other trials, by the names of the options.
    image, labels
        Grey values and codes of objects [Y, X].
    """

    z: int
    settings: Mapping[str, Any]
    image: NDArray[Any]
    labels: NDArray[np.uint32]

    @property
    def n_objects(self) -> int:
        """Objects of the slice."""
        return len(np.unique(self.labels[self.labels > 0]))


def trials(
    source: Any,
    model: Any,
    options: ImageJob,
    grid: Sequence[str],
    slices: str = "",
    *,
    emit: Emit = silent,
) -> Iterator[Trial]:
    """Segment some slices with every combination of parameters; nothing is written.

    Parameters
    ----------
    source, model, options
        As for :func:`voxweft.apps.panoptic.image`.
    grid
        Options and their values, "confidence-thr=0.3,0.5"; hyphen or underscore alike, by either name.
    slices
        Numbers "0,10,20" along the plane; default: the middle one.
    emit
        Told of every picture.

    Raises
    ------
    RequestError
        If an option or a slice is unknown, or there are more than 64 pictures.
    """
    choices = _choices(grid)
    combined = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    jobs = [(settings, replace(options, **settings)) for settings in combined]
    device = devices_of(options.device)[0]
    budget = budget_of(options.memory, device)
    base = open_image(source, options)
    wanted = _slices(slices, base.info.shape_zyx[PLANES[options.plane][0]])
    if len(jobs) * len(wanted) > MOST:
        raise RequestError(f"--grid and --slices make {len(jobs) * len(wanted)} pictures; {MOST} are the most")
    networks = {tuple(getattr(job, name) for name in NETWORK): job for _, job in jobs}
    for key, first in networks.items():
        found = opened_model(model, first)
        plan, volumes = plan_job("panoptic image", base, found, first, (device, budget, False))
        opened = opened_sweep(plan.sweep, volumes, found, device)
        for z in wanted:
            maps = maps_of_slice(opened, z)
            image = _plane(base, options.plane, z)
            for settings, job in jobs:
                if tuple(getattr(job, name) for name in NETWORK) == key:
                    (made,) = one_slice(z, maps, rules_of(job, classes_of(found.card, job.semantic_only)))
                    emit(Event("note", f"slice {z}, {_said(settings)}: {len(made.rows['code'])} objects"))
                    yield Trial(z, settings, image, made.labels)


def _plane(base: Volume, plane: str, z: int) -> NDArray[Any]:
    """The grey values of a slice [Y, X]."""
    seen = Permute(PLANES[plane]).of(base)
    _, height, width = seen.info.shape_zyx
    return np.asarray(seen.read(Box((z, 0, 0), (z + 1, height, width)))[0, 0])


def _choices(grid: Sequence[str]) -> dict[str, list[Any]]:
    """Fields of the options and the values that are tried."""
    known = {}
    for f in fields(SliceOptions):
        for flag in (f"--{f.name}", *f.metadata.get("also", ())):
            known[flag.removeprefix("--").replace("-", "_")] = f
    found: dict[str, list[Any]] = {}
    for word in grid:
        name, equals, values = word.partition("=")
        chosen = known.get(name.strip().removeprefix("--").replace("-", "_"))
        if chosen is None or not equals or not values:
            raise RequestError(
                f"--grid {word!r}: write an option and its values, for example confidence-thr=0.3,0.5; the options are "
                f"{', '.join(g.name.replace('_', '-') for g in fields(SliceOptions))}"
            )
        found[chosen.name] = [_value(word, chosen.default, text) for text in values.split(",")]
    return found


def _value(word: str, default: Any, text: str) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return type(default)(text)
    except (KeyError, ValueError) as error:
        raise RequestError(f"--grid {word!r}: {text!r} is no value of it, {default!r} is one") from error


def _slices(text: str, n: int) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")] if text else [n // 2]
    except ValueError as error:
        raise RequestError(f"--slices {text!r} are no numbers; write for example 0,10,20") from error
    if wrong := [k for k in found if not 0 <= k < n]:
        raise RequestError(f"--slices {wrong[0]}: the stack has slices 0 to {n - 1}")
    return found


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in settings.items()) or "as it is"
