"""What ``--help`` shows: an example first, then the options that many need; all of them under ``--help-all``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from voxweft.cli.command import ALIASES
from voxweft.cli.front_ends import front_ends

_COMMON = """
    model model_path model_weights config source target input output input_dir output_dir input_folder s3_path surface
    overlap stride threshold low high tta tta_type disable_tta ntta uncertainty bbox roi mask level instances
    method seg_uri tomo_uri pick_objects ground_truth_user_id save_probabilities save_conf preview output_format
    image_downsampling segmentation_confidence_threshold min_size plane voxel_vote_threshold median_filter_size
    start_layer end_layer direction reverse output_path zarr_output_dir depth step each_label connectivity
    device memory workers num_proc num_workers overwrite plan estimate report quiet as_json
    wait dry_run image cpus gpus secret claim namespace
"""
COMMON = frozenset(_COMMON.split())
"""Options that stand in ``--help``, whichever command has them; commands with few options show all."""

FEW = 15
"""So many options need no choice."""

OF_ALL = {
    "info": "voxweft info scan.zarr",
    "verify": "voxweft verify mask.zarr",
    "status": "voxweft status mask.zarr",
    "report": "voxweft report mask.zarr --to mask.html",
    "demo": "voxweft demo example",
    "submit slurm": "voxweft submit slurm --gpus 1 -- run scan.zarr mask.zarr --model Dataset001_Cells",
    "submit kubernetes": "voxweft submit kubernetes --image voxweft -- run s3://b/in.zarr s3://b/out.zarr -m s3://b/net",
    "submit argo": "voxweft submit argo --image voxweft -- run s3://b/in.zarr s3://b/out.zarr -m s3://b/net",
}
"""Examples of the commands that are no front end's."""

TYPES = {bool: "", int: "N", float: "NUMBER"}


@functools.cache
def examples() -> dict[str, str]:
    """A command line for each command, by its full name."""
    return OF_ALL | {name: line for front_end in front_ends() for name, line in front_end.examples.items()}


def _rarer(word: str) -> set[str]:
    return {name for front_end in front_ends() for name in front_end.rarer.get(word, "").split()}


def dressed(command: Any, *names: str, parent: Any = None) -> Any:
    """A command, and all below it, with examples and few options in their help.

    Parameters
    ----------
    command
        As typer makes it; it is changed.
    names
        Its full name, a word each.
    parent
        The context above it, which says what the help option is called.
    """
    context = typer.Context(command, info_name=(names or ("voxweft",))[-1], parent=parent, **command.context_settings)
    for option in command.get_params(context):
        if option.name == "show_completion":
            option.hidden = True
        if option.param_type_name == "argument":
            option.display_type_rich = lambda ctx: None  # newer typers say <str> of every path
        elif option.metavar is None:
            option.metavar = _type(option)
            option.help = " ".join(filter(None, [option.help, _default(option)]))
            option.show_default = False
    for name, below in getattr(command, "commands", {}).items():
        dressed(below, *names, name, parent=context)
    if not hasattr(command, "commands"):
        names = tuple(ALIASES.get(name, name) for name in names)
        example = examples().get(" ".join(names))
        command.short_help = command.short_help or (command.help or "").partition("\n\n")[0]
        command.help = f"Example: {example}\n\n{command.help}" if example else command.help
        _hide(command, COMMON - _rarer(names[0]) if names else COMMON)
    return command


def _type(option: Any) -> str:
    return "" if option.is_flag else TYPES.get(type(option.default), "TEXT") + " ..." * option.multiple


def _default(option: Any) -> str:
    if not option.show_default or option.default in (None, False, "", ()) or callable(option.default):
        return ""
    return f"(default: {option.default if option.default is not True else 'yes'})"


def _hide(command: Any, common: frozenset[str]) -> None:
    """Leave in ``--help`` what many need, in one table; ``--help-all`` shows the rest, and the tables."""
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if len(options) <= FEW:
        return
    tables = [(option, option.rich_help_panel) for option in options]
    for option in options:
        option.hidden = option.name not in common and not option.required
        option.rich_help_panel = None
    shows_all, write = False, command.format_help

    def format_help(*to: Any) -> None:
        for option in options:
            option.show_envvar = shows_all  # a message of what is wrong names the variable in either case
        write(*to)

    command.format_help = format_help

    def show(context: typer.Context, wanted: bool) -> None:
        nonlocal shows_all
        if wanted and not context.resilient_parsing:
            shows_all = True
            for option, table in tables:
                option.hidden, option.rich_help_panel = False, table
            print(context.get_help(), end="")
            raise typer.Exit

    text = f"Show the other {sum(option.hidden for option in options)} options too."
    command.params.append(_switch("--help-all", text, show))


def _switch(name: str, text: str, act: Callable[[typer.Context, bool], None]) -> Any:
    """An option that does something at once; made by typer, so that it is one of its own, whatever its version."""
    maker = typer.Typer(add_completion=False)
    option: Any = typer.Option(False, name, help=text, callback=act, is_eager=True, expose_value=False)

    @maker.command()
    def _made(wanted: bool = option) -> None: ...

    made = typer.main.get_command(maker).params[0]
    made.metavar = ""
    return made
