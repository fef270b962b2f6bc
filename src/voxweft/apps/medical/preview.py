"""A picture of a case: the planes through the middle of its labels, and the labels seen through from the front."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.stores import open_volume

SIDE = 320  # pixels of a pane
STRENGTH = 0.45


def picture(source: str, labels: NDArray[Any], colours: NDArray[np.uint8]) -> Any:
    """Three planes and a projection, side by side, as a picture of Pillow.

    Parameters
    ----------
    source
        The image, on the grid of the labels.
    labels
        [Z, Y, X].
    colours
        uint8 [n, 3], of label 1 and so on.
    """
    from PIL import Image

    volume = open_volume(source)
    sizes = volume.info.geometry.voxel_size_zyx
    places = np.nonzero(labels)
    middle = [int(np.median(p)) if len(p) else n // 2 for p, n in zip(places, labels.shape, strict=True)]
    panes = []
    for axis in range(3):
        start, stop = [0, 0, 0], list(labels.shape)
        start[axis], stop[axis] = middle[axis], middle[axis] + 1
        box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
        plane = np.squeeze(volume.read(box)[0], axis)
        panes.append((_tinted(_grey(plane), labels.take(middle[axis], axis), colours), axis))
    panes.append((_projected(labels, colours), 1))
    whole = Image.new("RGB", (4 * SIDE, SIDE))
    for n, (pane, axis) in enumerate(panes):
        height, width = (sizes[a] * labels.shape[a] for a in range(3) if a != axis)
        scale = SIDE / max(height, width)
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = Image.fromarray(pane[::-1] if axis else pane).resize(shape)
        whole.paste(image, (n * SIDE + (SIDE - shape[0]) // 2, (SIDE - shape[1]) // 2))
    return whole


def _grey(plane: NDArray[Any]) -> NDArray[np.float32]:
    values = np.nan_to_num(plane.astype(np.float32))
    low, high = np.percentile(values, (1, 99))
    scaled = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1) * 255
    return np.repeat(scaled[..., None], 3, axis=2).astype(np.float32)


def _tinted(grey: NDArray[np.float32], labels: NDArray[Any], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inside = labels > 0
    grey[inside] = (1 - STRENGTH) * grey[inside] + STRENGTH * colours[(labels[inside].astype(int) - 1) % len(colours)]
    return grey.astype(np.uint8)


def _projected(labels: NDArray[Any], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest label along y, brighter where there is more of it."""
    top, depth = labels.max(axis=1), (labels > 0).mean(axis=1)
    shade = 0.35 + 0.65 * depth / max(float(depth.max()), 1e-9)
    found = colours[(top.astype(int) - 1) % len(colours)] * shade[..., None]
    return np.where(top[..., None] > 0, found, 0).astype(np.uint8)
