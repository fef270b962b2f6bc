"""Commands of ink detection that look before they run: a probe, and a sweep over networks, windows and directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from voxweft.apps.ink.options import (
    InkModelOptions,
    InkOptions,
    LayerOptions,
    PictureOptions,
    ProbeOptions,
    TrialOptions,
)
from voxweft.cli.flags import with_options
from voxweft.cli.ink_places import Source, placed
from voxweft.cli.show import AsJson, LogJson, Quiet, Verbose, command_line, say, table
from voxweft.ops.strokes import DIRECTIONS
from voxweft.runner.workers import WorkerOptions


@with_options(LayerOptions, InkModelOptions, InkOptions, ProbeOptions)
def probe(
    source: Source = "",
    picture: Annotated[str, typer.Option(metavar="FILE", help="PNG of the strokes and what was seen of them.")] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    layeroptions: Any = None,
    inkmodeloptions: Any = None,
    inkoptions: Any = None,
    probeoptions: Any = None,
) -> None:
    """Plant strokes of known contrast and tell which direction answers, and the faintest that would be seen."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener
    from voxweft.viewer.contact_sheet import check_sheet, contact_sheet, save_picture

    if picture:
        check_sheet(picture)
    layers, _ = placed(layeroptions, PictureOptions(), source, "")
    with Listener(quiet or as_json, log_json) as listen:
        found = ink.probe((layers, inkmodeloptions, inkoptions), probeoptions, emit=listen)
    if picture:
        save_picture(contact_sheet([*found.maps.items()], columns=2), Path(picture))
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        table(_probe_rows(found))


@with_options(LayerOptions, TrialOptions, InkOptions, WorkerOptions)
def sweep(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Segment with layers/, or a surface volume.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="For the pictures, sweep.json and sweep.png.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    layeroptions: Any = None,
    trialoptions: Any = None,
    inkoptions: Any = None,
    workeroptions: Any = None,
) -> None:
    """Try networks, windows and directions: a picture of each, and a sheet. Run the same command again to continue."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener
    from voxweft.viewer.contact_sheet import contact_sheet, save_picture

    layers, _ = placed(layeroptions, PictureOptions(), source, "")
    with Listener(quiet, log_json) as listen:
        done = ink.sweep(
            layers,
            trialoptions,
            inkoptions,
            folder.rstrip("/"),
            worker_options=workeroptions,
            command=command_line(),
            emit=listen,
        )
    items = [(_trial_caption(trial), trial.thumbnail) for trial in done.trials if trial.thumbnail is not None]
    if items:
        sheet = Path(done.folder) / "sweep.png"
        save_picture(contact_sheet(items, columns=len(trialoptions.ways) * min(2, len(trialoptions.moves))), sheet)
        if not quiet:
            table({trial.name: trial.error or _trial_numbers(trial) for trial in done.trials})
            say(f"sheet: {sheet}")
    done.require_all()


def _trial_numbers(trial: Any) -> str:
    return "mean {mean:.3f}, {over_half:.1%} over one half".format(**trial.numbers)


def _trial_caption(trial: Any) -> str:
    start, end = trial.layers
    return f"{trial.name}\nlayers {start} to {end - 1} ({trial.offset:+d}), {_trial_numbers(trial)}"


def _probe_rows(found: Any) -> dict[str, str]:
    """What a probe found, in words."""
    told = found.verdict
    sizes = f"{found.width_px} px wide, {found.pitch_px} px apart"
    where = f"layers {', '.join(f'{n} ({face})' for face, n in found.faces.items())}"
    rows = {
        "region": "x {0} to {2}, y {1} to {3}".format(*found.region),
        "strokes": f"{sizes}, {where}"
        + ("" if found.spacing_um else "; the size of a voxel is unknown (--voxel-size-um)"),
    }
    for face in found.faces:
        for direction in DIRECTIONS:
            lifts = [f"{a}: {lift:+.3f}" for (f, d, a), lift in found.lifts.items() if (f, d) == (face, direction)]
            rows[f"{face} face, {direction}"] = "   ".join(lifts)
    of_face = ", ".join(f"with ink on the {face} face {direction}" for face, direction in told.of_face.items())
    advice = "; who knows which face was written on gives --face" if len({*told.of_face.values()}) > 1 else ""
    rows["direction"] = f"{told.direction}: {of_face}{advice}"
    rows["faintest"] = (
        f"{told.faintest} grey levels; a map without ink here means: nothing of contrast >= {told.faintest} was there"
        if told.faintest
        else "not even the strongest strokes are seen; a map without ink here means nothing"
    )
    return rows
