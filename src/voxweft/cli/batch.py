"""The commands of medical images: batch, with the names that users of itk_infer and nnU-Net know."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voxweft.apps.medical.options import BatchExecution, MedicalOptions
from voxweft.cli.flags import with_options
from voxweft.cli.front_end import Division, FrontEnd
from voxweft.cli.show import LogJson, Quiet, Verbose, command_line, say
from voxweft.errors import RequestError, plain

app = typer.Typer()

SIZES = ("--patch-size", "--patch-stride")
FOLDS = ("-f", "--folds")
NNUNET_NAMES: Mapping[str, str] = {
    "-step_size": "--step-size",
    "-num_parts": "--num-parts",
    "-part_id": "--part-id",
    "-device": "--device",
    "-npp": "--num-proc",
    "--c": "--continue-prediction",
    "--disable-progress-bar": "--quiet",
}
WITHOUT_MEANING = {"-nps": 1, "-prev_stage_predictions": 1, "--not-on-device": 0}  # and how many words follow
BY_NAME = {"-d": "", "-tr": "nnUNetTrainer", "-p": "nnUNetPlans", "-c": ""}
SHOWN = 12  # cases of the table that a terminal gets
Source = Annotated[str, typer.Option("--input-folder", "-i", help="Folder with images, one image, or DICOM series.")]
Target = Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")]


def words(arguments: list[str]) -> list[str]:
    """``itk_infer`` and ``nnunet predict`` are ``batch``; three integers after a size, or folds, are one word.

    >>> words(["itk_infer", "--patch-size", "96", "96", "96", "--fp16"])
    ['batch', '--patch-size', '96,96,96', '--fp16']
    >>> words(["nnunet", "predict", "-m", "model", "-f", "0", "1", "-npp", "2"])
    ['batch', '-m', 'model', '-f', '0,1', '--num-proc', '2', '--backend', 'nnunet']
    """
    is_nnunet = arguments[:2] == ["nnunet", "predict"]
    if arguments[:1] not in (["batch"], ["itk_infer"]) and not is_nnunet:
        return arguments
    rest, found, named = arguments[2 if is_nnunet else 1 :], ["batch"], dict[str, str]()
    while rest:
        word, *rest = rest
        if is_nnunet and word in WITHOUT_MEANING:
            rest = rest[WITHOUT_MEANING[word] :]
        elif is_nnunet and word in BY_NAME and rest:
            named[word], *rest = rest
        elif word in (*SIZES, *FOLDS):
            n = next((n for n, w in enumerate(rest) if not (w.isdigit() or (w == "all" and word in FOLDS))), len(rest))
            found += [word, ",".join(rest[:n])] if n else [word]
            rest = rest[n:]
        else:
            found.append(NNUNET_NAMES.get(word, word) if is_nnunet else word)
    model = ["-m", _model_folder(named)] if named else []
    return (
        [*found, *model, "--backend", "nnunet"] if is_nnunet and "-h" not in found and "--help" not in found else found
    )


def _model_folder(named: Mapping[str, str]) -> str:
    """Where nnU-Net keeps a model: ``$nnUNet_results/DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION``."""
    results = os.environ.get("nnUNet_results")  # noqa: SIM112 - its name
    if not results or not {"-d", "-c"} <= set(named):
        raise RequestError(
            "-d and -c belong together and need the environment variable nnUNet_results; or give -m FOLDER"
        )
    dataset = named["-d"]
    folders = sorted(Path(results).glob(f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset))
    if len(folders) != 1:
        raise RequestError(f"-d {dataset}: {len(folders)} data sets of that name lie in {results}")
    trainer, plans = (named.get(key, BY_NAME[key]) for key in ("-tr", "-p"))
    return str(folders[0] / f"{trainer}__{plans}__{named['-c']}")


def _run(
    source: str, target: str, options: MedicalOptions, execution: BatchExecution, quiet: bool, log_json: str
) -> None:
    from dataclasses import replace

    from voxweft.apps.medical import batch as job
    from voxweft.cli.progress import Listener
    from voxweft.viewer.batch_page import save_batch_page

    execution = replace(execution, command=command_line())
    with Listener(quiet, log_json) as listen:
        result = job(source, target, options, execution=execution, emit=listen)
    page = save_batch_page(result)
    if not quiet:
        _show(result, page)
    failed = [case for case in result.cases if case.status == "failed"]
    for case in failed[:SHOWN] if quiet else ():  # else it was said at once
        say(f"voxweft: {case.case}: {case.message}", file=sys.stderr)
    if failed:
        more = f" ({len(failed) - SHOWN} more are in the summary)" if len(failed) > SHOWN else ""
        say(
            f"voxweft: {len(failed)} of {len(result.cases)} cases failed{more}; the same command tries them again",
            sys.stderr,
        )
        raise typer.Exit(1)


def _show(result: Any, page: str) -> None:
    """The cases as a table, and where to read more."""
    rows = [case for case in result.cases if case.status in ("done", "failed")]
    skipped = sum(case.status == "skipped" for case in result.cases)
    if rows:
        table = Table("case", "status", "seconds", "labels, ml", "confidence")
        for case in rows[:SHOWN]:
            labels = case.facts.get("labels", {})
            ml = ", ".join(f"{name} {fact['volume_ml']:g}" for name, fact in labels.items() if fact["voxels"])
            sure = case.facts.get("confidence")
            table.add_row(
                plain(case.case), case.status, f"{case.seconds:.1f}", plain(ml[:60]), f"{sure:.3f}" if sure else ""
            )
        Console().print(table)
    if len(rows) > SHOWN:
        say(f"and {len(rows) - SHOWN} more")
    if skipped:
        say(
            f"{skipped} finished before and left as they are"
            if rows
            else f"No new files to process: {skipped} are finished"
        )
    say(f"summary: {result.output}/summary.csv")
    say(f"report: {page}")


@app.command("batch")
@with_options(MedicalOptions, BatchExecution)
def batch(
    source: Source,
    target: Target,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = "",
    medicaloptions: Any = None,
    batchexecution: Any = None,
) -> None:
    """Segment a folder of medical images (all options of itk_infer).

    Run the same command again to continue: finished cases are left as they are.
    """
    _run(source, target, medicaloptions, batchexecution, quiet, log_json)


FRONT_END = FrontEnd(
    app,
    divisions={
        "batch": Division({"source": "-i", "target": "-o"}),
        "nnunet predict": Division({"source": "-i", "target": "-o"}),
    },
    reads=words,
    examples={
        "batch": "voxweft batch -i images -o labels -m Dataset027_Heart --preview",
    },
    rarer={
        "batch": "uncertainty tta",
    },
)
