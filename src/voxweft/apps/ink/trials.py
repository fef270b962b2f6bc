"""Networks, windows and directions tried on one surface: a picture of each, and all of them side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.infer import InkResult, infer
from voxweft.apps.ink.inputs import Options, opened_jobs
from voxweft.apps.ink.names import base_name, names_of, source_of
from voxweft.apps.ink.options import (
    ROWS_FIRST,
    InkModelOptions,
    InkOptions,
    InkPartOptions,
    LayerOptions,
    PictureOptions,
    TrialOptions,
    box_of_roi,
)
from voxweft.apps.ink.prepare import prepare
from voxweft.apps.ink.surface import is_zarr, open_surface, piecewise
from voxweft.engine.events import Emit, Event, silent
from voxweft.errors import RequestError, RunError, VoxweftError, first_line
from voxweft.geometry.box import Box
from voxweft.runner.workers import WorkerOptions
from voxweft.stores import open_sink
from voxweft.stores.durable import replace as write_whole
from voxweft.stores.layers import layers_there
from voxweft.version import __version__

SUMMARY, WORK = "sweep.json", "work"
THUMBNAIL = 1024  # pixels of a side at most; numbers are taken from there too
HALF, TOP = 127, 255


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination and what became of it.

    Attributes
    ----------
    name
        Of the picture, without its suffix.
    model, offset, direction, layers
        What was tried: the window moved by so many layers, and the layers themselves.
    picture
        Where it lies; "" where the run failed.
    error
        Why it failed, or "".
    numbers
        Of the picture, or of a coarser level of it: ``mean`` probability, ``over_half`` (share of pixels above one
        half), ``top_percent`` (the probability that one pixel in a hundred is above).
    thumbnail
        uint8 [Y, X], or None.
    """

    name: str
    model: str
    offset: int
    direction: str
    layers: tuple[int, int]
    picture: str = ""
    error: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    thumbnail: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("name", "model", "offset", "direction", "layers", "picture", "error", "numbers")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Trials:
    """All combinations, in order, and where their summary lies."""

    folder: str
    trials: tuple[Trial, ...]

    @property
    def failed(self) -> tuple[Trial, ...]:
        """Those that failed."""
        return tuple(trial for trial in self.trials if trial.error)

    def require_all(self) -> None:
        """Raise where some failed.

        Raises
        ------
        RunError
            Naming them.
        """
        if self.failed:
            reasons = "; ".join(f"{t.name}: {t.error}" for t in self.failed[:2]).rstrip(".")
            raise RunError(
                f"{len(self.failed)} of {len(self.trials)} combinations failed; {reasons}.",
                f"The others are complete, see {self.folder}/{SUMMARY}; run the same command again for the rest.",
            )


