"""The pictures of a page: each with proportions and bar, in the page, and as PNG files where they are asked for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.stores.url import records_at
from voxweft.viewer import pictures
from voxweft.viewer.markup import figure_of
from voxweft.viewer.scale import Scale, drawn


class Gallery:
    """Collects the pictures of a page by their names."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, name: str, rgb: NDArray[np.uint8], scale: Scale, caption: str, **more: Any) -> str:
        """Take a picture [Y, X, 3]; it as HTML. ``more`` as for :func:`~voxweft.viewer.scale.drawn`."""
        png = pictures.png_bytes(drawn(rgb, scale, **more))
        self.files[re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + ".png"] = png
        return figure_of(png, caption)

    def save(self, folder: str) -> tuple[str, ...]:
        """Write all as PNG files into a folder, a path or s3://; where they lie."""
        records = records_at(folder)
        for name, png in self.files.items():
            records.put(name, png)
        return tuple(f"{folder.rstrip('/')}/{name}" for name in self.files)
