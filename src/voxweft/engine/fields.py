"""Options as fields of dataclasses: declared once, checked, compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from voxweft.errors import RequestError


def option(default: Any, text: str, **extra: Any) -> Any:
    """A field with its help text.

    ``decides=False`` marks what says where and when, but not what comes out; ``names`` are its flags where they are not
    made from the field's name; ``also`` are flags of other programs that mean the same, for a front end to know.
    """
    return field(default=default, metadata={"help": text, **extra})


def like(options: type, name: str, **changes: Any) -> Any:
    """The field of another options class, so that each is declared once; changes: ``default``, ``help``, ``names``, ...

    >>> @dataclass(frozen=True)
    ... class Many:
    ...     overlap: float = option(0.5, "A fraction.")
    >>> @dataclass(frozen=True)
    ... class Fewer:
    ...     tiles: float = like(Many, "overlap", default=0.25)
    >>> Fewer().tiles, fields(Fewer)[0].metadata["help"]
    (0.25, 'A fraction.')
    """
    found = next(f for f in fields(options) if f.name == name)
    default = changes.pop("default", found.default)
    return field(default=default, metadata={**found.metadata, **changes})


@dataclass(frozen=True)
class Options:
    """A group of options; groups are joined by inheritance, and all that is wrong with any of them is said at once.

    >>> @dataclass(frozen=True)
    ... class Size(Options):
    ...     size: int = option(1, "In voxels.")
    ...     def problems(self):
    ...         return [f"--size {self.size} is negative"] if self.size < 0 else []
    >>> @dataclass(frozen=True)
    ... class Colour(Options):
    ...     colour: str = option("red", "A colour.")
    ...     def problems(self):
    ...         return unknown(self, colour=("red", "blue"))
    >>> @dataclass(frozen=True)
    ... class Both(Colour, Size):
    ...     pass
    >>> Both(size=-1, colour="old")
    Traceback (most recent call last):
    voxweft.errors.RequestError: --size -1 is negative
    --colour 'old' is unknown; use one of red, blue
    """

    title: ClassVar[str] = "Options"

    def __post_init__(self) -> None:
        if problems := wrong_types(self):
            raise RequestError(*problems)
        for group in reversed(type(self).__mro__):  # the order of the fields
            problems += vars(group)["problems"](self) if "problems" in vars(group) else []
        if problems:
            raise RequestError(*problems)

    def problems(self) -> list[str]:
        """What is wrong with the values of this group, a line each."""
        return []


def unknown(options: Any, **choices: Sequence[str]) -> list[str]:
    """The fields whose values are none of those that are allowed."""
    return [
        f"--{name.replace('_', '-')} {getattr(options, name)!r} is unknown; use one of {', '.join(allowed)}"
        for name, allowed in choices.items()
        if getattr(options, name) not in allowed
    ]


def decisive(options: Any) -> dict[str, Any]:
    """The values of an options dataclass that decide what comes out, where they are not the default."""
    defaults = defaults_of(options)
    return {name: value for name, value in all_decisive(options).items() if value != defaults[name]}


def all_decisive(options: Any) -> dict[str, Any]:
    """The values of an options dataclass that decide what comes out."""
    return {name: getattr(options, name) for name in defaults_of(options)}


def defaults_of(options: Any) -> dict[str, Any]:
    """The defaults of an options dataclass, of all fields that decide what comes out."""
    return {f.name: f.default for f in fields(options) if f.metadata.get("decides", True)}


def wrong_types(options: Any) -> list[str]:
    """The fields of an options dataclass whose values are of another type than their default."""
    found = []
    for f in fields(options):
        value, wanted = getattr(options, f.name), type(f.default)
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if not fits and not (wanted is float and type(value) is int):
            found.append(f"{f.name}={value!r}: {wanted.__name__} expected, for example {f.default!r}")
    return found


def parse_size(text: str) -> tuple[int, int, int] | None:
    """Voxels z y x from "z,y,x" or one number for all three; None for an empty text."""
    if not text:
        return None
    numbers = [int(part) for part in text.split(",")]
    z, y, x = numbers * 3 if len(numbers) == 1 else numbers
    return z, y, x


def parse_bytes(text: str) -> int | None:
    """Bytes from "8GB", "500 MB", "2GiB" or a plain number; None where it is no amount.

    >>> parse_bytes("1.5GB"), parse_bytes("2GiB"), parse_bytes("lots")
    (1500000000, 2147483648, None)
    """
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1}
    low = text.strip().lower()
    unit = next((u for u in sorted(units, key=len, reverse=True) if low.endswith(u)), "")
    try:
        value = float(low.removesuffix(unit))
    except ValueError:
        return None
    return int(value * units.get(unit, 1)) if value > 0 else None


def parse_duration(text: str) -> float | None:
    """Seconds from "2h", "30min", "90s" or "1h 30min"; None where it is no time.

    >>> parse_duration("1.5h"), parse_duration("1h 30min"), parse_duration("soon"), parse_duration("10")
    (5400.0, 5400.0, None, None)
    """
    number = r"(?:(\d+(?:\.\d+)?)\s*{}\s*)?"
    found = re.fullmatch("".join(number.format(unit) for unit in ("h", "min", "s")), text.strip().lower())
    amounts = zip(found.groups() if found else (), (3600, 60, 1), strict=False)
    return sum(float(n or 0) * seconds for n, seconds in amounts) or None


def spell_duration(seconds: float) -> str:
    """A time in words.

    >>> spell_duration(90), spell_duration(3000), spell_duration(9000)
    ('90.0 s', '50 min', '2 h 30 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def size_problems(name: str, text: str) -> list[str]:
    """What is wrong with a size z,y,x, given as text."""
    flag = "--" + name.replace("_", "-")
    try:
        size = parse_size(text)
    except ValueError:
        return [f"{flag} {text!r} is no size; write z,y,x in voxels, for example 128,128,128"]
    if size and min(size) < 1:
        return [f"{flag} {text!r} has a side below one voxel"]
    return []
