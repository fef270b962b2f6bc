"""Options by their names, with values as Python has them: ``patch_size=(64, 96, 96)``, ``output="mask"``."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any, TypeVar

from voxweft.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A")
B = TypeVar("B")


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


def with_named(named: Mapping[str, Any], kind: type[A], options: A | None) -> A:
    """Options, by default those of their kind, with what is given by name.

    Raises
    ------
    RequestError
        If there is no such option, with the names that are closest; or if a value is impossible.

    Examples
    --------
    >>> from voxweft import RunOptions
    >>> with_named({"patch_size": (16, 32, 32)}, RunOptions, None).patch_size
    '16,32,32'
    >>> with_named({"overlaps": 0.25}, RunOptions, None)
    Traceback (most recent call last):
    voxweft.errors.RequestError: there is no option 'overlaps'; did you mean overlap?
    """
    known = _known(kind)
    if wrong := [name for name in named if name not in known]:
        raise RequestError(*(_no_option(name, list(known)) for name in wrong))
    given: Any = options or kind()
    changes = {name: _as_option(known[name], value) for name, value in named.items()}
    return replace(given, **changes) if changes else given  # type: ignore[no-any-return]


def with_both(
    named: Mapping[str, Any], kind: type[A], options: A | None, how: type[B], execution: B | None
) -> tuple[A, B]:
    """The same of options and of how they are executed, with names of either; see :func:`with_named`.

    >>> from voxweft import Execution, RunOptions
    >>> options, execution = with_both({"overlap": 0.25, "workers": 2}, RunOptions, None, Execution, None)
    >>> options.overlap, execution.workers
    (0.25, 2)
    """
    known = [_known(kind), _known(how)]
    if wrong := [name for name in named if not any(name in one for one in known)]:
        raise RequestError(*(_no_option(name, [*known[0], *known[1]]) for name in wrong))
    of_how = {name: value for name, value in named.items() if name in known[1]}
    others = {name: value for name, value in named.items() if name not in known[1]}
    return with_named(others, kind, options), with_named(of_how, how, execution)


def _known(kind: type) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(kind) if f.init}


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
        if value.step not in (None, 1):
            raise RequestError(f"a slice with step {value.step} cannot be an option; leave every voxel in")
        value = (value.start, value.stop)
    if isinstance(value, (tuple, list)):
        return ":".join("" if one is None else str(one) for one in value)
    return str(value)
