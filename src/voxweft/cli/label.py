"""Connected components of a volume of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from voxweft.apps.label import LabelOptions
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import LogJson, Quiet, ReportTo, Verbose, check_page, command_line, tell
from voxweft.runner.execution import Execution

app = typer.Typer()


@app.command("label")
@with_options(LabelOptions, Execution)
def label(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Mask, labels, or values to be thresholded.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="OME-Zarr to write, *.zarr.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    labeloptions: Any = None,
    execution: Any = None,
) -> None:
    """Number the connected components of a volume, and list them."""
    from voxweft.apps import label as job
    from voxweft.cli.progress import Listener

    check_page(report)
    execution = replace(execution, command=command_line())
    with Listener(quiet, log_json) as listen:
        result = job.label(source, target, labeloptions, execution=execution, emit=listen)
    tell(result, quiet, report, unit="blocks")


FRONT_END = FrontEnd(
    app,
    divisions={
        "label": Division({"source": "INPUT", "target": "OUTPUT"}, "target", prepares=True, reduces=True),
    },
    examples={
        "label": "voxweft label mask.zarr objects.zarr --min-size 100",
    },
)
