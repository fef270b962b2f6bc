"""What a front end tells the command line of itself, and how its commands are divided for a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from voxweft.cli.command import Command, Given
from voxweft.errors import RequestError
from voxweft.launch.steps import PART, Step
from voxweft.model.card import ModelCard

SET_HERE = {"part_id": "--part-id", "executor": "--executor", "scheduler": "--scheduler", "prepare": "--prepare"}
TOKEN = "--hf-token would stand in the script for all to read; set HF_TOKEN (on Kubernetes: --secret NAME)"
ESTIMATE = "--estimate computes nothing that could be divided"


@dataclass(frozen=True, slots=True)
class Look:
    """A shell line that looks at the model before all else, and the environment variables that it needs."""

    line: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workflow:
    """How a workflow engine wants steps to be written.

    Attributes
    ----------
    number
        The number of parts.
    in_variables
        Names of parameters that steps get by environment variables, and not by options.
    taken
        How a step takes what an earlier one found out, by its name; None: it is known now.
    """

    number: str
    in_variables: tuple[str, ...] = ()
    taken: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Division:
    """How a command is divided: prepare -> parts 0 to N - 1 -> reduce.

    A front end whose command is divided otherwise overrides the methods.

    Attributes
    ----------
    needed
        Parameters without a default, and what they are called.
    output
        The parameter that names the OME-Zarr which all parts write to; "" where there is none.
    prepares
        Whether the command has ``--prepare``, which stores the plan before the parts begin.
    reduces
        Whether the command, run once more after its parts, completes OUTPUT; then OUTPUT must be complete in the end.
    undivided
        Options that a divided command cannot have, and why.
    """

    needed: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    prepares: bool = False
    reduces: bool = False
    undivided: Mapping[str, str] = field(default_factory=dict)
    fewest_parts: int = 1

    def placed(self, given: dict[str, Given]) -> dict[str, Given]:
        """What was given, with positional words in their places."""
        return given

    def problems(self, name: str, given: Mapping[str, Given]) -> list[str]:
        """What is wrong with it beside what holds for all."""
        return []

    def has_first_step(self, name: str, given: Mapping[str, Given]) -> bool:
        """Whether a step comes before the parts that may delete what an earlier run left."""
        return self.prepares

    def url(self, command: Command) -> str:
        """The OME-Zarr that all parts write to; "" where there is none of its own."""
        return command.text(self.output) if self.output else ""

    def steps(self, command: Command, n_parts: int, workflow: Workflow | None = None) -> list[Step]:
        """The steps of a command that is :func:`ready`.

        Parameters
        ----------
        command, n_parts
            What is divided, and into how many parts.
        workflow
            How a workflow engine wants them; None: everything is known now.
        """
        workflow = workflow or Workflow(str(n_parts))
        of = ("--num-parts", workflow.number)
        words = command.line("num_parts", "overwrite", *workflow.in_variables)
        overwrite = ("--overwrite",) * ("overwrite" in command.given)
        parts = Step("parts", (*words, *of, "--part-id", PART), n_parts)
        # the plan of a part may depend on how many there are; where the parts are only reduced in the end, it does not
        counted = () if self.reduces else of
        first = [Step("prepare", (*words, *counted, *overwrite, "--prepare"))] if self.prepares else []
        return [*first, parts, *([Step("reduce", words)] if self.reduces else [])]

    def in_one_job(self, command: Command) -> str:
        """Why the parts cannot be a job by themselves; "" where they can."""
        return ""

    def variables(self, names: Mapping[str, str], taken: Callable[[str], str]) -> dict[str, str]:
        """Environment variables that take the place of options in a workflow; ``names``: the labels of parameters."""
        return {}

    def look(self, command: Command, variables: Mapping[str, str]) -> Look:
        """How to look at the model before the first step."""
        model = command.text("model") or command.text("model_path")
        return Look('voxweft info --as-model "$MODEL"', {"MODEL": model}) if model else Look()

    def notes(self, command: Command) -> dict[str, tuple[str, str]]:
        """What a step leaves in a file for others, by the name of the step: the name of the output and the file."""
        return {}

    def result(self, names: Mapping[str, str]) -> tuple[str, str]:
        """The output of a workflow: its name, and the step whose note it is, or else the parameter."""
        target = next(n for n in ("target", "output", "output_dir", "output_path", "source", "model") if n in names)
        return "output", names[target]


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """A record of the table of front ends.

    Attributes
    ----------
    app
        Its commands.
    name, panel
        What comes before its commands, as in ``voxweft ink run``, and their title in the help; "" for commands that
        stand by themselves.
    divisions
        How its commands are divided for a cluster, by their full names.
    reads
        What becomes of the words of a command line before they are read.
    find_card
        The card of a model that only this front end can load, from a path and the options of ``voxweft info``; None
        where it is not asked for.
    examples
        A command line for each of its commands, by their full names; the first line of their help.
    rarer
        Options that are common elsewhere but stand under ``--help-all`` here, by the first word of a command's name.
    """

    app: typer.Typer
    name: str = ""
    panel: str = ""
    divisions: Mapping[str, Division] = field(default_factory=dict)
    reads: Callable[[list[str]], list[str]] = lambda words: words
    find_card: Callable[[str, Mapping[str, Any]], ModelCard | None] = lambda _path, _options: None
    examples: Mapping[str, str] = field(default_factory=dict)
    rarer: Mapping[str, str] = field(default_factory=dict)


def ready(command: Command, n_parts: int, divisions: Mapping[str, Division]) -> tuple[Command, int, Division]:
    """COMMAND with its positional words in their places, the number of its parts, and how it is divided.

    Raises
    ------
    RequestError
        If it cannot be divided; all reasons are named at once.
    """
    division = divisions.get(command.name)
    if division is None:
        raise RequestError(f"voxweft {command.name} has no parts; submit {', '.join(divisions)}")
    given, problems = {**command.given}, []
    problems += [f"COMMAND has {flag}: leave it out, submit sets it" for n, flag in SET_HERE.items() if n in given]
    undivided = {"estimate": ESTIMATE, **division.undivided, "hf_token": TOKEN}
    asked = {n: why for n, why in undivided.items() if n in given and given[n].asked}
    problems += [f"COMMAND: {why}" for why in asked.values()]
    given.pop("hf_token", None)  # stays in the environment
    given = division.placed(given)
    problems += division.problems(command.name, given)
    if "overwrite" in given and not division.has_first_step(command.name, given):
        problems.append("COMMAND: --overwrite would delete what other parts wrote; delete the old output yourself")
    needed = {"source": "OUTPUT"} if "plan" in given else division.needed
    problems += [f"COMMAND: {label} is missing" for name, label in needed.items() if name not in given]
    if "num_parts" in given:
        n_parts = int(given["num_parts"].value)
    if n_parts < division.fewest_parts:
        problems.append(f"--num-parts {n_parts} divides nothing")
    if problems:
        raise RequestError(*problems[:3])
    return Command(command.name, given), n_parts, division


def first_and_after(steps: Sequence[Step]) -> tuple[list[Step], Step, list[Step]]:
    """The steps before the parts, the parts, and those after them."""
    at = next(n for n, step in enumerate(steps) if step.n_parts)
    return [*steps[:at]], steps[at], [*steps[at + 1 :]]
