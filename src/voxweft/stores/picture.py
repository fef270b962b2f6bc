"""One picture as a volume of one plane: PNG, JPEG, BMP, of grey values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, VolumeError, first_line
from voxweft.geometry.box import Box
from voxweft.image.axes import Select
from voxweft.image.info import VolumeInfo
from voxweft.stores.url import local_path

MOST_PIXELS = 1 << 28  # as many as are written into a PNG
MODES = {"L": "uint8", "I;16": "uint16", "I": "int32", "1": "uint8"}


class PictureVolume:
    """A picture as a volume [1, 1, Y, X]; one of colours only where its colours are grey.

    Parameters
    ----------
    url
        Its path.
    select
        Nothing can be chosen of a picture.

    Raises
    ------
    VolumeError
        If it is none, or of colours.
    """

    def __init__(self, url: str, select: Select | None = None) -> None:
        from PIL import Image

        if select and select != Select():
            raise VolumeError(f"{url} is one picture; there is no time, channel or series to choose")
        path = local_path(url)
        try:
            with any_size(), Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    size = f"{picture.width} x {picture.height}"
                    raise VolumeError(f"{url} has {size} pixels, more than 2^28; give a TIFF in tiles, or a zarr")
                self._values = _grey(np.asarray(picture), picture.mode, url)
        except (OSError, SyntaxError) as error:
            raise VolumeError(f"{url} cannot be read as a picture: {first_line(error)}") from error
        height, width = self._values.shape
        self.info = VolumeInfo(
            url=url,
            format="picture",
            shape_zyx=(1, height, width),
            dtype=self._values.dtype.name,
            chunk_zyx=(1, height, width),
            levels=((1, height, width),),
            stored_bytes=path.stat().st_size,
            stamp=str(path.stat().st_mtime_ns),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [1, Z, Y, X]."""
        if box not in Box.of(self.info.shape_zyx):
            raise ReadError(f"{self.info.url}: {box} is not in it")
        return self._values[None, None][(slice(None), *box.slices)].copy()


@contextmanager
def any_size() -> Iterator[None]:
    """Lift the library's own limit, which is lower than that of this module."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _grey(values: NDArray[Any], mode: str, url: str) -> NDArray[Any]:
    if mode in MODES:
        grey = values.astype(MODES[mode], copy=False)
        return grey * 255 if mode == "1" else grey
    if values.ndim == 3 and all(
        np.array_equal(values[..., 0], values[..., k]) for k in range(1, min(3, values.shape[2]))
    ):
        return np.ascontiguousarray(values[..., 0])
    raise VolumeError(f"{url} is a picture of colours ({mode}); give one of grey values")
