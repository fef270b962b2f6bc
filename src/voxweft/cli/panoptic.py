"""The commands of panoptic segmentation: electron microscopy images, stacks, ortho-planes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from voxweft.apps.panoptic.options import ConsensusJob, ImageJob, MatchJob, OrthoJob, StackJob
from voxweft.cli.flags import own_names, with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import Estimate, LogJson, Quiet, ReportTo, Verbose, check_page, command_line, say, table, tell
from voxweft.errors import RequestError
from voxweft.runner.execution import Execution
from voxweft.shown import counted

app = typer.Typer(help="Objects of electron microscopy: images, stacks, ortho-planes.", no_args_is_help=True)
Source = Annotated[
    str, typer.Argument(metavar="INPUT", help="Volume or image: zarr, TIFF, HDF5, PNG; a path or s3://.")
]
Labels = Annotated[str, typer.Argument(metavar="LABELS", help="Stack of label slices.")]
Target = Annotated[str, typer.Argument(metavar="OUTPUT", help="OME-Zarr to write, *.zarr.")]
ModelName = Annotated[
    str,
    typer.Option("--model", "-m", "--model-config", help="Its .yaml or .pth, or a name of ~/.empanada/configs."),
]


@app.command("image")
@with_options(ImageJob, Execution)
def image(
    source: Source,
    target: Target,
    model: ModelName = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", help="Try values on some slices, NAME=A,B NAME=C,D; OUTPUT is a PNG.", metavar="..."),
    ] = None,
    slices: Annotated[str, typer.Option("--slices", help="With --grid: slices, 0,10,20; default: the middle.")] = "",
    estimate: Estimate = False,
    imagejob: Any = None,
    execution: Any = None,
) -> None:
    """Objects of an image, or of each slice of a stack by itself; with --grid a picture of what parameters do."""
    if grid:
        _sheet((source, target, model), imagejob, (grid, slices), (quiet, log_json))
        return
    if slices:
        raise RequestError("--slices goes with --grid; --roi takes a box of the volume")
    _swept("image", (source, target, model), (imagejob, execution), (quiet, log_json, report), estimate)


def read_words(words: list[str]) -> list[str]:
    """Flags of empanada's engine by the names that they have here, and ``--grid A=1 B=2`` as two.

    >>> read_words(["panoptic", "image", "in", "out.png", "--grid", "a=1,2", "b=3", "--nms-kernel", "7"])
    ['panoptic', 'image', 'in', 'out.png', '--grid', 'a=1,2', '--grid', 'b=3', '--centers-min-distance', '7']
    """
    if words[:1] != ["panoptic"]:
        return words
    words = own_names(words, ImageJob, StackJob, OrthoJob, MatchJob, ConsensusJob)
    made, inside = list[str](), False
    for n, word in enumerate(words):
        if inside and "=" in word and not word.startswith("-") and words[n - 1] != "--grid":
            made.append("--grid")
        inside = word == "--grid" or (inside and "=" in word and not word.startswith("-"))
        made.append(word)
    return made


def _sheet(what: tuple[str, str, str], options: Any, tried: tuple[list[str], str], shown: tuple[bool, str]) -> None:
    """The contact sheet of parameters that are tried."""
    from voxweft.apps.panoptic.trial import trials
    from voxweft.cli.progress import Listener
    from voxweft.viewer.contact_sheet import check_sheet, save_sheet

    source, target, model = what
    if not model:
        raise RequestError("--model is missing: voxweft panoptic image INPUT SHEET.png --model M --grid NAME=A,B")
    check_sheet(target)
    with Listener(*shown) as listen:
        path = save_sheet(trials(source, model, options, *tried, emit=listen), target)
    if not shown[0]:
        say(f"contact sheet: {path}")


@app.command("stack")
@with_options(StackJob, Execution)
def stack(
    source: Source,
    target: Target,
    model: ModelName = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    estimate: Estimate = False,
    stackjob: Any = None,
    execution: Any = None,
) -> None:
    """Objects of a volume from its slices; the same command continues it after any stop."""
    _swept("stack", (source, target, model), (stackjob, execution), (quiet, log_json, report), estimate)


@app.command("ortho")
@with_options(OrthoJob, Execution)
def ortho(
    source: Source,
    target: Target,
    model: ModelName = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    estimate: Estimate = False,
    orthojob: Any = None,
    execution: Any = None,
) -> None:
    """Objects on which the slices of all three planes agree."""
    _swept("ortho", (source, target, model), (orthojob, execution), (quiet, log_json, report), estimate)


@app.command("match")
@with_options(MatchJob, Execution)
def match(
    source: Labels,
    target: Target,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    matchjob: Any = None,
    execution: Any = None,
) -> None:
    """Objects of a stack of label slices that exists, proofread perhaps."""
    from voxweft.apps import panoptic
    from voxweft.cli.progress import Listener

    check_page(report)
    with Listener(quiet, log_json) as listen:
        result = panoptic.match(source, target, matchjob, execution=_recorded(execution), emit=listen)
    tell(result, quiet, report)


@app.command("consensus")
@with_options(ConsensusJob, Execution)
def consensus(
    sources: Annotated[list[str], typer.Argument(metavar="LABELS... OUTPUT", help="Two or three stacks; then OUTPUT.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    consensusjob: Any = None,
    execution: Any = None,
) -> None:
    """Objects on which stacks of labels agree that exist."""
    from voxweft.apps import panoptic
    from voxweft.cli.progress import Listener

    check_page(report)
    if len(sources) < 3:
        raise RequestError("a consensus needs two or three stacks and an OUTPUT: consensus XY XZ YZ OUTPUT")
    with Listener(quiet, log_json) as listen:
        result = panoptic.consensus(
            sources[:-1], sources[-1], consensusjob, execution=_recorded(execution), emit=listen
        )
    tell(result, quiet, report)


def _swept(
    name: str, what: tuple[str, str, str], how: tuple[Any, Any], shown: tuple[bool, str, str], estimate: bool
) -> None:
    """A command whose slices go through a network."""
    from voxweft.apps import panoptic
    from voxweft.cli.progress import Listener

    quiet, log_json, report = shown
    source, target, model = what
    options, execution = how
    check_page(report)
    if not model:
        raise RequestError(f"--model is missing: voxweft panoptic {name} INPUT OUTPUT --model M")
    if target.lower().endswith((".tif", ".tiff")):
        raise RequestError(f"{target}: the result is an OME-Zarr; give NAME.zarr, and --tiff for a TIFF beside it")
    if name == "image" and panoptic.is_folder_of_images(source, target):
        if estimate or report:
            raise RequestError(f"{source} is a folder of images: --estimate and --report go with one of them")
        with Listener(quiet, log_json) as listen:
            done = panoptic.images(source, target, model, options, execution=_recorded(execution), emit=listen)
        if not quiet:
            say(f"complete: {counted(len(done), 'images')}\nresult: {target}")
        return
    if estimate:
        from voxweft.apps.panoptic.forecast import forecast

        table(forecast(f"panoptic {name}", source, model, options, execution)[1])
        return
    with Listener(quiet, log_json) as listen:
        job = getattr(panoptic, name)
        result = job(source, target, model, options, execution=_recorded(execution), emit=listen)
    tell(result, quiet, report)


def _recorded(execution: Execution) -> Execution:
    return replace(execution, command=command_line())


_SWEPT = Division({"source": "INPUT", "target": "OUTPUT", "model": "--model"}, "target", prepares=True, reduces=True)
_EXISTING = Division({"source": "LABELS", "target": "OUTPUT"}, "target", prepares=True, reduces=True)
FRONT_END = FrontEnd(
    app,
    name="panoptic",
    panel="Scrolls, ink, objects, particles",
    reads=read_words,
    divisions={
        "panoptic image": _SWEPT,
        "panoptic stack": _SWEPT,
        "panoptic ortho": _SWEPT,
        "panoptic match": _EXISTING,
    },
    examples={
        "panoptic image": "voxweft panoptic image stack.zarr sheet.png -m MitoNet.yaml --slices 10,50",
        "panoptic stack": "voxweft panoptic stack stack.zarr objects.zarr -m MitoNet.yaml --min-size 500",
        "panoptic ortho": "voxweft panoptic ortho stack.zarr objects.zarr -m MitoNet.yaml --min-size 500",
        "panoptic match": "voxweft panoptic match slices.zarr objects.zarr --min-size 500",
        "panoptic consensus": "voxweft panoptic consensus xy.zarr xz.zarr yz.zarr agreed.zarr",
    },
    rarer={
        "panoptic": "level mask device report overlap overwrite",
    },
)
