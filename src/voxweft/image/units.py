"""Voxel sizes as files write them: numbers or text, a unit for each axis, in many spellings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

METERS = {
    "angstrom": 1e-10, "nanometer": 1e-9, "micrometer": 1e-6, "millimeter": 1e-3, "centimeter": 1e-2, "meter": 1.0,
    "inch": 0.0254,
}  # fmt: skip
SPELLINGS = {
    "å": "angstrom", "a": "angstrom", "ångström": "angstrom", "nm": "nanometer", "nanometre": "nanometer",
    "um": "micrometer", "µm": "micrometer", "μm": "micrometer", "\\u00b5m": "micrometer", "micron": "micrometer",
    "microns": "micrometer", "micrometre": "micrometer", "mm": "millimeter", "millimetre": "millimeter",
    "cm": "centimeter", "centimetre": "centimeter", "m": "meter", "metre": "meter", "in": "inch",
}  # fmt: skip
UNKNOWN = "the voxel size {} in its metadata is none, so it is taken for unknown"
Sizes = tuple[float, float, float]


def unit_name(text: Any) -> str:
    """The UDUNITS name of a unit of length; any other word as it is, "" for none.

    >>> unit_name("µm"), unit_name("Nanometers"), unit_name("pixel"), unit_name(None)
    ('micrometer', 'nanometer', 'pixel', '')
    """
    word = text.strip() if isinstance(text, str) else ""
    plain = SPELLINGS.get(word.lower(), word.lower())
    return next((name for name in (plain, plain.removesuffix("s")) if name in METERS), word)


def voxel_size(sizes: Sequence[Any], units: Sequence[Any]) -> tuple[Sizes, str, str]:
    """Sizes z y x in one unit, the unit, and what to tell of it ("" for nothing).

    Sizes that are no positive finite numbers make it unknown: (1, 1, 1) without a unit. Where the axes have units of
    their own all are turned into the one of x.

    >>> voxel_size((40, 0.004, 0.004), ("nm", "µm", "µm"))
    ((0.04, 0.004, 0.004), 'micrometer', '')
    >>> voxel_size((float("nan"), 4, 4), ("nm",) * 3)[1:]
    ('', 'the voxel size (nan, 4, 4) in its metadata is none, so it is taken for unknown')
    """
    try:
        z, y, x = (float(size) for size in sizes)
    except (TypeError, ValueError):
        z = y = x = math.nan
    if not all(math.isfinite(size) and size > 0 for size in (z, y, x)):
        shown = ", ".join(str(size)[:20] for size in sizes)
        return (1.0, 1.0, 1.0), "", UNKNOWN.format(f"({shown})")
    names = [unit_name(unit) for unit in units]
    if len(set(names)) == 1:
        return (z, y, x), names[2], ""
    if not set(names) <= METERS.keys():
        told = ", ".join(name or "none" for name in names)
        return (1.0, 1.0, 1.0), "", f"its axes have the units {told}, so its voxel size is taken for unknown"
    z, y, x = (round(size * METERS[name] / METERS[names[2]], 12) for size, name in zip((z, y, x), names, strict=True))
    return (z, y, x), names[2], ""
