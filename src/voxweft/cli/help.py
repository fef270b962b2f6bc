"""What ``--help`` shows: an example first, then the options that many need; all of them under ``--help-all``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from voxweft.cli.command import ALIASES

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

RARER = {
    "ink": "level mask reverse tta overwrite report uncertainty threshold device",
    "panoptic": "level mask device report overlap overwrite",
    "pipeline": "report level num_workers tta_type mask threshold gpus",
    "predict": "level tta_type mask",
    "batch": "uncertainty tta",
    "finalize": "num_workers mask",
    "run": "threshold",
    "particles": "tomo_uri quiet",
}
"""Of those, what some commands keep for ``--help-all``, by the first word of their name."""

FEW = 15
"""So many options need no choice."""

EXAMPLES = {
    "info": "voxweft info scan.zarr",
    "verify": "voxweft verify mask.zarr",
    "status": "voxweft status mask.zarr",
    "report": "voxweft report mask.zarr --to mask.html",
    "demo": "voxweft demo example",
    "models": "voxweft models",
    "doctor": "voxweft doctor",
    "run": "voxweft run scan.zarr mask.zarr --model Dataset001_Cells --output mask",
    "plan": "voxweft plan scan.zarr --model Dataset001_Cells",
    "predict": "voxweft predict --model-path Dataset059 --input-dir scroll.zarr --output-dir parts",
    "blend": "voxweft blend parts merged.zarr",
    "finalize": "voxweft finalize merged.zarr sheets.zarr --threshold",
    "pipeline": "voxweft pipeline --input scroll.zarr --output sheets.zarr --model Dataset059 --threshold",
    "batch": "voxweft batch -i images -o labels -m Dataset027_Heart --preview",
    "export": "voxweft export mask.zarr mask.tif",
    "view": "voxweft view mask.zarr",
    "label": "voxweft label mask.zarr objects.zarr --min-size 100",
    "serve": "voxweft serve --models models --port 8000",
    "ink prepare": "voxweft ink prepare segment --surface-volume-zarr surface.zarr",
    "ink run": "voxweft ink run segment ink.png --model model.ckpt",
    "ink infer": "voxweft ink infer segment --model model.ckpt --num-parts 4 --part-id 0",
    "ink reduce": "voxweft ink reduce ink.png --num-parts 4 --zarr-output-dir partitions",
    "ink probe": "voxweft ink probe segment --model model.ckpt --picture probe.png",
    "ink sweep": "voxweft ink sweep segment sheets --models a.ckpt,b.ckpt --directions forward,reverse",
    "ink compare": "voxweft ink compare forward.png reverse.png sheet.png",
    "ink volume": "voxweft ink volume scroll.zarr ink3d.zarr --model model.pt2 --surface segment",
    "ink flatten": "voxweft ink flatten ink3d.zarr segment ink.png",
    "ink threshold calibrate": "voxweft ink threshold calibrate ink.png truth.png --output threshold.json",
    "ink threshold apply": "voxweft ink threshold apply ink.png mask.png --calibration threshold.json",
    "panoptic image": "voxweft panoptic image stack.zarr sheet.png -m MitoNet.yaml --slices 10,50",
    "panoptic stack": "voxweft panoptic stack stack.zarr objects.zarr -m MitoNet.yaml --min-size 500",
    "panoptic ortho": "voxweft panoptic ortho stack.zarr objects.zarr -m MitoNet.yaml --min-size 500",
    "panoptic match": "voxweft panoptic match slices.zarr objects.zarr --min-size 500",
    "panoptic consensus": "voxweft panoptic consensus xy.zarr xz.zarr yz.zarr agreed.zarr",
    "particles segment": "voxweft particles segment -c config.json -mw best_model.pth",
    "particles localize": "voxweft particles localize -c config.json --seg-uri predict:octopi/1",
    "particles evaluate": "voxweft particles evaluate -c config.json --ground-truth-user-id curator",
    "particles export": "voxweft particles export picks.star -c config.json",
    "particles import-picks": "voxweft particles import-picks picks.star -c config.json --pick-user-id relion",
    "particles import": "voxweft particles import tomograms -c config.json --objects ribosome=150",
    "submit slurm": "voxweft submit slurm --gpus 1 -- run scan.zarr mask.zarr --model Dataset001_Cells",
    "submit kubernetes": "voxweft submit kubernetes --image voxweft -- run s3://b/in.zarr s3://b/out.zarr -m s3://b/net",
    "submit argo": "voxweft submit argo --image voxweft -- run s3://b/in.zarr s3://b/out.zarr -m s3://b/net",
}
"""A command line for each command, by its full name."""

TYPES = {bool: "", int: "N", float: "NUMBER"}


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
        if option.param_type_name == "option" and option.metavar is None:
            option.metavar = _type(option)
            option.help = " ".join(filter(None, [option.help, _default(option)]))
            option.show_default = False
    for name, below in getattr(command, "commands", {}).items():
        dressed(below, *names, name, parent=context)
    if not hasattr(command, "commands"):
        names = tuple(ALIASES.get(name, name) for name in names)
        example = EXAMPLES.get(" ".join(names))
        command.short_help = command.short_help or (command.help or "").partition("\n\n")[0]
        command.help = f"Example: {example}\n\n{command.help}" if example else command.help
        _hide(command, COMMON - {*RARER.get(names[0], "").split()} if names else COMMON)
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
        option.rich_help_panel, option.show_envvar = None, False

    def show(context: typer.Context, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            for option, table in tables:
                option.hidden, option.rich_help_panel, option.show_envvar = False, table, True
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
