"""A command line inside a command line: COMMAND after ``--``, read with the real commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import typer

from voxweft.errors import RequestError

ALIASES = {"blend_logits": "blend", "finalize_outputs": "finalize", "inference_pipeline": "pipeline"}
GIVEN = ("COMMANDLINE", "ENVIRONMENT")


@dataclass(slots=True)
class _Whole:
    """All commands, and what becomes of words before they are read; filled in by whoever puts the commands together."""

    app: typer.Typer = field(default_factory=typer.Typer)
    reads: Callable[[list[str]], list[str]] = lambda words: words


_whole = _Whole()


def belong_to(app: typer.Typer, reads: Callable[[list[str]], list[str]]) -> None:
    """Say which commands there are; ``reads`` says how words are read."""
    _whole.app, _whole.reads = app, reads


@dataclass(frozen=True, slots=True)
class Given:
    """An option or a positional word, as it was given on the command line or in the environment.

    Attributes
    ----------
    name
        What the command calls it: "output_path".
    flag
        "--output-path"; "" for a positional word.
    value
        "" for a switch.
    help
        Its help line.
    asked
        Whether it stands on the command line.
    more
        Further values of an option that was given several times.
    """

    name: str
    flag: str
    value: str
    help: str = ""
    asked: bool = True
    more: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """As it is written."""
        return tuple(w for value in (self.value, *self.more) for w in (self.flag, value) if w)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line: "ink run", and what it was given, by name."""

    name: str
    given: Mapping[str, Given]

    def text(self, name: str) -> str:
        """What was given by that name; "" where nothing was."""
        return self.given[name].value if name in self.given else ""

    def line(self, *without: str) -> tuple[str, ...]:
        """The words after ``voxweft``, without some of them."""
        return line(self.name, (g for n, g in self.given.items() if n not in without))

    def with_values(self, values: Mapping[str, str]) -> Command:
        """The same with other texts in the place of values."""
        return Command(self.name, {n: replace(g, value=values.get(n, g.value)) for n, g in self.given.items()})


def line(name: str, given: Iterable[Given]) -> tuple[str, ...]:
    """The words of a command, positional ones first."""
    ordered = sorted(given, key=lambda g: bool(g.flag))
    return (*name.split(), *(word for g in ordered for word in g.words()))


def knows(name: str) -> set[str]:
    """The names of all that a command takes."""
    return {p.name for p in _find(name.split())[1].params}


def read(words: list[str]) -> Command:
    """Read COMMAND; nothing of it is run.

    Raises
    ------
    RequestError
        If there is no such command or a value is impossible; a usage error of the command's own where an option is
        unknown.
    """
    words = _whole.reads(list(words[1:] if words[:1] == ["voxweft"] else words))
    if not words:
        raise RequestError("COMMAND is missing: write it after --, for example -- run INPUT OUTPUT --model M")
    name, command, rest = _find(words)
    context = command.make_context(name, rest)
    if check := getattr(command.callback, "options_of", None):
        check(context.params)
    given: dict[str, Given] = {}
    for parameter in command.params:
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name in GIVEN:
            made = _given(parameter, context.params[parameter.name], source.name == GIVEN[0])
            given |= {parameter.name: made} if made.words() else {}
    return Command(name, given)


def _find(words: Sequence[str]) -> tuple[str, Any, list[str]]:
    """A command by its words: its name, itself, and the words that follow."""
    command: Any = typer.main.get_command(_whole.app)
    names, rest = list[str](), [*words]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise RequestError(f"COMMAND: voxweft has no command {' '.join([*names, *rest[:1]])!r}; see voxweft --help")
        names.append(ALIASES.get(rest[0], rest[0]))
        command = command.commands[rest.pop(0)]
    return " ".join(names), command, rest


def _given(parameter: Any, value: Any, asked: bool) -> Given:
    names = [n for n in parameter.opts if n.startswith("--")] if parameter.param_type_name == "option" else [""]
    flag = names[0]
    text, *more = map(str, value or [""]) if isinstance(value, (list, tuple)) else [str(value)]
    if isinstance(value, bool):
        flag, text = flag if value else next(iter(parameter.secondary_opts), ""), ""
    return Given(parameter.name, flag, text, getattr(parameter, "help", None) or "", asked, tuple(more))