def sweep(
    layers: LayerOptions,
    trial_options: TrialOptions,
    ink_options: InkOptions,
    folder: str,
    *,
    worker_options: WorkerOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> Trials:
    """Find ink with every network, window and direction; what is there from an earlier call is not computed again.

    Parameters
    ----------
    layers, trial_options, ink_options
        Where the layers lie, and the window in the middle of those that are tried; what is tried; how ink is found.
    folder
        Where the pictures and ``sweep.json`` go; ``work/`` in it holds what they are made from.
    worker_options, command, emit
        As for :func:`voxweft.apps.ink.infer`.

    Returns
    -------
    Trials
        Also where some failed: see ``failed`` and ``require_all``.

    Raises
    ------
    RequestError
        If the request is wrong for all of them; nothing was written.
    """
    if "://" in folder:
        raise RequestError(f"{folder}: a contact sheet is made in a folder of this machine")
    if not trial_options.models:
        raise RequestError("MODEL is missing: set the environment variable MODEL, or give --models A,B")
    part = InkPartOptions(zarr_output_dir=f"{folder}/{WORK}")
    wanted = [*_wanted(layers, trial_options, ink_options)]
    if len({trial.name for trial, _ in wanted}) < len(wanted):
        raise RequestError(f"--models {trial_options.models}: two of them have one name, and so would their pictures")
    source = _prepared(layers, [request for _, request in wanted], part, emit)
    found = list[Trial]()
    for trial, (own, model_options, _) in wanted:
        emit(Event("note", f"{len(found) + 1} of {len(wanted)}: {trial.name}"))
        picture = PictureOptions(output_path=f"{folder}/{trial.name}.png", runtime_dir=part.zarr_output_dir)
        options = (replace(own, surface_volume_zarr=source), model_options, ink_options)
        try:
            if trial.layers[0] < 0:
                raise RequestError(f"there is no layer {trial.layers[0]}")
            result = infer(options, part, picture, worker_options=worker_options, command=command, emit=emit)
        except VoxweftError as error:
            found.append(replace(trial, error=first_line(error)))
        else:
            found.append(_measured(trial, result, ink_options))
    _write_summary(folder, layers, ink_options, found)
    return Trials(folder, tuple(found))


def _wanted(
    layers: LayerOptions, trial_options: TrialOptions, ink_options: InkOptions
) -> Iterator[tuple[Trial, Options]]:
    """Every combination: its name and what is asked for."""
    for model in names_of(trial_options.models):
        model_options = InkModelOptions(
            model,
            trial_options.model_type,
            trial_options.table,
            trial_options.hf_token,
            trial_options.trust_code,
        )
        one_way = replace(layers, reverse=False, direction=trial_options.ways[0])
        middle = opened_jobs((one_way, model_options, replace(ink_options, windows=1)))[0].layers
        for offset in trial_options.moves:
            start, end = middle.start_layer + offset, middle.end_layer + offset
            for way in trial_options.ways:
                own = replace(layers, start_layer=start, end_layer=end, reverse=False, direction=way)
                name = base_name(model, own).removeprefix("prediction_") + f"_{way}"
                yield Trial(name, model, offset, way, (start, end)), (own, model_options, ink_options)


def _prepared(layers: LayerOptions, wanted: Sequence[Options], part: InkPartOptions, emit: Emit) -> str:
    """Where all combinations read: a surface volume, made once where the layers cannot be read in pieces."""
    source = source_of(layers)
    if is_zarr(source):
        return layers.surface_volume_zarr
    starts, ends = ([getattr(own, name) for own, *_ in wanted] for name in ("start_layer", "end_layer"))
    start, end = max(0, min(starts)), max(ends)
    if not source.startswith("http"):
        there = layers_there(source)
        start, end = max(start, there.start), min(end, there.stop)
    if piecewise(open_surface(source, start=start, stop=end)):
        return ""
    of_all = replace(layers, s3_path=source, surface_volume_zarr="", start_layer=start, end_layer=end)
    return prepare(of_all, part, PictureOptions(runtime_dir=part.zarr_output_dir), emit=emit)


def _measured(trial: Trial, result: InkResult, ink_options: InkOptions) -> Trial:
    """A trial with its picture, made small, and the numbers of it."""
    sink = open_sink(result.zarr, order=ROWS_FIRST)
    sink.open()
    shapes = [sink.shape(level) for level in range(sink.n_levels())]
    level = next((n for n, (h, _, w) in enumerate(shapes) if max(h, w) <= THUMBNAIL), len(shapes) - 1)
    box = Box.of(shapes[level])
    if ink_options.roi:
        x0, y0, x1, y1 = (n / 2**level for n in box_of_roi(ink_options.roi) or ())
        box &= Box((int(y0), 0, int(x0)), (math.ceil(y1), 1, math.ceil(x1)))
    values = sink.read(box, level)[0, :, 0]
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    numbers = {
        "mean": float(values.mean()) / TOP,
        "over_half": float((values > HALF).mean()),
        "top_percent": float(np.percentile(values, 99)) / TOP,
    }
    rounded = {name: round(value, 4) for name, value in numbers.items()}
    return replace(trial, picture=result.picture, numbers=rounded, thumbnail=values)


def _write_summary(folder: str, layers: LayerOptions, ink_options: InkOptions, found: Sequence[Trial]) -> None:
    text = json.dumps(
        {
            "version": __version__,
            "source": source_of(layers),
            "level": layers.level,
            "roi": ink_options.roi,
            "trials": [trial.to_dict() for trial in found],
        },
        indent=1,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_whole(Path(folder) / SUMMARY, text.encode())
