"""The commands for pictures of ink that are there: compare runs, find where ink begins."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from voxweft.cli.show import Quiet, Verbose, say, table
from voxweft.errors import RequestError

app = typer.Typer()
threshold = typer.Typer(help="Where ink begins: a level from labelled maps, and masks by it.", no_args_is_help=True)


@app.command("compare")
def compare(
    places: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE... SHEET", help="Pictures (PNG, TIFF, .zarr) or a segment; the sheet, *.png."),
    ],
    manifest: Annotated[str, typer.Option("--manifest", help="List of the runs to write too, manifest.json.")] = "",
    level: Annotated[
        float, typer.Option("--threshold", help="From which share of the largest value on a pixel counts as ink.")
    ] = 0.5,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Runs over one segment on one sheet: what differs between them, and how far they agree."""
    from voxweft.apps.ink import compare as job
    from voxweft.apps.ink.plane import PICTURES
    from voxweft.stores.url import absolute
    from voxweft.viewer.ink_sheet import check_ink_sheet, save_ink_sheet

    *pictures, sheet = places
    if not pictures:
        raise RequestError("SHEET is missing: voxweft ink compare PICTURE... SHEET.png, or SEGMENT SHEET.png")
    check_ink_sheet(sheet)
    if len(pictures) == 1 and not pictures[0].rstrip("/").endswith(PICTURES):
        pictures = [url for url in job.pictures_of(pictures[0]) if absolute(url) != absolute(sheet)]
    found = job.compare(pictures, level)
    save_ink_sheet(found, sheet)
    if manifest:
        job.save_manifest(found, manifest)
    if not quiet:
        for n, run in enumerate(found.runs, 1):
            say(f"{n}  {run.file}: mean {run.mean:.3f}, {run.share:.2%} of {run.level} or more")
        say(f"sheet: {sheet}")
        if manifest:
            say(f"manifest: {manifest}")


@threshold.command("calibrate")
def calibrate(
    maps: Annotated[
        list[str], typer.Argument(metavar="LABELLED=PREDICTION...", help="A labelled picture and what was found there.")
    ],
    output: Annotated[str, typer.Option("--output", help="Write thresholds.json.")] = "",
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", help="Picture of where it was labelled, not 0; once for each map, in their order."),
    ] = None,
    unlabelled: Annotated[
        int, typer.Option("--unlabelled", help="Grey value of LABELLED that says nothing; -1: none does.")
    ] = -1,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The level of the best F1 on labelled maps: the median over them. A value of the level or more is ink."""
    from voxweft.apps.ink import threshold as job
    from voxweft.apps.ink.names import writable
    from voxweft.remote import is_remote
    from voxweft.stores.url import local_path, parent_and_name, records_at

    masks = mask or [""] * len(maps)
    if len(masks) != len(maps):
        raise RequestError(f"--mask was given {len(masks)} times for {len(maps)} maps; give one for each, or none")
    pairs = [text.partition("=") for text in maps]
    if wrong := [text for text, (_, _, found) in zip(maps, pairs, strict=True) if not found]:
        raise RequestError(f"{wrong[0]} is no pair; write LABELLED.png=PREDICTION.png")
    if output and not is_remote(output) and not writable(local_path(output)):
        raise RequestError(f"--output {output} cannot be written")
    labelled = [job.LabelledMap(a, b, m) for (a, _, b), m in zip(pairs, masks, strict=True)]
    found = job.calibrate(labelled, unlabelled)
    if output:
        folder, name = parent_and_name(output)
        records_at(folder).put(name, found.to_json())
    if not quiet:
        table({one.prediction: _scores(one) for one in found.maps})
        say(f"level: {found.level} of {found.n_levels} (values of it or more are ink)")


@threshold.command("apply")
def apply(
    prediction: Annotated[str, typer.Argument(metavar="PREDICTION", help="PNG, TIFF or .zarr, 8 or 16 bit.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Mask to write, PNG or TIFF: 255 is ink.")],
    level: Annotated[int, typer.Option("--level", help="Values of N or more are ink.")] = -1,
    calibration: Annotated[str, typer.Option("--calibration", help="thresholds.json of calibrate.")] = "",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A mask of ink from a picture."""
    from voxweft.apps.ink import threshold as job

    place = job.apply(prediction, output, level=level, calibration=calibration)
    if not quiet:
        say(f"mask: {place}")


def _scores(one: Any) -> str:
    best, common = one.best, one.common
    at = f"at the common level {common.f1:.3f}, precision {common.precision:.3f}, recall {common.recall:.3f}"
    return f"best level {best.level}, F1 {best.f1:.3f}; {at}"
