"""The colours of classes and objects: the same in outputs, reports, viewers and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BACKGROUND = "background"  # the name of the class that is everything else
NEUTRAL = (128, 128, 128)  # a channel of background; black would not be seen
ORANGE = 0.08  # hue of class 1


def palette(count: int) -> NDArray[np.uint8]:
    """Colours [count, 3] that differ between neighbours; class 0 is black, class 1 orange.

    Examples
    --------
    >>> palette(2).tolist()
    [[0, 0, 0], [255, 122, 38]]
    """
    hue = (np.arange(count) * 0.618034 + ORANGE - 0.618034) % 1.0
    colours = 255 * np.clip(np.abs((hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0.15, 1)
    colours[:1] = 0
    return np.asarray(colours, np.uint8)


def of_classes(names: Sequence[str]) -> NDArray[np.uint8]:
    """Colours [n, 3] of classes or channels in their order; black is for background alone, which is the first.

    Examples
    --------
    >>> of_classes(["background", "vessel"]).tolist() == [[0, 0, 0], of_classes(["vessel"])[0].tolist()]
    True
    """
    first = 0 if has_background(names) else 1
    return palette(len(names) + first)[first:]


def has_background(names: Sequence[str]) -> bool:
    """Whether the first of these classes is background."""
    return bool(names) and names[0] == BACKGROUND


def of_objects(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A colour for each object [..., 3], which comes again after 1023 of them; 0 is black."""
    return np.asarray(palette(1024)[np.where(labels > 0, 1 + labels.astype(np.int64) % 1023, 0)])
