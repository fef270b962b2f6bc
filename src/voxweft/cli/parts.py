"""COMMAND in steps: what comes before its parts, the parts, and what comes after."""

from __future__ import annotations

from collections.abc import Mapping

from voxweft.apps.ink.names import prepared_at
from voxweft.apps.ink.options import InkPartOptions, LayerOptions, PictureOptions
from voxweft.cli.command import Command, Given, knows, line
from voxweft.errors import RequestError
from voxweft.launch.steps import PART, Step

NEEDED = {
    "run": {"source": "INPUT", "target": "OUTPUT", "model": "--model"},
    "predict": {"output_dir": "--output-dir", "model_path": "--model-path"},
    "pipeline": {"output": "--output", "model_path": "--model-path"},
    "blend": {},
    "finalize": {},
    "ink run": {"model": "MODEL", "start_layer": "START_LAYER", "end_layer": "END_LAYER"},
    "ink infer": {"model": "MODEL", "start_layer": "START_LAYER", "end_layer": "END_LAYER"},
}
PREPARED = ("run", "predict", "pipeline")
OUTPUT = {"run": "target", "predict": "output_dir", "pipeline": "output"}
LEAST_PARTS_OF_INK = 2  # one part is no part: voxweft ink infer makes the picture at once
WHOLE = ("run", "pipeline")  # their OUTPUT must be complete in the end
SET_HERE = {"part_id": "--part-id", "executor": "--executor", "scheduler": "--scheduler", "prepare": "--prepare"}
UNDIVIDED = {
    "estimate": "--estimate computes nothing that could be divided",
    "staged": "--staged: submit voxweft predict, blend and finalize, one after the other",
    "hf_token": "--hf-token would stand in the script for all to read; set HF_TOKEN (on Kubernetes: --secret NAME)",
}
SHARED_DIR = (
    "ZARR_OUTPUT_DIR is missing: unfinished results would lie in /tmp of each node; "
    "give --zarr-output-dir, a folder that all nodes share, or s3://"
)


def ready(command: Command, n_parts: int) -> tuple[Command, int]:
    """COMMAND with its positional words in their places, and the number of its parts.

    Raises
    ------
    RequestError
        If it cannot be divided; all reasons are named at once.
    """
    if command.name not in NEEDED:
        raise RequestError(f"voxweft {command.name} has no parts; submit {', '.join(NEEDED)}")
    given, problems = {**command.given}, []
    problems += [f"COMMAND has {flag}: leave it out, submit sets it" for n, flag in SET_HERE.items() if n in given]
    asked = {n: why for n, why in UNDIVIDED.items() if n in given and given[n].asked}
    problems += [f"COMMAND: {why}" for why in asked.values()]
    given.pop("hf_token", None)  # stays in the environment
    if command.name == "pipeline" and "compat" in given:
        problems.append("COMMAND: --compat runs the stages one by one; submit voxweft predict, blend and finalize")
    if command.name.startswith("ink"):
        given = _placed(given)
        problems += _ink_problems(command.name, given)
    if "overwrite" in given and not (command.name in PREPARED or prepares(command.name, given)):
        problems.append("COMMAND: --overwrite would delete what other parts wrote; delete the old output yourself")
    needed = {"source": "OUTPUT"} if "plan" in given else NEEDED[command.name]
    problems += [f"COMMAND: {label} is missing" for name, label in needed.items() if name not in given]
    if "num_parts" in given:
        n_parts = int(given["num_parts"].value)
    if n_parts < (LEAST_PARTS_OF_INK if command.name.startswith("ink") else 1):
        problems.append(f"--num-parts {n_parts} divides nothing")
    if problems:
        raise RequestError(*problems[:3])
    return Command(command.name, given), n_parts


