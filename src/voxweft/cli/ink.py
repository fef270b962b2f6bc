"""The commands of ink detection."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from voxweft.apps.ink.names import find_models, prepared_at
from voxweft.apps.ink.options import (
    UNSET,
    InkModelOptions,
    InkOptions,
    InkPartOptions,
    LayerOptions,
    PictureOptions,
)
from voxweft.apps.ink.picture import RESULT_NOTE
from voxweft.apps.ink.prepare import PATH_NOTE
from voxweft.cli import ink_after
from voxweft.cli.command import Command, Given, knows, line
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd, Look, Workflow
from voxweft.cli.ink_places import Source, Target, beside_output, placed
from voxweft.cli.ink_trials import probe, sweep
from voxweft.cli.ink_volume import DIVISIONS
from voxweft.cli.ink_volume import app as in_the_scroll
from voxweft.cli.show import (
    Estimate,
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
)
from voxweft.errors import RequestError
from voxweft.launch.steps import PART, Step
from voxweft.model.card import ModelCard
from voxweft.runner.crate import CrateOptions
from voxweft.runner.workers import WorkerOptions
from voxweft.shown import counted

STEPS = {"prepare": "prepare", "inference": "infer", "infer": "infer", "reduce": "reduce", "run": "run"}
app = typer.Typer(
    help="Ink detection on surface volumes (without a subcommand: STEP).",
    no_args_is_help=True,
)


def with_step(arguments: list[str]) -> list[str]:
    """``voxweft ink`` without a subcommand does the STEP of the environment.

    >>> with_step(["ink", "--stride", "32"]), with_step(["ink", "reduce"]), with_step(["ink", "--help"])
    (['ink', 'infer', '--stride', '32'], ['ink', 'reduce'], ['ink', '--help'])
    """
    if arguments[:1] == ["ink"]:
        arguments = with_one_model(arguments)
    word = arguments[1] if arguments[1:] else "-"
    without_step = arguments[:1] == ["ink"] and (word.startswith("-") or "://" in word or Path(word).exists())
    if not without_step or word in _commands() or arguments[1:2] in (["--help"], ["-h"]):
        return arguments
    step = os.environ.get("STEP") or "inference"
    if step not in STEPS:
        raise RequestError(f"STEP {step!r} is unknown; use prepare, inference or reduce")
    if os.environ.get("IMAGE_ROLE", "").strip() == "cpu" and STEPS[step] in ("infer", "run"):
        raise RequestError("IMAGE_ROLE=cpu has no network: STEP is prepare or reduce there; unset IMAGE_ROLE to infer")
    return ["ink", STEPS[step], *arguments[1:]]


def _commands() -> set[str | None]:
    """The words that are subcommands, also where a file is called so."""
    return {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups} | {*STEPS}


def with_one_model(arguments: list[str]) -> list[str]:
    """``--model A --model B`` as ``--model A,B``.

    >>> with_one_model(["ink", "run", "-m", "A", "seg", "--model=B"])
    ['ink', 'run', 'seg', '--model', 'A,B']
    """
    rest, models, words = list[str](), list[str](), iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in ("--model", "-m"):
            rest.append(word)
        elif (model := value if equals else next(words, None)) is not None:
            models.append(model)
    return [*rest, "--model", ",".join(models)] if len(models) > 1 else arguments


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
        say(f"surface volume: {url}")


@app.command("infer")
@app.command("run", help="All steps: from the layers to the picture. Run the same command again to continue.")
@with_options(LayerOptions, InkModelOptions, InkOptions, InkPartOptions, WorkerOptions, PictureOptions, CrateOptions)
def infer(
    context: typer.Context,
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
    crateoptions: Any = None,
) -> None:
    """Find ink: a picture, or with --num-parts the rows of one part. Run the same command again to continue."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener

    check_page(report)
    layers, picture_options = placed(layeroptions, pictureoptions, source, target)
    part = inkpartoptions
    if target and part.is_whole:
        part, picture_options = beside_output(part, picture_options, context)
    options = (layers, inkmodeloptions, inkoptions)
    with Listener(quiet, log_json) as listen:
        if estimate:
            forecast = ink.estimate(options, emit=listen)
            show_forecast(*forecast, _in_rows(*forecast))
            return
        result = ink.infer(
            options, part, picture_options, worker_options=workeroptions, command=command_line(), emit=listen
        )
    _tell(result, report, quiet, crateoptions)


app.command("probe")(probe)
app.command("sweep")(sweep)


@app.command("reduce")
@with_options(LayerOptions, InkModelOptions, InkPartOptions, PictureOptions, CrateOptions)
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
    crateoptions: Any = None,
) -> None:
    """Check that all parts are there and write the picture."""
    from voxweft.apps import ink
    from voxweft.cli.progress import Listener

    check_page(report)
    layers, picture_options = placed(layeroptions, pictureoptions, "", target)
    with Listener(quiet, log_json) as listen:
        result = ink.reduce((layers, inkmodeloptions), inkpartoptions, picture_options, source=source, emit=listen)
    _tell(result, report, quiet, crateoptions)


