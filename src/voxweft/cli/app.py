"""The commands."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from typing import Annotated, Any

import typer

from voxweft import INTERRUPTED
from voxweft.cli import submit
from voxweft.cli.command import belong_to
from voxweft.cli.flags import with_options
from voxweft.cli.front_ends import front_ends, words_to_read
from voxweft.cli.help import dressed
from voxweft.cli.show import (
    AsJson,
    Quiet,
    Verbose,
    say,
    show_status,
    table,
)
from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.runner.crate import CrateOptions
from voxweft.shown import counted
from voxweft.version import __version__

app = typer.Typer(
    help="Run trained segmentation networks over very large 3-D images and weave the patches into one result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# typer may bring a click of its own, so the class is looked up
USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
MOST_LINES = 3  # of an error
GRACE_S = 0.6  # to leave the work in order
SHOW_CURSOR = "\x1b[?25h\r\x1b[K"
AGAIN = "Run the same command again to continue: finished slabs are kept."


def execute(arguments: list[str]) -> int:
    """Run a command line; the exit code. Errors become one to three lines on standard error."""
    interrupts = Interrupts()
    try:
        words = words_to_read([_hyphens(a) for a in arguments])
        command = typer.main.get_command(app)
        command = command if _completes() else dressed(command)
        code = command.main(words, prog_name="voxweft", standalone_mode=False) or 0
    except typer.Exit as error:
        code = error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - no user is to see a traceback unasked
        if interrupts.seen and not isinstance(error, VoxweftError):  # whatever a library made of it
            return interrupts.end()
        message, code = _explain(error)
        code = INTERRUPTED if interrupts.seen else code
        if message:
            say(f"voxweft: {message}", file=sys.stderr)
        if "--verbose" in arguments:
            traceback.print_exc()
        return code
    return interrupts.end() if interrupts.seen or code == INTERRUPTED else code


class Interrupts:
    """Ends a command at Ctrl-C, or as schedulers ask before they kill: in order where that is quick, else at once."""

    def __init__(self) -> None:
        self.seen = False
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as jobs in the background have it
            signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)

    def end(self) -> int:
        """Say so; the exit code."""
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C would only spoil the end
        print(f"voxweft: {_stopped()}", file=sys.stderr, flush=True)
        return INTERRUPTED

    def _interrupt(self, *_: object) -> None:
        if not self.seen:
            self.seen = True
            last = threading.Timer(GRACE_S, self._leave)
            last.daemon = True
            last.start()
        raise KeyboardInterrupt

    @staticmethod
    def _leave() -> None:
        cursor = SHOW_CURSOR if sys.stderr.isatty() else ""  # which the bar had hidden
        os.write(2, f"{cursor}voxweft: {_stopped()}\n".encode())
        os._exit(INTERRUPTED)


def _stopped() -> str:
    """What a person who stopped a command is told."""
    progress = sys.modules.get("voxweft.cli.progress")
    kept = progress.Listener.last.kept() if progress and progress.Listener.last else ""
    return f"interrupted: {kept}; the same command goes on." if kept else f"interrupted. {AGAIN}"


def _explain(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    match error:
        case VoxweftError():
            few = str(error).count("\n") < MOST_LINES  # more are in the names of files
            return str(error) if few else "\n".join(x.replace("\n", "\\n") for x in error.lines), error.exit_code
        case KeyboardInterrupt() | typer.Abort():
            return _stopped(), INTERRUPTED
        case MemoryError():
            return "out of memory. Run the same command with --overwrite and a smaller --memory.", 1
        case Exception() if isinstance(error, OSError) or type(error).__module__.startswith("obstore"):
            return first_line(error), 1  # a server's tells all that led to it
        case _ if isinstance(error, USAGE):
            text = error.format_message()
            return text and f"{text} See voxweft --help, or voxweft COMMAND --help.", 2
    return f"internal error, {type(error).__name__}: {first_line(error)}\nRun with --verbose for the traceback.", 1


def _hyphens(argument: str) -> str:
    """``--sigma_scale=8`` as ``--sigma-scale=8``: hyphen and underscore are alike in the names of options."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _completes() -> bool:
    """Whether a shell asks how a command line may go on: then no option is hidden, and underscores are hyphens."""
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        if name in os.environ:
            os.environ[name] = " ".join(map(_hyphens, os.environ[name].split(" ")))
    return "_VOXWEFT_COMPLETE" in os.environ


