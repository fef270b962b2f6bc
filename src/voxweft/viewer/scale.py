"""True proportions and scale bars: how large things are in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from voxweft.image.place import Geometry
from voxweft.image.units import METERS

SMALLEST, LARGEST = 320, 960  # pixels of the longer side of a picture
BAR = 0.3  # of the width, at most
ROUND = (1, 2, 5)
UNITS = (("km", 1e3), ("m", 1.0), ("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9), ("Å", 1e-10))
BOX = (255, 214, 10)


@dataclass(frozen=True, slots=True)
class Scale:
    """How long a pixel of a picture is.

    Attributes
    ----------
    down, across
        Along its rows and its columns, in ``unit``.
    unit
        A UDUNITS name, or "" where the voxel size is not known: then the bar counts voxels.
    """

    down: float = 1.0
    across: float = 1.0
    unit: str = ""

    @classmethod
    def of(cls, geometry: Geometry, axis: int, factor_zyx: tuple[float, float, float] = (1, 1, 1)) -> Scale:
        """That of a plane across an axis; a pixel stands for so many voxels along z, y and x.

        >>> Scale.of(Geometry((40.0, 4.0, 4.0), "nanometer"), 1)
        Scale(down=40.0, across=4.0, unit='nanometer')
        """
        sizes = [size * k for size, k in zip(geometry.voxel_size_zyx, factor_zyx, strict=True)]
        down, across = (size for n, size in enumerate(sizes) if n != axis)
        return cls(down, across, geometry.unit)

    def bar(self, width: int) -> tuple[float, str]:
        """A round length of at most 0.3 of a picture of so many columns: in columns, and in words.

        >>> Scale(40.0, 4.0, "nanometer").bar(200)
        (50.0, '200 nm')
        >>> Scale().bar(64)
        (10.0, '10 voxels')
        """
        whole = width * self.across * BAR
        if self.unit not in METERS:
            n = max(1.0, _round_below(width * BAR))
            return n, f"{n:g} voxel{'s' if n != 1 else ''}"
        length = _round_below(whole * METERS[self.unit])
        return round(length / METERS[self.unit] / self.across, 6), length_in_words(length, self.unit)


def length_in_words(meters: float, unit: str = "") -> str:
    """A length in the unit in which it is 1 or more; ångströms only where the volume has them.

    >>> length_in_words(2e-7), length_in_words(5e-8, "angstrom"), length_in_words(0.0007375)
    ('200 nm', '500 Å', '737.5 µm')
    """
    if unit == "angstrom" and meters < 1e-6:
        return f"{meters / 1e-10:.4g} Å"
    for name, size in UNITS:
        if meters >= size * (1 - 1e-9):
            return f"{meters / size:.4g} {name}"
    return f"{meters / 1e-10:.4g} Å"


def volume_in_words(voxels: float, geometry: Geometry) -> str:
    """So many voxels as a volume; "" where the voxel size is not known.

    >>> volume_in_words(8e6, Geometry((10.0, 10.0, 10.0), "nanometer"))
    '8 µm³'
    """
    if geometry.unit not in METERS:
        return ""
    z, y, x = (size * METERS[geometry.unit] for size in geometry.voxel_size_zyx)
    cubic = voxels * z * y * x
    for name, size in (("cm", 1e-2), *UNITS[2:]):
        least = 10 if name == "cm" else 0.01  # a brain is 1300 cm³, a lesion 1300 mm³
        if cubic >= least * size**3:
            return f"{cubic / size**3:,.4g} {name}³"
    return f"{cubic / 1e-30:.3g} Å³" if cubic else "0"


def voxel_in_words(geometry: Geometry) -> str:
    """The size of a voxel.

    >>> voxel_in_words(Geometry((0.04, 0.004, 0.004), "micrometer")), voxel_in_words(Geometry())
    ('40 nm x 4 nm x 4 nm (z, y, x)', 'not known: bars count voxels')
    """
    sizes = geometry.voxel_size_zyx
    if geometry.unit not in METERS:
        known = "" if sizes == (1.0, 1.0, 1.0) else f"{' x '.join(f'{s:g}' for s in sizes)} (z, y, x), unit "
        return f"{known}not known: bars count voxels"
    words = [length_in_words(size * METERS[geometry.unit], geometry.unit) for size in sizes]
    return words[0] if len(set(words)) == 1 else f"{' x '.join(words)} (z, y, x)"


def drawn(
    rgb: NDArray[np.uint8],
    scale: Scale,
    box: tuple[int, int, int, int] | None = None,
    marks: tuple[str, int] | None = None,
) -> NDArray[np.uint8]:
    """A picture as it is shown: a length is as long down as across, and a bar says how long.

    Parameters
    ----------
    rgb
        uint8 [Y, X, 3].
    scale
        Of its pixels.
    box
        Rows and columns (first row, end, first column, end) to draw a frame around.
    marks
        "down" or "across" and a row or column: small marks at both ends of it.
    """
    height, width = rgb.shape[:2]
    unit = min(scale.down, scale.across)
    tall, wide = height * scale.down / unit, width * scale.across / unit
    factor = LARGEST / max(tall, wide)
    if factor > 1:
        factor = max(1, min(int(factor), round(SMALLEST / max(tall, wide))))
    ky, kx = factor * scale.down / unit, factor * scale.across / unit
    size = (max(1, round(width * kx)), max(1, round(height * ky)))
    picture = Image.fromarray(rgb).resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    if box:
        y0, y1, x0, x1 = box
        draw.rectangle((x0 * kx, y0 * ky, x1 * kx - 1, y1 * ky - 1), outline=BOX, width=2)
    if marks:
        _mark(draw, marks[0], marks[1] * (ky if marks[0] == "down" else kx), size)
    if min(size) >= 48:
        _bar(draw, scale.bar(width), kx, size)
    return np.asarray(picture)


def _bar(draw: ImageDraw.ImageDraw, bar: tuple[float, str], kx: float, size: tuple[int, int]) -> None:
    """White with a dark rim, so that it is seen on anything."""
    length, text = bar
    thick, edge = max(3, max(size) // 120), max(6, min(size) // 40)
    font = ImageFont.load_default(max(12, max(size) // 28))
    x, y = edge, size[1] - edge - thick
    draw.rectangle((x - 1, y - 1, x + length * kx, y + thick), fill="white", outline="black")
    draw.text((x, y - 3), text, fill="white", font=font, anchor="lb", stroke_width=2, stroke_fill="black")


def _mark(draw: ImageDraw.ImageDraw, way: str, at: float, size: tuple[int, int]) -> None:
    wide, tall = size
    long = max(6, min(size) // 16)
    for a, b in ((0, long), ((wide if way == "down" else tall) - long, wide if way == "down" else tall)):
        line = (a, at, b, at) if way == "down" else (at, a, at, b)
        draw.line(line, fill=BOX, width=2)


def _round_below(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is not above."""
    if not value > 0:
        return 0.0
    power = 10.0 ** np.floor(np.log10(value) + 1e-9)
    return float(max((n * power for n in ROUND if n * power <= value * (1 + 1e-9)), default=power))
