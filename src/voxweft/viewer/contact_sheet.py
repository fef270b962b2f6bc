"""A contact sheet: slices with their objects in colours, a row a slice and a column a choice of parameters."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from voxweft.errors import RequestError
from voxweft.stores.durable import replace
from voxweft.viewer import pictures

LARGEST, LINE, GAP, FONT = 640, 18, 8, 14


def save_sheet(trials: Iterable[Any], path: str) -> str:
    """Draw trials (see :class:`voxweft.apps.panoptic.trial.Trial`) into one PNG; where it lies.

    Raises
    ------
    RequestError
        If the name does not end in .png, or the folder is not there.
    """
    place = Path(path)
    check_sheet(path)
    rows: dict[int, list[Image.Image]] = {}
    for trial in trials:
        rows.setdefault(trial.z, []).append(_cell(trial))
    width = max(sum(c.width + GAP for c in cells) for cells in rows.values()) + GAP
    height = sum(max(c.height for c in cells) + GAP for cells in rows.values()) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    y = GAP
    for cells in rows.values():
        x = GAP
        for cell in cells:
            sheet.paste(cell, (x, y))
            x += cell.width + GAP
        y += max(c.height for c in cells) + GAP
    data = io.BytesIO()
    sheet.save(data, "PNG")
    replace(place, data.getvalue())
    return path


def check_sheet(path: str) -> None:
    """Refuse a place where no picture can be written."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise RequestError(f"{path}: with --grid OUTPUT is a picture; give a name that ends in .png")
    if not place.absolute().parent.is_dir():
        raise RequestError(f"{path}: the folder is not there")


def _cell(trial: Any) -> Image.Image:
    """One slice with its objects, and below it what was tried."""
    numbers = np.unique(trial.labels, return_inverse=True)[1].reshape(trial.labels.shape)
    labels = np.where(trial.labels > 0, np.maximum(numbers, 1), 0)
    tint = pictures.object_colours(labels)
    edges = _edges(labels)[..., None]
    alpha = np.where(edges, 1.0, 0.3 * (labels > 0)[..., None])
    rgb = (pictures.grey(trial.image).astype(np.float32) * (1 - alpha) + tint * alpha).astype(np.uint8)
    picture = Image.fromarray(rgb)
    factor = LARGEST / max(picture.size)
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    said = [f"slice {trial.z}, {trial.n_objects} objects"]
    said += [f"{name.replace('_', '-')} {value}" for name, value in trial.settings.items()]
    font = ImageFont.load_default(FONT)
    widest = max(math.ceil(font.getlength(line)) for line in said)
    cell = Image.new("RGB", (max(picture.width, widest), picture.height + LINE * len(said)), "white")
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    for k, line in enumerate(said):
        draw.text((0, picture.height + LINE * k), line, fill="black", font=font)
    return cell


def _edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    found = np.zeros(labels.shape, np.bool_)
    found[:-1] |= labels[:-1] != labels[1:]
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return found