def _version(wanted: bool) -> None:
    if wanted:
        print(f"voxweft {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command("info")
def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A volume or a model.")],
    level: Annotated[int, typer.Option(help="Resolution level of a multi-scale volume.")] = 0,
    channel: Annotated[int, typer.Option(help="Channel of a volume with several.")] = -1,
    time: Annotated[int, typer.Option(help="Time point of a volume with several.")] = -1,
    series: Annotated[int, typer.Option(help="Image of a file with several.")] = -1,
    as_model: Annotated[bool, typer.Option("--as-model", help="PATH is a model, whatever it looks like.")] = False,
    layers: Annotated[
        int, typer.Option(help="PATH is an ink model, or a key of one, for so many layers; -1: as it says.")
    ] = 0,
    model_type: Annotated[str, typer.Option(help="With --layers: as for voxweft ink.")] = "auto",
    models: Annotated[str, typer.Option(help="With --layers: table of models (TOML) in place of voxweft's.")] = "",
    trust_code: Annotated[bool, typer.Option("--trust-code", help="With --layers: as for voxweft ink.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Describe a volume or a model."""
    from dataclasses import asdict

    from voxweft.backends import load_model, looks_like_a_model
    from voxweft.cli.describe import find_volume, rows_of
    from voxweft.image.axes import Select

    if not path:
        raise RequestError("PATH is empty; give a volume or a model")
    options = {"layers": layers, "model_type": model_type, "models": models, "trust_code": trust_code}
    cards = (front_end.find_card(path, options) for front_end in front_ends())
    if card := next(filter(None, cards), None):
        described: Any = card
    elif as_model or looks_like_a_model(path):
        described = load_model(path).card
    else:
        described = find_volume(path, level, Select.of(channel, time, series))
    if as_json:
        print(json.dumps(asdict(described), indent=1, default=str))
    else:
        table(rows_of(described))


@app.command("verify")
def verify(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What a run wrote.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Check that every voxel is there, as it was written."""
    from voxweft.cli.progress import Listener
    from voxweft.runner.patches import verify_parts
    from voxweft.runner.verify import verify as check

    if parts := verify_parts(output):
        if as_json:
            print(json.dumps(parts))
        elif not quiet:
            say(f"complete: {counted(parts['n_parts'], 'parts')}, {counted(parts['n_patches'], 'patches')}")
        return
    with Listener(quiet) as listen:
        found = check(output, emit=listen)
    if as_json:
        print(json.dumps(found))
    elif not quiet:
        counts = f"{counted(found['n_units'], found['noun'])}, {counted(found['n_levels'], 'levels')}"
        say(f"complete: {counts}, plan {found['plan_digest'][:12]}")


@app.command("status")
def status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What a run writes, or a folder of logits.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what is done, running and failed, and the time left."""
    from voxweft.runner.status import status as look

    found = look(output)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show_status(found)


@app.command("report")
@with_options(CrateOptions)
def report(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What a run wrote.")],
    to: Annotated[str, typer.Option("--to", help="File to write; default: OUTPUT.voxweft/report.html.")] = "",
    pictures: Annotated[str, typer.Option("--pictures", help="Folder for the pictures as PNG files.")] = "",
    truth: Annotated[str, typer.Option("--truth", help="Volume of the true classes: shown, and Dice.")] = "",
    verbose: Verbose = False,
    crateoptions: Any = None,
) -> None:
    """Write report.html: pictures, seam check, times, origin."""
    from voxweft.runner.crate import save_crate
    from voxweft.viewer.page import save_report

    say(save_report(output, to, pictures_to=pictures, truth=truth))
    if pictures:
        say(pictures)
    if crateoptions.ro_crate:
        say(save_crate(output, crateoptions))


@app.command("demo")
def demo(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where to write.")] = "voxweft-demo",
    size: Annotated[int, typer.Option(help="Side of the phantom in voxels.")] = 128,
    seed: Annotated[int, typer.Option(help="Another phantom for another number.")] = 1,
    ink: Annotated[bool, typer.Option("--ink", help="A surface with text in ink, and the small ink network.")] = False,
    medical: Annotated[bool, typer.Option("--medical", help="A folder of three small images instead.")] = False,
    panoptic: Annotated[bool, typer.Option("--panoptic", help="A stack of granules, told apart, instead.")] = False,
    particles: Annotated[bool, typer.Option("--particles", help="A copick project of two tomograms instead.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment a fresh phantom with a small network, and score it."""
    from voxweft.cli.demo import run_demo, run_ink_demo, run_medical_demo, run_panoptic_demo, run_particles_demo
    from voxweft.cli.progress import Listener

    with Listener(quiet) as listen:
        if medical:
            lines = run_medical_demo(folder, seed, listen)
        elif panoptic:
            lines = run_panoptic_demo(folder, seed, listen)
        elif particles:
            lines = run_particles_demo(folder, seed, listen)
        else:
            lines = run_ink_demo(folder, seed, listen) if ink else run_demo(folder, size, seed, listen)
    say("\n".join(lines))


for front_end in front_ends():
    if front_end.name:
        app.add_typer(front_end.app, name=front_end.name, rich_help_panel=front_end.panel)
    else:
        app.registered_commands += front_end.app.registered_commands
app.add_typer(submit.app, name="submit")
belong_to(app, words_to_read)
