"""The commands of ink detection."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from voxweft.apps.ink.options import InkModelOptions, InkOptions, InkPartOptions, LayerOptions, PictureOptions
from voxweft.cli.flags import with_options
from voxweft.cli.show import (
    Estimate,
    LogJson,
    Quiet,
    ReportTo,
    Verbose,
    check_page,
    command_line,
    show_forecast,
    summary,
)
from voxweft.errors import RequestError
from voxweft.runner.workers import WorkerOptions

PANEL = "Ink detection"
STEPS = {"prepare": "prepare", "inference": "infer", "infer": "infer", "reduce": "reduce", "run": "run"}
app = typer.Typer(
    help="Ink detection on surface volumes. Without a subcommand the environment variable STEP decides.",
    no_args_is_help=True,
)

Source = Annotated[
    str, typer.Argument(metavar="[INPUT]", help="Segment with layers/, or a surface volume; in place of S3_PATH.")
]
Target = Annotated[str, typer.Argument(metavar="[OUTPUT]", help="PNG, TIFF or .zarr; in place of OUTPUT_PATH.")]


def with_step(arguments: list[str]) -> list[str]:
    """``voxweft ink`` without a subcommand does the STEP of the environment.

    >>> with_step(["ink", "--stride", "32"]), with_step(["ink", "reduce"]), with_step(["ink", "--help"])
    (['ink', 'infer', '--stride', '32'], ['ink', 'reduce'], ['ink', '--help'])
    """
    word = arguments[1] if arguments[1:] else "-"
    bare = arguments[:1] == ["ink"] and (word.startswith("-") or "://" in word or Path(word).exists())
    if not bare or word in STEPS or arguments[1:2] in (["--help"], ["-h"]):
        return arguments
    step = os.environ.get("STEP") or "inference"
    if step not in STEPS:
        raise RequestError(f"STEP {step!r} is unknown; use prepare, inference or reduce")
    return ["ink", STEPS[step], *arguments[1:]]


@app.command("prepare")
@with_options(LayerOptions, InkPartOptions, PictureOptions)
def prepare(
    source: Source = "",
    target: Annotated[str, typer.Argument(metavar="[OUTPUT]", help="Surface volume to write, *.zarr.")] = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    layeroptions: Any = None,
    inkpartoptions: Any = None,
    pictureoptions: Any = None,
) -> None:
    """Layers (tif, png, jpg) to a surface volume in OME-Zarr. Run the same command again to continue."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener

    layers = replace(layeroptions, s3_path=source or layeroptions.s3_path)
    layers = replace(layers, surface_volume_zarr=target or layers.surface_volume_zarr)
    with Listener(quiet, log_json) as listen:
        url = ink.prepare(layers, inkpartoptions, pictureoptions, emit=listen)
    if not quiet:
        print(f"surface volume: {url}")


@app.command("infer")
@app.command("run", help="All steps: from the layers to the picture. Run the same command again to continue.")
@with_options(LayerOptions, InkModelOptions, InkOptions, InkPartOptions, WorkerOptions, PictureOptions)
def infer(
    source: Source = "",
    target: Target = "",
    estimate: Estimate = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    layeroptions: Any = None,
    inkmodeloptions: Any = None,
    inkoptions: Any = None,
    inkpartoptions: Any = None,
    workeroptions: Any = None,
    pictureoptions: Any = None,
) -> None:
    """Find ink: a picture, or with --num-parts the rows of one part. Run the same command again to continue."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener

    check_page(report)
    layers, where = _placed(layeroptions, pictureoptions, source, target)
    options = (layers, inkmodeloptions, inkoptions)
    with Listener(quiet, log_json) as listen:
        if estimate:
            told = ink.estimate(options, emit=listen)
            show_forecast(*told, _in_rows(*told))
            return
        result = ink.infer(options, inkpartoptions, where, by=workeroptions, command=command_line(), emit=listen)
    _tell(result, report, quiet)


@app.command("reduce")
@with_options(LayerOptions, InkModelOptions, InkPartOptions, PictureOptions)
def reduce(
    source: Annotated[
        str, typer.Argument(metavar="[INPUT]", help="What the parts wrote, *.zarr; else looked for.")
    ] = "",
    target: Target = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    layeroptions: Any = None,
    inkmodeloptions: Any = None,
    inkpartoptions: Any = None,
    pictureoptions: Any = None,
) -> None:
    """Check that all parts are there and write the picture."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener

    check_page(report)
    layers, where = _placed(layeroptions, pictureoptions, "", target)
    with Listener(quiet, log_json) as listen:
        result = ink.reduce((layers, inkmodeloptions), inkpartoptions, where, source=source, emit=listen)
    _tell(result, report, quiet)


def _tell(result: Any, report_to: str, quiet: bool) -> None:
    """What a run did; where there is a picture, with report.html beside it."""
    from voxweft.viewer.page import save_report

    if not quiet:
        summary(replace(result.report, output=result.picture or result.zarr), unit="bands of rows", pictures=False)
    if result.picture:
        page = re.sub(r"\.\w+$", "", result.picture) + "_report.html"
        page = save_report(result.zarr, report_to or page)
        if not quiet:
            print(f"report: {page}")


def _in_rows(plan: Any, cost: Any) -> dict[str, str]:
    """The rows of a forecast that speak of layers, tiles and bands."""

    def pixels(zyx: tuple[int, int, int]) -> str:
        return f"{zyx[0]} x {zyx[2]}"

    stage = plan.sweep
    return {
        "volume": f"{stage.info.n_channels} layers of {pixels(stage.info.shape_zyx)} pixels (rows x columns)",
        "patches": f"{cost.n_patches} tiles of {pixels(stage.grid.patch)}, {cost.n_patches_computed} computed",
        "columns": f"{cost.n_columns} of {stage.columns.column_yx[1]} pixels",
        "slabs": f"{cost.n_slabs} bands of {stage.columns.slab_z} rows",
    }


def _placed(layers: Any, where: Any, source: str, target: str) -> tuple[LayerOptions, PictureOptions]:
    """The options with INPUT and OUTPUT in their places."""
    where = replace(where, output_path=target) if target else where
    if not source:
        return layers, where
    if source.rstrip("/").endswith(".zarr"):
        return replace(layers, surface_volume_zarr=source), where
    return replace(layers, s3_path=source, surface_volume_zarr=""), where
