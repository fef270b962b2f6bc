"""What of the site is made from the code: the reference of commands, and that of Python names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

COMMANDS, NAMES = "<!-- the commands -->", "<!-- the names -->"
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks/RESULTS.md"
PAGE = "measurements.md"  # its page on the site


def on_files(files: Any, config: Any) -> Any:
    """Add the measurements, which lie beside the pages."""
    files.append(File.generated(config, PAGE, content=RESULTS.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what a page leaves to the code and to the measurements."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(_commands()))
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, "\n\n".join(_names()))
    markdown = re.sub(r"<!-- table: (.+) -->", _table, markdown)
    up = "../" * page.file.src_uri.count("/")
    markdown = markdown.replace(f"]({up}../benchmarks/RESULTS.md", f"]({up}{PAGE}")
    return re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+(?:design|examples|Dockerfile)[^)]*\)", r"\1", markdown
    )  # the site has none of these


def _table(found: re.Match[str]) -> str:
    """What stands between two marks of the measurements."""
    name, text = found[1], RESULTS.read_text(encoding="utf-8")
    return text.split(f"<!-- {name} -->", 1)[1].split(f"<!-- end of {name} -->", 1)[0]


def _names() -> Iterator[str]:
    """A directive of mkdocstrings for every public name, those that are called first."""
    import voxweft

    for name in sorted(voxweft.__all__, key=lambda name: (name[0].isupper(), name)):
        found = getattr(voxweft, name)
        if hasattr(found, "__module__"):
            yield f"::: {found.__module__}.{name}"


def _commands() -> Iterator[str]:
    import typer

    from voxweft.cli.app import app

    yield from _described(typer.main.get_command(app))


def _described(command: Any, *names: str, above: Any = None) -> Iterator[str]:
    from voxweft.cli.help import examples

    context = typer_context(command, names, above)
    for name in sorted(getattr(command, "commands", {})):
        below = command.commands[name]
        if not below.hidden:
            yield from _described(below, *names, name, above=context)
    if hasattr(command, "commands"):
        return
    full = " ".join(names)
    yield from (f"## voxweft {full}", "", command.help or "", "")
    if full in examples():
        yield from ("```console", f"$ {examples()[full]}", "```", "")
    yield from ("| | | |", "|---|---|---|")
    for one in command.params:
        if not getattr(one, "hidden", False):
            yield f"| {_flags(one)} | {_type(one)} | {_text(one)} |"
    yield ""


def typer_context(command: Any, names: tuple[str, ...], above: Any) -> Any:
    """The context in which typer describes a command."""
    import typer

    return typer.Context(command, info_name=(names or ("voxweft",))[-1], parent=above)


def _flags(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{(one.metavar or one.name).strip('[]')}`"
    return " ".join(f"`{flag}`" for flag in (*one.opts, *one.secondary_opts))


def _type(one: Any) -> str:
    return "" if getattr(one, "is_flag", False) else {int: "number", float: "number"}.get(type(one.default), "text")


def _text(one: Any) -> str:
    told = [one.help or ""]
    if one.required:
        told.append("*Needed.*")
    elif one.default not in (None, "", False, -1, ()) and not callable(one.default):
        told.append(f"Default: `{'yes' if one.default is True else one.default}`.")
    if envvar := getattr(one, "envvar", None):
        told.append(f"Variable: `{envvar}`.")
    return " ".join(told).replace("|", "\\|").replace("<", "&lt;")
