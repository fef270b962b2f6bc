"""Command-line flags from options dataclasses: one field, one flag, hyphen or underscore alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, get_type_hints

import typer


def with_options(*classes: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of dataclasses; it receives one instance of each, named after the class in lower case.

    Every field made by ``option`` counts: ``sigma_scale: float = option(8.0, "help")`` becomes ``--sigma-scale``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function, eval_str=True).parameters
        if unknown := [name for name in _names(classes) if name not in parameters]:
            raise TypeError(f"{function.__name__}() needs parameters {', '.join(unknown)}: its options come by them")
        own = [p for p in parameters.values() if p.name not in _names(classes)]

        def options_of(values: dict[str, Any]) -> dict[str, Any]:
            return {
                name: cls(**{f.name: _as_declared(f, values[f.name]) for f in fields(cls) if f.metadata})
                for name, cls in zip(_names(classes), classes, strict=True)
            }

        def command(**values: Any) -> None:
            taken = {f.name for cls in classes for f in fields(cls) if f.metadata}
            function(**{k: v for k, v in values.items() if k not in taken}, **options_of(values))

        flags = [
            _flag(f, get_type_hints(cls)[f.name], _title(cls, f.name))
            for cls in classes
            for f in fields(cls)
            if f.metadata
        ]
        command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        command.options_of = options_of  # type: ignore[attr-defined]
        return command

    return decorate


def _as_declared(f: Field[Any], value: Any) -> Any:
    return tuple(value or ()) if isinstance(f.default, tuple) else value


def _names(classes: tuple[type, ...]) -> list[str]:
    return [cls.__name__.removeprefix("Run").lower() for cls in classes]


def _title(cls: type, name: str) -> str:
    """Of the group of options that declares a field."""
    group = next(group for group in cls.__mro__ if name in vars(group).get("__annotations__", ()))
    return str(getattr(group, "title", group.__name__))


def _others(f: Field[Any]) -> list[str]:
    """The names that a flag has elsewhere, in words."""
    names = f.metadata.get("also", ())
    return [f"(Also {', '.join(names)}.)"] if names else []


def own_names(words: list[str], *classes: type) -> list[str]:
    """Words with the flags of dataclasses in place of those that mean the same; see ``also`` of ``option``.

    >>> from voxweft.apps.panoptic.options import SliceOptions
    >>> own_names(["--nms-kernel=7", "--confidence-thr", "0.3"], SliceOptions)
    ['--centers-min-distance=7', '--segmentation-confidence-threshold', '0.3']
    """
    known = {
        other: "--" + f.name.replace("_", "-")
        for cls in classes
        for f in fields(cls)
        for other in f.metadata.get("also", ())
    }
    made = []
    for word in words:
        flag, equals, value = word.partition("=")
        made.append(f"{known[flag]}{equals}{value}" if flag in known else word)
    return made


def _flag(f: Field[Any], hint: Any, title: str) -> inspect.Parameter:
    flag = "--" + f.name.replace("_", "-")
    names = [f"{flag}/--no-{flag[2:]}"] if hint is bool and f.default else [*f.metadata.get("names", (flag,))]
    default = None if f.default is MISSING else f.default
    hint = type(default) if isinstance(hint, UnionType) else hint  # of the types that Python takes, a flag's
    info = typer.Option(
        default,
        *names,
        help=" ".join([f.metadata.get("help", ""), *_others(f)]),
        envvar=f.metadata.get("env"),
        rich_help_panel=title,
        show_default=default not in (None, "", -1, ()),
    )
    hint = list[str] if hint == tuple[str, ...] else hint  # an option that may be given several times
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=hint)
