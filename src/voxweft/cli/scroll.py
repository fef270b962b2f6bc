"""The commands of the scroll pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from voxweft.apps.scroll.options import (
    BlendOptions,
    ClassOptions,
    FinalizeOptions,
    NetworkOptions,
    PartOptions,
    PatchStoreOptions,
    PipelineOptions,
    SourceOptions,
)
from voxweft.cli.command import Given
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import (
    Estimate,
    LogJson,
    Quiet,
    ReportTo,
    Verbose,
    check_page,
    command_line,
    keep_crate,
    on_disk,
    show_forecast,
    summary,
)
from voxweft.errors import RequestError
from voxweft.runner.crate import CrateOptions

app = typer.Typer()

PANEL = "Scrolls, ink, objects, particles"
Model = Annotated[str, typer.Option("--model-path", "--model", "-m", help="nnU-Net folder, hf://, s3://, .pt2, .onnx.")]


def _require(**given: str) -> None:
    if problems := [f"--{name.replace('_', '-')} is missing" for name, value in given.items() if not value]:
        raise RequestError(*problems)


@app.command("predict", rich_help_panel=PANEL)
@with_options(SourceOptions, NetworkOptions, PartOptions, PatchStoreOptions)
def predict(
    model_path: Model = "",
    input_dir: Annotated[str, typer.Option("--input-dir", help="Volume: OME-Zarr or zarr; path, s3:// or http.")] = "",
    output_dir: Annotated[str, typer.Option("--output-dir", help="Folder for the parts; a path or s3://.")] = "",
    estimate: Estimate = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    sourceoptions: Any = None,
    networkoptions: Any = None,
    partoptions: Any = None,
    patchstoreoptions: Any = None,
) -> None:
    """Stage 1: run the network, write the logits of every patch."""
    from voxweft.apps import scroll
    from voxweft.apps.scroll.pipeline import estimate as cost_of
    from voxweft.cli.progress import Listener

    _require(model_path=model_path)
    with Listener(quiet, log_json) as listen:
        if estimate:
            choices = (sourceoptions, networkoptions, ClassOptions(), PipelineOptions(), PartOptions())
            forecast = cost_of(input_dir, model_path, choices, listen)
            show_forecast(*forecast, on_disk(*forecast, n_parts=partoptions.num_parts))
            return
        _require(output_dir=output_dir)
        report = scroll.predict(
            input_dir,
            output_dir,
            model_path,
            (sourceoptions, networkoptions, patchstoreoptions),
            part=partoptions,
            command=command_line(),
            emit=listen,
        )
    if not quiet:
        summary(report, unit="layers", pictures=False)


@app.command("blend", rich_help_panel=PANEL)
@app.command("blend_logits", hidden=True)
@with_options(BlendOptions, PartOptions)
def blend(
    parent_dir: Annotated[str, typer.Argument(metavar="PARENT_DIR", help="Folder with the parts.")],
    output_path: Annotated[str, typer.Argument(metavar="OUTPUT", help="Merged logits to write, *.zarr.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    blendoptions: Any = None,
    partoptions: Any = None,
) -> None:
    """Stage 2: blend the patches of all parts into one array of logits."""
    from voxweft.apps import scroll
    from voxweft.cli.progress import Listener

    with Listener(quiet, log_json) as listen:
        report = scroll.blend(
            parent_dir, output_path, blendoptions, part=partoptions, command=command_line(), emit=listen
        )
    if not quiet:
        summary(report, pictures=False)


@app.command("finalize", rich_help_panel=PANEL)
@app.command("finalize_outputs", hidden=True)
@with_options(ClassOptions, FinalizeOptions, PartOptions)
def finalize(
    input_path: Annotated[str, typer.Argument(metavar="INPUT", help="Merged logits.")],
    output_path: Annotated[str, typer.Argument(metavar="OUTPUT", help="OME-Zarr to write, *.zarr.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    classoptions: Any = None,
    finalizeoptions: Any = None,
    partoptions: Any = None,
) -> None:
    """Stage 3: merged logits to probabilities, a mask or class ids."""
    from voxweft.apps import scroll
    from voxweft.cli.progress import Listener

    with Listener(quiet, log_json) as listen:
        result = scroll.finalize(
            input_path,
            output_path,
            (classoptions, finalizeoptions),
            part=partoptions,
            command=command_line(),
            emit=listen,
        )
    if not quiet:
        summary(result, pictures=False)


@app.command("pipeline", rich_help_panel=PANEL)
@app.command("inference_pipeline", hidden=True)
@with_options(SourceOptions, NetworkOptions, ClassOptions, PipelineOptions, PartOptions, CrateOptions)
def pipeline(
    source: Annotated[str, typer.Option("--input", "--input-dir", help="Volume: OME-Zarr or zarr.")] = "",
    output: Annotated[str, typer.Option("--output", help="OME-Zarr to write, *.zarr.")] = "",
    model_path: Model = "",
    model_type: Annotated[str, typer.Option("--model-type", help="Accepted: voxweft looks for itself.")] = "nnunet",
    estimate: Estimate = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    report: ReportTo = "",
    sourceoptions: Any = None,
    networkoptions: Any = None,
    classoptions: Any = None,
    pipelineoptions: Any = None,
    partoptions: Any = None,
    crateoptions: Any = None,
) -> None:
    """All stages in one sweep, without logits on disk."""
    from voxweft.apps import scroll
    from voxweft.apps.scroll.pipeline import estimate as cost_of
    from voxweft.cli.progress import Listener

    check_page(report)
    _require(model=model_path)
    choices = (sourceoptions, networkoptions, classoptions, pipelineoptions, partoptions)
    with Listener(quiet, log_json) as listen:
        if estimate:
            forecast = cost_of(source, model_path, choices, listen)
            show_forecast(*forecast, on_disk(*forecast) if pipelineoptions.staged else {})
            return
        _require(output=output)
        result = scroll.pipeline(source, output, model_path, choices, command=command_line(), emit=listen)
    if not quiet:
        summary(result, report_to=report)
    keep_crate(result, crateoptions, quiet)


STAGED = "--staged: submit voxweft predict, blend and finalize, one after the other"


class PipelineDivision(Division):
    """``voxweft pipeline``, where it is one sweep."""

    def problems(self, name: str, given: Mapping[str, Given]) -> list[str]:
        """The numbers of the reference need its stages."""
        return ["COMMAND: --compat runs the stages one by one; submit voxweft predict, blend and finalize"] * (
            "compat" in given
        )


PIPELINE = {"output": "--output", "model_path": "--model-path"}
FRONT_END = FrontEnd(
    app,
    divisions={
        "predict": Division({"output_dir": "--output-dir", "model_path": "--model-path"}, prepares=True),
        "pipeline": PipelineDivision(PIPELINE, "output", prepares=True, reduces=True, undivided={"staged": STAGED}),
        "blend": Division(output="output_path"),
        "finalize": Division(output="output_path"),
    },
    examples={
        "predict": "voxweft predict --model-path Dataset059 --input-dir scroll.zarr --output-dir parts",
        "blend": "voxweft blend parts merged.zarr",
        "finalize": "voxweft finalize merged.zarr sheets.zarr --threshold",
        "pipeline": "voxweft pipeline --input scroll.zarr --output sheets.zarr --model Dataset059 --threshold",
    },
    rarer={
        "pipeline": "report level num_workers tta_type mask threshold gpus",
        "predict": "level tta_type mask",
        "finalize": "num_workers mask",
    },
)
