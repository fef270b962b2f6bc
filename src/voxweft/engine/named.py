"""Options by their names, with values as Python has them: ``patch_size=(64, 96, 96)``, ``output="mask"``."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar, overload

from voxweft.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])


class _Fields(Protocol):
    """A dataclass; None is none."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


A = TypeVar("A", bound=_Fields)
B = TypeVar("B", bound=_Fields)


def takes_options(*classes: type) -> Callable[[F], F]:
    """Say in the signature of a function with ``**named`` which names these are, for help and completion."""

    def decorate(function: F) -> F:
        own = list(inspect.signature(function).parameters.values())[:-1]
        taken = {one.name for one in own}
        more = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for cls in classes
            for f in fields(cls)
            if f.metadata and f.name not in taken
        ]
        signature = inspect.signature(function)
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return decorate


@overload
def with_named(named: Mapping[str, Any], options: A) -> tuple[A, None]: ...


@overload
def with_named(named: Mapping[str, Any], options: A, execution: B) -> tuple[A, B]: ...


def with_named(named: Mapping[str, Any], options: Any, execution: Any = None) -> tuple[Any, Any]:
    """Options, and how they are executed, with what is given by name.

    Raises
    ------
    RequestError
        If there is no such option, with the names that are closest; or if a value is impossible.

    Examples
    --------
    >>> from voxweft import Execution, RunOptions
    >>> options, execution = with_named({"patch_size": (16, 32, 32), "workers": 2}, RunOptions(), Execution())
    >>> options.patch_size, execution.workers
    ('16,32,32', 2)
    >>> with_named({"overlaps": 0.25}, RunOptions())
    Traceback (most recent call last):
    voxweft.errors.RequestError: there is no option 'overlaps'; did you mean overlap?
    """
    known: dict[str, tuple[int, Field[Any]]] = {}
    for n, one in enumerate((options, execution)):
        known |= {f.name: (n, f) for f in fields(one) if f.init} if one is not None else {}
    if wrong := [name for name in named if name not in known]:
        raise RequestError(*(_no_option(name, list(known)) for name in wrong))
    changes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, value in named.items():
        n, f = known[name]
        changes[n][name] = _as_option(f, value)
    given = [replace(one, **more) if more else one for one, more in zip((options, execution), changes, strict=True)]
    return given[0], given[1]


def _no_option(name: str, known: list[str]) -> str:
    within = [one for one in known if name in one or one in name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or within[:3]
    return f"there is no option {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _as_option(f: Field[Any], value: Any) -> Any:
    """A value as the field has it: where that is text, numbers, tuples, slices and paths are spelled out."""
    if value is None:
        return f.default
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a scalar of numpy
        value = value.item()
    if hasattr(value, "shape"):
        raise RequestError(f"{f.name} cannot be an array of shape {tuple(value.shape)} here; give a path or an URL")
    if not isinstance(f.default, str) or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (tuple, list)):
        return ",".join(map(_side, value))
    if isinstance(value, (int, float)):
        return f"{value}{f.metadata.get('unit', '')}"
    return os.fspath(value) if isinstance(value, os.PathLike) else value if callable(value) else str(value)


def _side(value: Any) -> str:
    """One of several numbers, or a slice or a pair from where to where."""
    if isinstance(value, slice):
        value = (value.start, value.stop)
    if isinstance(value, (tuple, list)):
        return ":".join("" if one is None else str(one) for one in value)
    return str(value)
