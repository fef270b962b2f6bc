"""The commands of particles in tomograms, with the names that users of octopi know."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from voxweft.apps.particles.exchange import ExportOptions, ImportOptions, PickList
from voxweft.apps.particles.options import EvaluateOptions, LocalizeOptions, SegmentOptions, Work
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import LogJson, Quiet, ReportTo, Verbose, check_page, command_line, say, table
from voxweft.remote import is_remote
from voxweft.shown import counted

app = typer.Typer(help="Particles in tomograms: segment, localize, evaluate.", no_args_is_help=True)
OTHER_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "import": {"-p": (), "--path": ()},
    "evaluate": {"-v": ("--verbose",)},
}
SHOWN = 12  # runs of a table that a terminal gets


def read_words(words: list[str]) -> list[str]:
    """``octopi`` is ``particles``; what its commands call otherwise by the names that it has here.

    >>> read_words(["octopi", "import", "-p", "folder", "-c", "c.json"])
    ['particles', 'import', 'folder', '-c', 'c.json']
    """
    if words[:1] not in (["octopi"], ["particles"]):
        return words
    others = OTHER_NAMES.get("".join(words[1:2]), {})
    return ["particles", *(new for word in words[1:] for new in others.get(word, (word,)))]


@app.command("segment")
@with_options(SegmentOptions, Work)
def segment(
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    segmentoptions: Any = None,
    work: Any = None,
) -> None:
    """Segment the tomograms of a project; the same command continues, and leaves what is done."""
    from voxweft.apps.particles.segment import segment as job
    from voxweft.cli.progress import Listener

    with Listener(quiet, log_json) as listen:
        result = job(segmentoptions, work=replace(work, command=command_line()), emit=listen)
    _tell(result, quiet, "voxels")


@app.command("localize")
@with_options(LocalizeOptions, Work)
def localize(
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    localizeoptions: Any = None,
    work: Any = None,
) -> None:
    """Find particles in segmentations, and write picks with scores, and a page to look at."""
    from voxweft.apps.particles.localize import localize as job
    from voxweft.cli.progress import Listener
    from voxweft.stores.copick import Project
    from voxweft.stores.copick_files import fit_name
    from voxweft.viewer.particles_page import picks_page, save_page

    check_page(report)
    with Listener(quiet, log_json) as listen:
        result = job(localizeoptions, work=replace(work, command=command_line()), emit=listen)
    user, session = fit_name(localizeoptions.pick_user_id), fit_name(localizeoptions.pick_session_id)
    overlay = Project(localizeoptions.config).overlay.url
    places = [] if is_remote(overlay) else [str(Path(overlay) / "logs" / f"localize-{user}_{session}.html")]
    if places := [*filter(None, [report]), *places]:
        text = picks_page(result, user, session)
        places = [save_page(text, place) for place in places]
    _tell(result, quiet, "picks", places[:1])


@app.command("evaluate")
@with_options(EvaluateOptions)
def evaluate(
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    evaluateoptions: Any = None,
) -> None:
    """Compare picks with the truth: precision, recall, F-beta, curves."""
    from voxweft.apps.particles.evaluate import evaluate as job
    from voxweft.cli.progress import Listener
    from voxweft.viewer.particles_page import evaluation_page, save_page

    with Listener(quiet, log_json) as listen:
        result = job(evaluateoptions, emit=listen)
    page = save_page(evaluation_page(result), str(Path(result.output) / "evaluation.html"))
    rows: dict[str, str] = {}
    if not quiet:
        for name, c in result.counts.items():
            found = f"{c.tp} right, {c.fp} wrong, {c.fn} missed"
            both = f"precision {c.precision:.3f}, recall {c.recall:.3f}"
            rows[name] = f"F{result.beta:g} {c.fbeta(result.beta):.4f}, {both} ({found})"
        table(rows)
        say(f"F{result.beta:g} of all: {result.score:.4f}")
        say(f"scores: {result.output}/average_metrics.yaml")
        say(f"report: {page}")
    for run, why in result.failed.items():
        say(f"voxweft: {run}: {why}", file=sys.stderr)
    if result.failed:
        raise typer.Exit(1)


@app.command("export")
@with_options(ExportOptions)
def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="List to write: *.star or *.csv.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    exportoptions: Any = None,
) -> None:
    """Write picks as a RELION star file or a table."""
    from voxweft.apps.particles.exchange import export_picks

    found = export_picks(exportoptions, target)
    if not quiet:
        _counts(found, target)


@app.command("import-picks")
@with_options(PickList)
def import_picks(
    source: Annotated[str, typer.Argument(metavar="FILE", help="List to read: *.star or *.csv.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    picklist: Any = None,
) -> None:
    """Take the picks of a RELION star file or a table into a project."""
    from voxweft.apps.particles.exchange import import_picks as job

    found = job(picklist, source)
    if not quiet:
        _counts(found, picklist.config)


@app.command("import")
@with_options(ImportOptions)
def import_tomograms(
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder with MRC files, a tomogram each.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    importoptions: Any = None,
) -> None:
    """Make a project of a folder of MRC files, or add them to one."""
    from voxweft.apps.particles.exchange import import_tomograms as job
    from voxweft.cli.progress import Listener

    with Listener(quiet, log_json) as listen:
        done, failed = job(importoptions, source, emit=listen)
    if not quiet:
        say(f"{len(done)} tomograms in {importoptions.config}")
    for run, why in failed.items():
        say(f"voxweft: {run}: {why}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _counts(found: dict[str, int], place: str) -> None:
    table({name: counted(n, "picks") for name, n in found.items()})
    say(f"result: {place}")


def _tell(result: Any, quiet: bool, what: str, pages: Sequence[str] = ()) -> None:
    """What became of the runs; exit code 1 where some failed."""
    rows = [run for run in result.runs if run.status != "skipped"]
    if not quiet:
        shown = rows[:SHOWN]
        table(
            {
                run.run: f"{run.status}, {run.seconds:.1f} s {_facts(run.facts, what)}"
                for run in shown
                if run.status != "failed"
            }
        )
        if len(rows) > SHOWN:
            say(f"and {len(rows) - SHOWN} more")
        if skipped := len(result.runs) - len(rows):
            say(f"{skipped} finished before and left as they are")
        say(f"result: {result.result} in {result.project}")
        for page in pages:
            say(f"report: {page}")
    failed = [run for run in result.runs if run.status == "failed"]
    for run in failed[:SHOWN]:
        say(f"voxweft: {run.run}: {run.message}", file=sys.stderr)
    if failed:
        say(f"voxweft: {len(failed)} of {len(result.runs)} runs failed; the same command tries them again", sys.stderr)
        raise typer.Exit(1)


def _facts(facts: Any, what: str) -> str:
    if what == "voxels":
        return ", ".join(f"{name} {n} voxels" for name, n in facts.get("voxels", {}).items())
    return ", ".join(f"{name} {one['picks']}" for name, one in facts.items())


FRONT_END = FrontEnd(
    app,
    "particles",
    "Scrolls, ink, objects, particles",
    divisions={
        "particles segment": Division({"config": "--config", "model_weights": "--model-weights"}),
        "particles localize": Division({"config": "--config"}),
    },
    reads=read_words,
    examples={
        "particles segment": "voxweft particles segment -c config.json -mw best_model.pth",
        "particles localize": "voxweft particles localize -c config.json --seg-uri predict:octopi/1",
        "particles evaluate": "voxweft particles evaluate -c config.json --ground-truth-user-id curator",
        "particles export": "voxweft particles export picks.star -c config.json",
        "particles import-picks": "voxweft particles import-picks picks.star -c config.json --pick-user-id relion",
        "particles import": "voxweft particles import tomograms -c config.json --objects ribosome=150",
    },
    rarer={
        "particles": "tomo_uri quiet",
    },
)
