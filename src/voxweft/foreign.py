"""Small files that others wrote: read to a bound, parsed once, checked into typed objects.

    bytes --small_file--> bytes --parsed--> JSON without doubled keys --checked--> a pydantic model

What is wrong is said in one line, all of it at once, with the place in the file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from voxweft.errors import RequestError

M = TypeVar("M", bound=BaseModel)

LARGEST_BYTES = 1 << 24
SHOWN = 4  # problems, and characters of a value are cut too
SHOWN_CHARACTERS = 60


def local(text: str) -> Path:
    """A local path as a person writes it: ``file://`` or plain, ``~`` for a home.

    Raises
    ------
    RequestError
        If it is the home of nobody.
    """
    try:
        return Path(text.removeprefix("file://")).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{text}: there is no such user here, so no home") from error


def small_file(path: Path, error: type[RequestError], largest: int = LARGEST_BYTES) -> bytes:
    """The bytes of a file of metadata; pipes, devices and what is too large to be metadata are refused unread.

    Raises
    ------
    error
        If it is no ordinary file, or larger than ``largest`` bytes.
    FileNotFoundError
        If it is not there.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            kind = os.fstat(handle)
            if not stat.S_ISREG(kind.st_mode):
                raise error(f"{path} is no ordinary file")
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    if len(data) > largest:
        raise error(f"{path} is larger than {largest} bytes, too large for what it should be")
    return data


def parsed(data: bytes, place: object, error: type[RequestError]) -> Any:
    """JSON; a key that is there twice, and NaN, are errors.

    Examples
    --------
    >>> parsed(b'{"a": 1, "a": 2}', "net.json", RequestError)
    Traceback (most recent call last):
    voxweft.errors.RequestError: net.json: 'a' is there twice
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise error(f"{place}: {next(n for n in names if names.count(n) > 1)!r} is there twice")
        return found

    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as reason:
        raise error(f"{place} is no JSON: {str(reason)[:160] or 'nested too deeply'}") from reason


def checked(model: type[M], data: bytes | Mapping[str, Any], place: object, error: type[RequestError]) -> M:
    """A JSON text, or what was parsed of one, as a typed object.

    Raises
    ------
    error
        Naming every problem, in one line.
    """
    content = parsed(data, place, error) if isinstance(data, bytes) else data
    try:
        return model.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as reason:
        raise error(f"{place}: {problems(reason)}") from reason


def problems(reason: ValidationError) -> str:
    """All that is wrong with an object, in one line."""
    found: dict[str, str] = {}
    for one in reason.errors():  # of a union every branch complains: the first says enough
        words = [str(part) for part in one["loc"] if isinstance(part, int) or part.isidentifier()]
        value, what = repr(one["input"]), one["msg"].removeprefix("Value error, ").removeprefix("Input ")
        value = value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}..."
        found.setdefault(".".join(words), what if one["type"] == "value_error" else f"{what}, not {value}")
    told = [f"{name}: {what}" if name else what for name, what in found.items()]
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return "; ".join(told[:SHOWN] + more)
