"""What a notebook shows of volumes, models, plans and reports: a small picture beside a few facts."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from functools import singledispatch
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.backends import BUILT_IN
from voxweft.backends.loaded import LoadedModel
from voxweft.engine.fields import spell_duration
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.geometry.box import Box
from voxweft.image.colours import of_objects, palette
from voxweft.image.explored import Explored, facts_of
from voxweft.model.card import ModelCard
from voxweft.runner.forecast import Forecast
from voxweft.shown import counted
from voxweft.stores import open_volume
from voxweft.viewer import pictures

SIDE = 256  # pixels of a picture
MOST_BYTES = 1 << 25  # that are decoded for one
MASK = 255  # foreground of a mask


@singledispatch
def html_of(shown: Any) -> str:
    """A page for a notebook.

    >>> html_of(open_volume(np.zeros((4, 40, 40), np.uint8))).count("<img")
    1
    """
    raise TypeError(f"there is no page for {type(shown).__name__}")


@html_of.register
def _volume(volume: Explored) -> str:
    return _page(volume.info.url, facts_of(volume.info), _picture(volume))


@html_of.register
def _report(report: Report) -> str:
    done = ", ".join(f"{name} {n} of {of}" for name, (n, of) in report.stages.items())
    facts = {
        "state": str(report.status),
        "stages": done or f"{report.n_units_done} of {report.n_units} units",
        "time": spell_duration(report.elapsed_s),
        "speed": f"{report.voxels_per_s / 1e6:.2f} Mvoxel/s" if report.voxels_per_s else "",
        "peak memory": f"{report.peak_memory_bytes / 1e9:.2f} GB",
        "beside": "\n".join(report.beside.values()),
        "notes": "\n".join((*report.warnings, *report.notes)),
    }
    picture = None
    with suppress(Exception):  # what cannot be read is not shown
        volume = open_volume(report.output)
        facts = facts_of(volume.info) | facts
        picture = _picture(volume)
    return _page(report.output, facts, picture)


@html_of.register
def _plan(plan: Plan) -> str:
    facts = {one.name: one.ref.url for one in plan.inputs} | {
        "model": "\n".join(_name(ref.card) for ref in plan.models)
    }
    facts |= {"asked for": "\n".join(f"{name} {value}" for name, value in plan.request.options.items())}
    for stage in plan.stages:
        written = [
            f"{output.spec.dtype} {' x '.join(map(str, output.spec.shape_zyx))}"
            for output in stage.outputs
            if output.spec
        ]
        facts[f"stage {stage.name}"] = "; ".join([counted(stage.n_units, stage.noun), *written])
    return _page(repr(plan)[1:-1], facts | {"notes": "\n".join(plan.notes)})


@html_of.register
def _forecast(cost: Forecast) -> str:
    facts = {
        "patches": f"{cost.n_patches:,}, {cost.n_patches_computed:,} computed",
        "forward passes": f"{cost.n_forwards:,}",
        "written": f"{cost.bytes_written / 1e9:.3g} GB before compression",
        "memory": f"{cost.memory_bytes / 1e9:.2f} GB",
        "time": spell_duration(cost.seconds),
        "other choices": "\n".join(cost.choices),
    }
    return _page("forecast", facts)


@html_of.register
def _card(card: ModelCard) -> str:
    facts = {
        "format": card.format,
        "patch": " x ".join(map(str, card.patch_zyx)) + " voxels" if card.patch_zyx else "any size",
        "input": counted(card.n_inputs, "channels"),
        "output": ", ".join(card.class_names) or counted(card.n_classes, "classes"),
        "activation": card.activation,
        "normalization": ", ".join(one.scheme for one in card.normalization),
        "voxel size": " x ".join(f"{s:g}" for s in card.spacing_zyx) + f" {card.spacing_unit}"
        if card.spacing_zyx
        else "",
        "folds": str(card.n_folds),
        "weights": card.digest[:12],
        "notes": "\n".join(card.notes),
    }
    return _page(_name(card), facts)


@html_of.register
def _model(model: LoadedModel) -> str:
    return _card(model.card)


def _name(card: ModelCard) -> str:
    """Where a model lies; of a bundled one its name."""
    return next((name for name, place in BUILT_IN.items() if str(place) == card.path), card.path)


def _page(title: str, facts: Mapping[str, str], picture: str | None = None) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left;white-space:pre-wrap">{escape(value)}</td></tr>'
        for name, value in facts.items()
        if value
    )
    image = f'<img src="{picture}" alt="" style="width:{SIDE}px;image-rendering:pixelated">' if picture else ""
    return (
        f'<div style="display:flex;gap:1em;align-items:flex-start">{image}'
        f'<div><b style="word-break:break-all">{escape(title)}</b><table>{rows}</table></div></div>'
    )


def _picture(volume: Explored) -> str | None:
    """The central plane as a ``data:`` URL; None where it cannot be read, or would take long."""
    with suppress(Exception):  # to look at an object is never an error
        plane = _central_plane(_small(volume))
        return "data:image/png;base64," + b64encode(pictures.png_bytes(plane)).decode() if plane is not None else None
    return None


def _small(volume: Explored) -> Explored:
    """The finest level whose central plane is quickly read; the volume itself where there is none."""
    info = volume.info
    for level in range(info.level, len(info.levels)):
        _, y, x = info.levels[level]
        if info.chunk_zyx[0] * y * x * volume.dtype.itemsize * info.n_channels <= MOST_BYTES:
            return volume if level == info.level else open_volume(info.url, level=level)
    return volume


def _central_plane(volume: Explored) -> NDArray[np.uint8] | None:
    """The middle of the central plane, as much as is quickly read, as RGB [Y, X, 3]."""
    info = volume.info
    voxel_bytes = volume.dtype.itemsize * info.n_channels
    if math.prod(info.chunk_zyx) * voxel_bytes > 2 * MOST_BYTES:
        return None
    side = max(math.isqrt(MOST_BYTES // (info.chunk_zyx[0] * voxel_bytes)), 1)
    z, (y, x) = info.shape_zyx[0] // 2, info.shape_zyx[1:]
    (y0, y1), (x0, x1) = ((max(0, (n - side) // 2), min(n, (n + side) // 2)) for n in (y, x))
    values = volume.read(Box((z, y0, x0), (z + 1, y1, x1)))[:, 0]
    step = max(1, -(-max(values.shape[1:]) // SIDE))
    values = values[:, ::step, ::step]
    if info.is_label:
        if values.dtype != np.uint8:
            return of_objects(values[0])
        return palette(256)[np.where(values[0] == MASK, 1, values[0])]
    if len(values) == 3 and values.dtype == np.uint8 and info.shape_zyx[0] == 1:  # a picture in colour
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))
    return pictures.grey(values[0])