app.registered_commands += ink_after.app.registered_commands
app.add_typer(ink_after.threshold, name="threshold")


def _tell(result: Any, report_to: str, quiet: bool, crate_options: Any) -> None:
    """What a run did, in each direction; beside a picture lie report.html and what an archive wants to know."""
    from voxweft.viewer.page import save_report

    for one in (result, *result.also):
        if not quiet:
            summary(
                replace(one.report, output=one.picture or one.zarr), unit="bands of rows", pictures=False, voxel="pixel"
            )
            if one.known:
                say(f"unknown in places, see: {one.known}")
        if one.picture:
            page = re.sub(r"\.\w+$", "", one.picture) + "_report.html"
            page = save_report(one.zarr, report_to if report_to and not result.also else page, title=one.picture)
            if not quiet:
                say(f"report: {page}")
        picture = "" if one.picture == one.zarr else one.picture
        keep_crate(replace(one.report, output=one.zarr), crate_options, quiet, picture)


def _in_rows(plan: Any, cost: Any) -> dict[str, str]:
    """The rows of a forecast that speak of layers, tiles and bands."""

    def pixels(zyx: tuple[int, int, int]) -> str:
        return f"{zyx[0]} x {zyx[2]}"

    stage = plan.sweep
    return {
        "volume": f"{counted(stage.info.n_channels, 'layers')} of {pixels(stage.info.shape_zyx)} pixels "
        "(rows x columns)",
        "patches": f"{cost.n_patches} tiles of {pixels(stage.grid.patch)}, {cost.n_patches_computed} computed",
        "columns": f"{cost.n_columns} of {stage.columns.column_yx[1]} pixels",
        "slabs": f"{counted(cost.n_slabs, 'bands')} of {counted(stage.columns.slab_z, 'rows')}",
    }


VARIABLES = {"model": "MODEL", "s3_path": "S3_PATH", "start_layer": "START_LAYER", "end_layer": "END_LAYER"}
ANY_NUMBER = -1  # of layers: as the checkpoint says
LOOK = {"model_type": "--model-type", "models": "--models"}
SHARED_DIR = (
    "ZARR_OUTPUT_DIR is missing: unfinished results would lie in /tmp of each node; "
    "give --zarr-output-dir, a folder that all nodes share, or s3://"
)


class InkDivision(Division):
    """prepare, where the layers are not prepared yet -> infer, in parts -> reduce."""

    def placed(self, given: dict[str, Given]) -> dict[str, Given]:
        """INPUT and OUTPUT as options."""
        options = {n: g for n, g in given.items() if n not in ("source", "target")}
        if "target" in given:
            options["output_path"] = Given("output_path", "--output-path", given["target"].value, "PNG, TIFF or .zarr.")
        if "source" in given:
            source = given["source"].value
            kind = "surface_volume_zarr" if _is_zarr(source) else "s3_path"
            options.pop("surface_volume_zarr", None)
            options[kind] = Given(kind, "--" + kind.replace("_", "-"), source, "What ink is looked for in.")
        return options

    def problems(self, name: str, given: Mapping[str, Given]) -> list[str]:
        """What is missing, or lies where other nodes do not see it."""
        problems = []
        if not {"s3_path", "surface_volume_zarr"} & set(given):
            problems.append("COMMAND: S3_PATH is missing: set it, or give the segment as INPUT")
        picture = PictureOptions(output_path=given["output_path"].value if "output_path" in given else "")
        prepared = "surface_volume_zarr" in given or not self.has_first_step(name, given)
        if "zarr_output_dir" not in given and not (_is_zarr(picture.output_path) and prepared):
            problems.append(SHARED_DIR)
        return problems

    def has_first_step(self, name: str, given: Mapping[str, Given]) -> bool:
        """Whether a surface volume is made first."""
        return name == "ink run" and "s3_path" in given and not _is_zarr(given["s3_path"].value)

    def url(self, command: Command) -> str:
        """OUTPUT, where it is an OME-Zarr."""
        return command.text("output_path") if _is_zarr(command.text("output_path")) else ""

    def steps(self, command: Command, n_parts: int, workflow: Workflow | None = None) -> list[Step]:
        """Prepare, infer, reduce; the later ones are told where the surface volume lies."""
        workflow = workflow or Workflow(str(n_parts))
        left_out = {"num_parts", "overwrite", *workflow.in_variables}
        given = {n: g for n, g in command.given.items() if n not in left_out}
        first = self.has_first_step(command.name, command.given)
        made = surface = ""
        if first and workflow.taken:
            made, surface = command.text("surface_volume_zarr"), workflow.taken("surface-volume-zarr")
        elif first:
            made = surface = _surface_of(command)

        def words(name: str, at: str) -> tuple[str, ...]:
            known = {n: g for n, g in given.items() if n in knows(name)}
            if at:
                known["surface_volume_zarr"] = Given("surface_volume_zarr", "--surface-volume-zarr", at)
            return line(name, known.values())

        share = ("--num-parts", workflow.number, "--part-id", PART)
        overwrite = ("--overwrite",) * ("overwrite" in command.given)
        prepared = [Step("prepare", (*words("ink prepare", made), *overwrite), on_gpu=False)] if first else []
        infer = Step("infer", (*words("ink infer", surface), *share), n_parts)
        return [*prepared, infer, Step("reduce", words("ink reduce", surface), on_gpu=False)]

    def in_one_job(self, command: Command) -> str:
        """Why steps that follow each other are no job."""
        if command.name != "ink run":
            return ""
        return (
            "voxweft ink run has steps that follow each other, which a Job has not: voxweft submit argo, "
            "or voxweft ink prepare, voxweft submit kubernetes -- ink infer, voxweft ink reduce"
        )

    def variables(self, names: Mapping[str, str], taken: Callable[[str], str]) -> dict[str, str]:
        """The variables of the reference container."""
        return {env: taken(names[n]) for n, env in VARIABLES.items() if n in names}

    def look(self, command: Command, variables: Mapping[str, str]) -> Look:
        """With the number of layers, on which the network depends."""
        more = {n: flag for n, flag in LOOK.items() if n in command.given}
        both = {"start_layer", "end_layer"} <= set(command.given)
        shell = f'voxweft info "$MODEL" --layers "{"$((END_LAYER - START_LAYER))" if both else ANY_NUMBER}"'
        shell += "".join(f' {flag} "${n.upper()}"' for n, flag in more.items())
        shell += " --trust-code" * ("trust_code" in command.given)
        return Look(shell, {**variables, **{n.upper(): command.text(n) for n in more}})

    def notes(self, command: Command) -> dict[str, tuple[str, str]]:
        """Where the surface volume and the picture lie."""
        folder = command.text("runtime_dir") or "/tmp"
        notes = {"reduce": (RESULT_NOTE.removesuffix(".txt"), f"{folder}/{RESULT_NOTE}")}
        if self.has_first_step(command.name, command.given):
            notes["prepare"] = ("surface_volume_zarr", f"{folder}/{PATH_NOTE}")
        return notes

    def result(self, names: Mapping[str, str]) -> tuple[str, str]:
        """Where the picture lies."""
        return "result-s3-url", "reduce"


