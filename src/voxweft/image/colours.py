"""The colours of classes and objects: the same in outputs, reports, viewers and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def palette(count: int) -> NDArray[np.uint8]:
    """Colours [count, 3] that differ between neighbours; class 0 is black.

    Examples
    --------
    >>> palette(2).tolist()
    [[0, 0, 0], [38, 74, 255]]
    """
    hue = np.arange(count) * 0.618034 % 1.0
    colours = 255 * np.clip(np.abs((hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0.15, 1)
    colours[:1] = 0
    return np.asarray(colours, np.uint8)


def of_objects(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A colour for each object [..., 3], which comes again after 1023 of them; 0 is black."""
    return np.asarray(palette(1024)[np.where(labels > 0, 1 + labels.astype(np.int64) % 1023, 0)])
