"""What the commands share: common flags, tables, summaries."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voxweft.engine.fields import parse_duration, spell_duration
from voxweft.engine.part import State
from voxweft.engine.report import REDONE_SHOWN, trial_in_words
from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import RequestError, plain
from voxweft.foreign import local
from voxweft.image.explored import facts_of
from voxweft.remote import without_secrets
from voxweft.runner.execution import Execution
from voxweft.shown import counted

if TYPE_CHECKING:
    from voxweft.engine.stage import Sweep
    from voxweft.runner.forecast import Forecast

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Warnings and errors only.", rich_help_panel="What to show"),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Tracebacks.", rich_help_panel="What to show")]
LogJson = Annotated[str, typer.Option("--log-json", help="Append events to FILE.", rich_help_panel="What to show")]
ReportTo = Annotated[str, typer.Option("--report", help="Write report.html here too.", rich_help_panel="What to show")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Estimate = Annotated[
    bool,
    typer.Option(
        "--estimate", help="Say what it will cost and stop; nothing is written.", rich_help_panel="What to show"
    ),
]


def say(text: str, file: IO[str] | None = None) -> None:
    """A line, or some, on standard output or another stream, without what a terminal would obey."""
    print(plain(text), file=file)


def check_page(path: str) -> None:
    """Refuse a place for report.html that cannot be, before the run and not after it."""
    if path and not local(path).absolute().parent.is_dir():
        raise RequestError(f"--report {path}: the folder is not there")


def summary(result: Any, report_to: str = "", unit: str = "slabs", pictures: bool = True, voxel: str = "voxel") -> None:
    """What a run did, on standard output; where it is complete and has pictures, with report.html."""
    page = ""
    if pictures and result.status == State.COMPLETE:
        from voxweft.viewer.page import save_report

        with Console(stderr=True).status("making report.html"):
            page = save_report(result.output, report_to)
    minutes, seconds = divmod(result.elapsed_s, 60)
    took = f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
    for warning in result.warnings:
        say(f"warning: {warning}", file=sys.stderr)
    for line in result.redone[:REDONE_SHOWN]:
        say(f"redone: {line}", file=sys.stderr)
    if len(result.redone) > REDONE_SHOWN:
        say(f"redone: {counted(len(result.redone) - REDONE_SHOWN, 'more parts')}, see the report", file=sys.stderr)
    speed = f", {result.voxels_per_s / 1e6:.2f} M{voxel}/s" if result.voxels_per_s else ""
    say(
        f"{result.status}: {result.n_units_done} of {counted(result.n_units, unit)}, {took}{speed}, "
        f"peak memory {result.peak_memory_bytes / 1e9:.2f} GB"
    )
    say(f"result: {result.output}")
    if "file" in result.beside:
        say(f"file: {result.beside['file']}")
    if UNCERTAINTY in result.beside:
        say(f"{UNCERTAINTY}: {result.beside[UNCERTAINTY]}")
    if page:
        say(f"report: {page}")


def tell(result: Any, quiet: bool, report_to: str = "", unit: str = "slabs") -> None:
    """The summary of a run, or where it is to be quiet its warnings; report.html in either case."""
    if not quiet:
        summary(result, report_to, unit)
        return
    for warning in result.warnings:
        say(f"warning: {warning}", file=sys.stderr)
    if result.status == State.COMPLETE:
        from voxweft.viewer.page import save_report

        save_report(result.output, report_to)


def keep_crate(result: Any, options: Any, quiet: bool, picture: str = "") -> None:
    """RO-Crate metadata of a complete run, where they were asked for, and where they lie."""
    if not options.ro_crate or result.status != State.COMPLETE:
        return
    from voxweft.runner.crate import save_crate

    place = save_crate(result.output, options, picture)
    if not quiet:
        say(f"archive: {place}")


def command_line() -> str:
    """The command line as it can be repeated, for the record; secrets are left out."""
    words = ["voxweft", *sys.argv[1:]]
    for n, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.replace("_", "-") == "--hf-token":
            if equals:
                words[n] = f"{name}=..."
            elif n + 1 < len(words):
                words[n + 1] = "..."
    return shlex.join(map(without_secrets, words))


def on_disk(made: Any, cost: Any, n_parts: int = 1) -> dict[str, str]:
    """What stages write beside the result, and how long a part takes."""
    stage = made.sweep
    voxels, n_classes = math.prod(stage.info.shape_zyx), stage.finish.n_classes
    logits = cost.n_patches * n_classes * math.prod(stage.grid.patch) * 2
    rows = {"logits of the stages": f"{_bytes(logits)} of patches, {_bytes(voxels * n_classes * 2)} merged"}
    if n_parts > 1:
        rows["each of the parts"] = f"{_bytes(logits // n_parts)}, {spell_duration(cost.seconds / n_parts)}"
    return rows


def show_forecast(made: Any, cost: Any, more: dict[str, str] | None = None) -> None:
    """A plan and its cost, on standard output; ``more`` adds rows, or says them in a front end's own words."""
    stage = made.sweep
    setting, info = stage.passes[0].setting, stage.info
    rows = {
        "volume": ", ".join(facts_of(info).values()),
        "patches": f"{cost.n_patches} of {_by(stage.grid.patch)}, "
        f"{cost.n_patches_computed} computed (waste {cost.waste})",
        "forward passes": f"{cost.n_forwards} ({stage.n_forwards:g} {'view' if stage.n_forwards == 1 else 'views'}, "
        f"{counted(made.models[0].card.n_folds, 'folds')})",
        "columns": f"{cost.n_columns} of {_by(stage.columns.column_yx)} voxels (y x)",
        "slabs": f"{cost.n_slabs} of {counted(stage.columns.slab_z, 'planes')}",
        "runtime": f"{setting.runtime} on {setting.device}, {setting.precision}, batch {setting.batch_size}, "
        f"{counted(setting.n_threads, 'cores')} a pass",
        "candidates": "\n".join(trial_in_words(trial) for trial in made.measured.get("runtimes", ())),
        "input": f"{_bytes(cost.bytes_decoded)} decoded"
        + (f", {_bytes(cost.bytes_read)} stored" if cost.bytes_read else ""),
        "output": f"{_bytes(cost.bytes_written)} before compression",
        "memory": _bytes(cost.memory_bytes),
        "time": spell_duration(cost.seconds),
        "a stop loses": f"about {spell_duration(_at_stake(stage, cost))} of work at most",
        "other choices": "\n".join(cost.choices),
    }
    if probe := made.measured.get("tiling"):
        rows["tiling"] = (
            f"a shifted window changes probabilities by {probe['mean']:.3f} on average, {probe['max']:.2f} at most"
        )
    if made.notes:
        rows["notes"] = "\n".join(made.notes)
    table(rows | (more or {}))


