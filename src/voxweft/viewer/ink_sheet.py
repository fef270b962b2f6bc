"""A sheet of ink runs: small pictures of one grey scale, what differs between them, how far they agree."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from voxweft.errors import RequestError
from voxweft.remote import is_remote
from voxweft.stores.url import local_path, parent_and_name, records_at
from voxweft.viewer.contact_sheet import FONT, LINE, captioned, joined

COLUMNS, LETTERS = 4, 64
MOST_IN_TABLE = 24
MARK = "voxweft-sheet"  # of the text in a sheet, which holds the manifest
SHORT = 12  # characters of a digest


def check_ink_sheet(path: str) -> None:
    """Refuse, before anything is read, a place where no sheet can be written, or where another picture lies.

    Raises
    ------
    RequestError
        If the name does not end in .png, the folder is not there, or what lies there is no sheet.
    """
    if not path.endswith(".png"):
        raise RequestError(f"{path}: the sheet is a picture; the last name must end in .png")
    if not is_remote(path) and not local_path(path).absolute().parent.is_dir():
        raise RequestError(f"{path}: the folder is not there")
    folder, name = parent_and_name(path)
    there = records_at(folder).get(name)
    if there is not None and MARK.encode() not in there:
        raise RequestError(f"{path} is there and is no sheet; the last name is what is written, after PICTURE...")


def save_ink_sheet(comparison: Any, path: str) -> str:
    """Draw runs (see :class:`voxweft.apps.ink.compare.Comparison`) into one PNG, a path or s3://; where it lies."""
    check_ink_sheet(path)
    names = [name for name in comparison.differing if name != "fingerprint"]
    cells = [_cell(f"{n + 1}  {_caption(run)}", run, names) for n, run in enumerate(comparison.runs)]
    n_columns = min(COLUMNS, math.ceil(math.sqrt(len(cells))))
    rows = [cells[at : at + n_columns] for at in range(0, len(cells), n_columns)]
    if len(cells) <= MOST_IN_TABLE:
        rows.append([_table(comparison.agreement)])
    sheet = joined(rows)
    data, about = io.BytesIO(), PngInfo()
    about.add_text(MARK, json.dumps(comparison.manifest()))
    sheet.save(data, "PNG", pnginfo=about)
    folder, name = parent_and_name(path)
    records_at(folder).put(name, data.getvalue())
    return path


def _caption(run: Any) -> str:
    return Path(run.file.rstrip("/")).name


def _cell(title: str, run: Any, names: Sequence[str]) -> Image.Image:
    """One picture, black 0 and white the largest value that there can be, and below it what it is."""
    values = np.rint(np.clip(run.reduced, 0, 1) * 255).astype(np.uint8)
    said = [title, *(f"{name}: {_shown(run.record.get(name))}" for name in names)]
    said.append(f"mean {run.mean:.3f}, {run.share:.2%} of {run.level} or more")
    return captioned(Image.fromarray(values), [line for text in said for line in textwrap.wrap(text, LETTERS)])


def _shown(value: Any) -> str:
    """A fact in a few letters: digests and places cut short."""
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    text = "not said" if value is None else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:SHORT]
    return text.rstrip("/").rpartition("/")[2] if "/" in text else text


def _table(agreement: NDArray[np.float64]) -> Image.Image:
    """Pearson's r of all pairs; a dash where sizes differ."""
    font, step, n = ImageFont.load_default(FONT), 52, len(agreement)
    table = Image.new("RGB", (step * (n + 1), LINE * (n + 2)), "white")
    draw = ImageDraw.Draw(table)
    draw.text((0, 0), "Pearson's r", fill="black", font=font)
    for a in range(n):
        draw.text((step * (a + 1), LINE), str(a + 1), fill="black", font=font)
        draw.text((0, LINE * (a + 2)), str(a + 1), fill="black", font=font)
        for b in range(n):
            r = float(agreement[a, b])
            draw.text((step * (b + 1), LINE * (a + 2)), "-" if math.isnan(r) else f"{r:.3f}", fill="black", font=font)
    return table