def _placed(given: dict[str, Given]) -> dict[str, Given]:
    """What voxweft ink was given with INPUT and OUTPUT as options."""
    options = {n: g for n, g in given.items() if n not in ("source", "target")}
    if "target" in given:
        options["output_path"] = Given("output_path", "--output-path", given["target"].value, "PNG, TIFF or .zarr.")
    if "source" in given:
        source = given["source"].value
        kind = "surface_volume_zarr" if _is_zarr(source) else "s3_path"
        options.pop("surface_volume_zarr", None)
        options[kind] = Given(kind, "--" + kind.replace("_", "-"), source, "What ink is looked for in.")
    return options


def _ink_problems(name: str, given: Mapping[str, Given]) -> list[str]:
    problems = []
    if not {"s3_path", "surface_volume_zarr"} & set(given):
        problems.append("COMMAND: S3_PATH is missing: set it, or give the segment as INPUT")
    picture = PictureOptions(output_path=given["output_path"].value if "output_path" in given else "")
    prepared = "surface_volume_zarr" in given or not prepares(name, given)
    if "zarr_output_dir" not in given and not (_is_zarr(picture.output_path) and prepared):
        problems.append(SHARED_DIR)
    return problems


def prepares(name: str, given: Mapping[str, Given]) -> bool:
    """Whether a surface volume is made first."""
    return name == "ink run" and "s3_path" in given and not _is_zarr(given["s3_path"].value)


def _is_zarr(url: str) -> bool:
    return url.rstrip("/").endswith(".zarr")


def output_of(command: Command) -> str:
    """The OME-Zarr that all parts write to; "" where there is none of its own."""
    if command.name == "predict":
        return ""
    if command.name.startswith("ink"):
        return command.text("output_path") if _is_zarr(command.text("output_path")) else ""
    return command.text(OUTPUT.get(command.name, "output_path")) or command.text("source")  # run --plan OLD OUTPUT


def surface_of(command: Command) -> str:
    """Where the surface volume of ``ink run`` is made."""
    layers = LayerOptions(
        s3_path=command.text("s3_path"),
        surface_volume_zarr=command.text("surface_volume_zarr"),
        start_layer=int(command.text("start_layer")),
        end_layer=int(command.text("end_layer")),
    )
    return prepared_at(layers, InkPartOptions(zarr_output_dir=command.text("zarr_output_dir")))


def steps_of(command: Command, n_parts: int, number: str = "", surface: tuple[str, str] = ("", "")) -> list[Step]:
    """The steps of a command that is :func:`ready`.

    Parameters
    ----------
    command, n_parts
        What is divided, and into how many parts.
    number
        How ``n_parts`` is written; default: as a number.
    surface
        Where ``ink prepare`` is told to make the surface volume ("": where it likes), and what the steps after it are
        told; ("", ""): there is nothing to prepare.
    """
    of = ("--num-parts", number or str(n_parts))
    share, overwrite = (*of, "--part-id", PART), ("--overwrite",) * ("overwrite" in command.given)
    if command.name.startswith("ink"):
        return _ink_steps(command, (share, n_parts), overwrite, surface)
    words = command.line("num_parts", "overwrite")
    parts = Step("parts", (*words, *share), n_parts)
    match command.name:
        case "run" | "pipeline":
            return [Step("prepare", (*words, *overwrite, "--prepare")), parts, Step("reduce", words)]
        case "predict":
            return [Step("prepare", (*words, *of, *overwrite, "--prepare")), parts]
    return [parts]


def _ink_steps(
    command: Command, share: tuple[tuple[str, ...], int], overwrite: tuple[str, ...], surface: tuple[str, str]
) -> list[Step]:
    given = {n: g for n, g in command.given.items() if n not in ("num_parts", "overwrite")}

    def words(name: str, at: str) -> tuple[str, ...]:
        known = {n: g for n, g in given.items() if n in knows(name)}
        if at:
            known["surface_volume_zarr"] = Given("surface_volume_zarr", "--surface-volume-zarr", at)
        return line(name, known.values())

    first = [Step("prepare", (*words("ink prepare", surface[0]), *overwrite), on_gpu=False)] if surface[1] else []
    infer = Step("infer", (*words("ink infer", surface[1]), *share[0]), share[1])
    return [*first, infer, Step("reduce", words("ink reduce", surface[1]), on_gpu=False)]
