"""The main commands: run, and plan before it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from voxweft.cli.command import Command
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import (
    AsJson,
    LogJson,
    Quiet,
    ReportTo,
    Verbose,
    check_page,
    command_line,
    keep_crate,
    show_forecast,
    tell,
)
from voxweft.engine.events import Event
from voxweft.engine.options import RunOptions
from voxweft.errors import RequestError
from voxweft.runner.crate import CrateOptions
from voxweft.runner.execution import Execution

app = typer.Typer()
STARTING = Event("phase", "starting")  # torch alone takes a second or two
ModelPath = Annotated[str, typer.Option("--model", "-m", help="Model: nnU-Net folder, .pt, .pt2 or .onnx.")]


@app.command("run")
@with_options(RunOptions, Execution, CrateOptions)
def run(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Volume: zarr, TIFF, HDF5; a path, s3:// or http://.")
    ] = "",
    target: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="OME-Zarr to write, *.zarr; or a file: .tif, .h5, .nii.gz, .mrc.")
    ] = "",
    model: ModelPath = "",
    plan: Annotated[str, typer.Option("--plan", help="Repeat the plan of an earlier output (or plan.json).")] = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    options: Any = None,
    execution: Any = None,
    crateoptions: Any = None,
) -> None:
    """Segment a volume; the same command continues it after any stop."""
    from dataclasses import replace

    from voxweft.cli.progress import Listener

    check_page(report)
    execution = replace(execution, command=command_line())
    with Listener(quiet, log_json) as listen:
        listen(STARTING)
        from voxweft.apps import run as job

        if plan:
            if target or model or options != RunOptions():
                raise RequestError(
                    "--plan repeats everything as it was: voxweft run --plan OLD.zarr OUTPUT, nothing else"
                )
            result = job.repeat(plan, source, execution=execution, emit=listen)
        else:
            if problems := [
                f"{what} is missing: voxweft run INPUT OUTPUT --model M"
                for what, value in (("INPUT", source), ("OUTPUT", target), ("--model", model))
                if not value
            ]:
                raise RequestError(*problems)
            result = job.run(source, target, model, options, execution=execution, emit=listen)
    tell(result, quiet, report)
    keep_crate(result, crateoptions, quiet)


@app.command("plan")
@with_options(RunOptions)
def plan(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Volume.")],
    model: ModelPath,
    choices: Annotated[
        bool, typer.Option("--choices", help="Run sample regions with cheaper settings: time, labels that flip.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    options: Any = None,
) -> None:
    """Say what a run will cost: patches, bytes, memory, time."""
    from dataclasses import asdict

    from voxweft.cli.choices import show_choices
    from voxweft.cli.progress import Listener

    choices |= options.effort == "auto"
    with Listener(quiet) as listen:
        listen(STARTING)
        from voxweft.runner.choices import forecast_choices
        from voxweft.runner.forecast import forecast

        made, cost = (forecast_choices if choices else forecast)(source, model, options, emit=listen)
    if as_json:
        print(json.dumps({"plan": json.loads(made.to_json()), "forecast": asdict(cost)}, indent=1))
        return
    show_forecast(made, cost)
    if choices:
        show_choices(made.measured["choices"], views=options.tta != "none")


class RunDivision(Division):
    """``voxweft run``; with ``--plan OLD OUTPUT`` the output is the first word."""

    def url(self, command: Command) -> str:
        """OUTPUT."""
        return command.text("target") or command.text("source")


FRONT_END = FrontEnd(
    app,
    divisions={
        "run": RunDivision(
            {"source": "INPUT", "target": "OUTPUT", "model": "--model"}, "target", prepares=True, reduces=True
        )
    },
    examples={
        "run": "voxweft run scan.zarr mask.zarr --model Dataset001_Cells --output mask",
        "plan": "voxweft plan scan.zarr --model Dataset001_Cells",
    },
    rarer={
        "run": "threshold",
    },
)