def _at_stake(stage: Sweep, cost: Forecast) -> float:
    """Seconds between what is kept: a slab, or what is kept of one by default."""
    slab_s: float = cost.seconds / max(1, cost.n_columns * cost.n_slabs)
    kept_s = parse_duration(Execution().checkpoint_every) or 0.0
    return min(slab_s, kept_s) if stage.keeps_sums and kept_s else slab_s


def show_status(found: Any) -> None:
    """The state of a run, on standard output: one line for all, then the parts that are not simply done."""
    from voxweft.runner.status import STATES

    share = found.n_units_done / max(1, found.n_units)
    facts = [f"{found.state}: {found.n_units_done} of {counted(found.n_units, found.noun)} ({share:.0%})"]
    facts += [f"{name} {done} of {n}" for name, (done, n) in found.stages.items() if 0 < done < n][1:]
    if found.n_running:
        patches = f" ({found.n_patches_running:,} patches done)" if found.n_patches_running else ""
        facts.append(f"{found.n_running} at work{patches}")
    if found.voxels_per_s:
        facts.append(f"{found.voxels_per_s / 1e6:.2f} Mvoxel/s")
    if found.seconds_left is not None and found.n_running:
        facts.append(f"{spell_duration(found.seconds_left)} left")
    say(", ".join(facts))
    counts = [f"{n} {state}" for state in STATES if (n := found.n_parts(state))]
    if len(found.parts) > 1:
        say(f"parts: {', '.join(counts)}")
    rows = [p for p in found.parts if p.state not in (State.DONE, State.WAITING)]
    table(
        {p.name: f"{p.state}, {p.n_units_done} of {p.n_units}, {p.worker}" + (p.error and f": {p.error}") for p in rows}
    )


def table(rows: dict[str, str]) -> None:
    """Names and values in two columns."""
    grid = Table(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(plain(name), plain(value))
    Console(highlight=False, markup=False).print(grid)


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _bytes(n: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n / 1e3:.1f} kB"
