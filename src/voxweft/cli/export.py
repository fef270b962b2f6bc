"""The command that writes a result into a file of another format."""

from __future__ import annotations

from typing import Annotated

import typer

from voxweft.cli.front_end import FrontEnd
from voxweft.cli.show import LogJson, Quiet, Verbose, say

app = typer.Typer()


@app.command("export")
def export(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Result of a run (*.zarr), or any volume.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="To write: .tif, .ome.tif, .h5, .hdf5, .nii, .nii.gz or .mrc.")
    ],
    level: Annotated[int, typer.Option(help="Resolution level; 0 is the finest.")] = 0,
    channel: Annotated[int, typer.Option(help="This channel (class) alone, from 0 on; -1: all.")] = -1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
) -> None:
    """Write a result as a file: .tif, .h5, .nii.gz or .mrc."""
    from voxweft.cli.progress import Listener
    from voxweft.runner import exporting

    wanted = None if channel < 0 else channel
    with Listener(quiet, log_json) as listen:
        exporting.export(output, file, level=level, channel=wanted, overwrite=overwrite, emit=listen)
    if not quiet:
        say(f"file: {file}")


FRONT_END = FrontEnd(
    app,
    examples={
        "export": "voxweft export mask.zarr mask.tif",
    },
)