def _is_zarr(url: str) -> bool:
    return url.rstrip("/").endswith(".zarr")


def _surface_of(command: Command) -> str:
    """Where the surface volume of ``ink run`` is made."""
    layers = LayerOptions(
        s3_path=command.text("s3_path"),
        surface_volume_zarr=command.text("surface_volume_zarr"),
        start_layer=int(command.text("start_layer") or UNSET),
        end_layer=int(command.text("end_layer") or UNSET),
    )
    return prepared_at(layers, InkPartOptions(zarr_output_dir=command.text("zarr_output_dir")))


def _find_card(path: str, options: Mapping[str, Any]) -> ModelCard | None:
    """The card of an ink model, which depends on the number of layers."""
    from voxweft.backends import load_model

    if not options.get("layers"):
        return None
    place = find_models(InkModelOptions(model=path, models=options["models"]))[0]
    more = {"model_type": options["model_type"], "trust_code": options["trust_code"]}
    return load_model(place, n_layers=max(0, options["layers"]), **more).card


app.registered_commands += in_the_scroll.registered_commands
NEEDED = {"model": "MODEL"}
DIVISION = InkDivision(NEEDED, fewest_parts=2)  # one part is no part: voxweft ink infer makes the picture at once
FRONT_END = FrontEnd(
    app,
    "ink",
    "Scrolls, ink, objects, particles",
    divisions={"ink run": DIVISION, "ink infer": DIVISION, **DIVISIONS},
    reads=with_step,
    find_card=_find_card,
    examples={
        "ink prepare": "voxweft ink prepare segment --surface-volume-zarr surface.zarr",
        "ink run": "voxweft ink run segment ink.png --model model.ckpt",
        "ink infer": "voxweft ink infer segment --model model.ckpt --num-parts 4 --part-id 0",
        "ink reduce": "voxweft ink reduce ink.png --num-parts 4 --zarr-output-dir partitions",
        "ink probe": "voxweft ink probe segment --model model.ckpt --picture probe.png",
        "ink sweep": "voxweft ink sweep segment sheets --models a.ckpt,b.ckpt --directions forward,reverse",
        "ink compare": "voxweft ink compare forward.png reverse.png sheet.png",
        "ink volume": "voxweft ink volume scroll.zarr ink3d.zarr --model model.pt2 --surface segment",
        "ink flatten": "voxweft ink flatten ink3d.zarr segment ink.png",
        "ink threshold calibrate": "voxweft ink threshold calibrate ink.png truth.png --output threshold.json",
        "ink threshold apply": "voxweft ink threshold apply ink.png mask.png --calibration threshold.json",
    },
    rarer={
        "ink": "level mask reverse tta overwrite report uncertainty threshold device",
    },
)
