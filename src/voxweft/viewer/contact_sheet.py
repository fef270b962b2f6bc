"""Contact sheets: pictures with their captions; slices with their objects in colours, a row a slice."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from voxweft.errors import RequestError
from voxweft.image import colours
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
    save_picture(joined([*rows.values()]), place)
    return path


def contact_sheet(items: Sequence[tuple[str, NDArray[np.uint8]]], columns: int) -> Image.Image:
    """Pictures uint8 [Y, X] or [Y, X, 3] in rows of so many, each with its caption below, as small as they must be.

    >>> contact_sheet([("one", np.zeros((20, 30), np.uint8))] * 3, columns=2).mode
    'RGB'
    """
    cells = [captioned(Image.fromarray(picture).convert("RGB"), caption.splitlines()) for caption, picture in items]
    return joined([cells[n : n + columns] for n in range(0, len(cells), columns)])


def save_picture(picture: Image.Image, place: Path) -> None:
    """Write a PNG; what lay there is replaced when the new one is whole."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    replace(place, data.getvalue())


def joined(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Cells in rows, as one picture."""
    width = max(sum(c.width + GAP for c in cells) for cells in rows) + GAP
    height = sum(max(c.height for c in cells) + GAP for cells in rows) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    y = GAP
    for cells in rows:
        x = GAP
        for cell in cells:
            sheet.paste(cell, (x, y))
            x += cell.width + GAP
        y += max(c.height for c in cells) + GAP
    return sheet


def check_sheet(path: str) -> None:
    """Refuse a place where no picture can be written."""
    place = Path(path)
    if place.suffix.lower() != ".png":
        raise RequestError(f"{path}: this is written as a picture; give a name that ends in .png")
    if not place.absolute().parent.is_dir():
        raise RequestError(f"{path}: the folder is not there")


def _cell(trial: Any) -> Image.Image:
    """One slice with its objects, and below it what was tried."""
    numbers = np.unique(trial.labels, return_inverse=True)[1].reshape(trial.labels.shape)
    labels = np.where(trial.labels > 0, np.maximum(numbers, 1), 0)
    tint = colours.of_objects(labels)
    edges = _edges(labels)[..., None]
    alpha = np.where(edges, 1.0, 0.3 * (labels > 0)[..., None])
    rgb = (pictures.grey(trial.image).astype(np.float32) * (1 - alpha) + tint * alpha).astype(np.uint8)
    said = [f"slice {trial.z}, {trial.n_objects} objects"]
    said += [f"{name.replace('_', '-')} {value}" for name, value in trial.settings.items()]
    return captioned(Image.fromarray(rgb), said)


def captioned(picture: Image.Image, said: Sequence[str]) -> Image.Image:
    """A picture, made smaller where it is large, with lines of text below it."""
    factor = LARGEST / max(picture.size)
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.BOX)
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
