"""Tables in TOML: the one that voxweft brings, or the user's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from voxweft.errors import RequestError, first_line
from voxweft.foreign import local


def read_toml(flag: str, path: str, own: str) -> dict[str, Any]:
    """The content of a TOML file, or where ``path`` is empty of ``own``, as "package/file".

    Raises
    ------
    RequestError
        Naming the flag and the file.
    """
    package, _, name = own.partition("/")
    try:
        place = local(path) if path else files(package) / name
        return tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{flag} {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{flag} {path} is no TOML: {first_line(error)}") from error
