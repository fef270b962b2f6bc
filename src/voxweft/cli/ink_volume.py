"""The commands of ink in the frame of the scroll: volume, flatten."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from voxweft.apps.ink.flatten import FlattenOptions
from voxweft.apps.ink.volume import InkVolumeOptions
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division
from voxweft.cli.show import (
    LogJson,
    Quiet,
    ReportTo,
    Verbose,
    check_page,
    command_line,
    keep_crate,
    say,
    show_forecast,
    summary,
    tell,
)
from voxweft.errors import RequestError
from voxweft.runner.crate import CrateOptions
from voxweft.runner.execution import Execution

app = typer.Typer()
PlanOnly = Annotated[
    bool,
    typer.Option(
        "--estimate",
        "--plan-only",
        help="Say what it will touch and cost, and stop; nothing is written.",
        rich_help_panel="What to show",
    ),
]


@app.command("volume")
@with_options(InkVolumeOptions, Execution, CrateOptions)
def volume(
    source: Annotated[str, typer.Argument(metavar="SCROLL", help="Volume: zarr; a path, s3:// or http://.")],
    target: Annotated[str, typer.Argument(metavar="[OUTPUT]", help="OME-Zarr to write, *.zarr.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="Network for volumes, as for voxweft run.")] = "",
    estimate: PlanOnly = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    inkvolumeoptions: Any = None,
    execution: Any = None,
    crateoptions: Any = None,
) -> None:
    """Find ink in the scroll itself, near a surface. Run the same command again to continue."""
    from voxweft.apps.ink import volume as job
    from voxweft.cli.progress import Listener

    check_page(report)
    missing = [("OUTPUT", target or estimate), ("--model", model)]
    if problems := [f"{what} is missing: voxweft ink volume SCROLL OUTPUT --model M" for what, x in missing if not x]:
        raise RequestError(*problems)
    with Listener(quiet, log_json) as listen:
        if estimate:
            plan, cost = job.estimate(source, model, inkvolumeoptions, emit=listen)
            show_forecast(plan, cost, {"grid": f"{plan.sweep.grid.n_tiles} patches in all of the scroll"})
            return
        execution = replace(execution, command=command_line())
        result = job.volume(source, target, model, inkvolumeoptions, execution=execution, emit=listen)
    tell(result, quiet, report)
    keep_crate(result, crateoptions, quiet)


@app.command("flatten")
@with_options(FlattenOptions, Execution)
def flatten(
    source: Annotated[str, typer.Argument(metavar="VOLUME", help="What is flattened: a result, or a scroll.")],
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="A tifxyz folder, an .obj or a .ppm.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="PNG, TIFF or .zarr.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    flattenoptions: Any = None,
    execution: Any = None,
) -> None:
    """Sample a volume along a surface: a picture, or with --reduce none its layers for voxweft ink infer."""
    from voxweft.apps.ink import flatten as job
    from voxweft.cli.progress import Listener

    execution = replace(execution, command=command_line())
    with Listener(quiet, log_json) as listen:
        result = job.flatten(source, segment, target, flattenoptions, execution=execution, emit=listen)
    if not quiet:
        summary(result.report, unit="blocks", pictures=False)
        if result.picture:
            say(f"picture: {result.picture}")


DIVISIONS = {
    "ink volume": Division(
        {"source": "SCROLL", "target": "OUTPUT", "model": "--model"}, "target", prepares=True, reduces=True
    ),
}
