"""A phantom of an unrolled surface with text in ink: numbered layers with a known truth. numpy and Pillow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEXT = "weft weaves overlapping patches into one seamless result so that what was written can be read again"
LETTER = 58  # height of the letters, pixels
SHEET = 2.2  # half thickness of the sheet, layers
CONTRAST, GRAIN, CRACKLE = 42.0, 12.0, 14.0  # grey levels


@dataclass(frozen=True, slots=True)
class InkPhantom:
    """A simulated surface volume and where its ink is.

    Attributes
    ----------
    layers
        uint8 [layer, row, column]: a sheet of fibres in the middle layers, denser ink on its upper side, noise.
    ink
        bool [row, column].
    """

    layers: NDArray[np.uint8]
    ink: NDArray[np.bool_]


def make_ink_phantom(shape: tuple[int, int, int] = (12, 384, 768), seed: int = 0, text: str = TEXT) -> InkPhantom:
    """Make a phantom [layer, row, column]; the same numbers give the same voxels.

    Examples
    --------
    >>> phantom = make_ink_phantom((12, 96, 128), seed=3)
    >>> phantom.layers.shape, phantom.layers.dtype, bool(phantom.ink.any())
    ((12, 96, 128), dtype('uint8'), True)
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape
    ink = _written(text, (height, width), rng)
    fibres = sum(_waves((height, width), rng, stretch) for stretch in ((3.0, 60.0), (60.0, 3.0)))
    middle = depth / 2 + 0.6 * _waves((height, width), rng, (90.0, 90.0))
    rough = _waves((height, width), rng, (2.0, 2.0))
    layers = np.empty(shape, np.uint8)
    for z in range(depth):
        sheet = np.exp(-(((z - middle) / SHEET) ** 2))
        skin = np.exp(-(((z - middle + SHEET) / 1.3) ** 2))  # ink lies on the upper side
        values = 45 + sheet * (55 + CRACKLE * fibres) + skin * ink * (CONTRAST + 14 * rough)
        layers[z] = np.clip(values + rng.normal(0, GRAIN, (height, width)), 0, 255).astype(np.uint8)
    return InkPhantom(layers, ink)


def _written(text: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Lines of text, each beginning at another word."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = shape
    page = Image.new("L", (width, height))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(LETTER)
    words = text.split()
    at = int(rng.integers(len(words)))
    for top in range(8, height - LETTER // 2, round(1.35 * LETTER)):
        line: list[str] = []
        at += 1
        while pen.textlength(" ".join(line), font) < width:
            line.append(words[(at + len(line)) % len(words)])
        at += len(line) - 1
        pen.text((int(rng.integers(-20, 8)), top), " ".join(line), fill=255, font=font, stroke_width=3)
    return np.asarray(page) > 127


def _waves(shape: tuple[int, int], rng: np.random.Generator, scale: tuple[float, float]) -> NDArray[np.float64]:
    """Smooth noise of unit variance with structures of so many pixels along rows and columns."""
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    keep = np.exp(-2 * ((ky * scale[0]) ** 2 + (kx * scale[1]) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * keep, s=shape)
    return np.asarray(noise / noise.std())
