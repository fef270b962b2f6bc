"""Words reach voxweft as they were given, whatever is in them, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from voxweft.errors import RequestError
from voxweft.launch.argo import Flow, Parameter, taken, workflow_template
from voxweft.launch.kubernetes import JobOptions, indexed_job
from voxweft.launch.pods import PodOptions, as_yaml, literal
from voxweft.launch.slurm import TASK, SlurmOptions, printed, script
from voxweft.launch.steps import PART, Step

ANYTHING = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
PIECES = (
    "$(touch TRACE)", "`touch TRACE`", "; touch TRACE;", "&& touch TRACE", "| touch TRACE", "> TRACE", "'", '"', "\\",
    "\n", "\r", "\t", "\x85", "\u2028", "\x1b[31m", "#", "#SBATCH --wrap", "END_OF_SCRIPT", "EOF", "{part}", "{{item}}",
    "{{=1}}", "$$", "$", "$(HOME)", "${HOME}", "$HOME", "%j", "!", "*", "?", "~", "- ", ": ", "&a", "*a", "---", "\xe9",
    "!!python/object", "\U0001f9f5", " ", "a", "",
)  # fmt: skip
MANY = 1000


def hostile(seed: int) -> list[list[str]]:
    """A thousand words of pieces that some program takes for its own, in argument lists of ten."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(PIECES, k=chance.randint(1, 4))) for _ in range(MANY)]
    return [words[n : n + 10] for n in range(0, MANY, 10)]


@settings(max_examples=40)
@given(st.lists(ANYTHING, max_size=5))
def test_a_batch_script_gives_its_words_to_the_program(words: Any) -> None:
    assert run_by_slurm(words, Path("/tmp")) == [*words, "2"]


def run_by_slurm(words: list[str], folder: Path) -> list[str]:
    """What a program is given by the script of a step."""
    text = script(Step("parts", (*words, PART), 3), SlurmOptions(), "/tmp", ("printf", r"%s\0"))
    env = {TASK.strip('"$'): "2", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-eu"], input=text.encode(), capture_output=True, env=env, check=True, cwd=folder)
    return done.stdout.decode().split("\0")[:-1]


def test_hostile_words_through_slurm(tmp_path: Path) -> None:
    for words in hostile(1):
        assert run_by_slurm(words, tmp_path) == [*words, "2"]
    assert [*tmp_path.iterdir()] == []


def test_what_dry_run_prints_holds_its_scripts(tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\ncat >> got\necho 7\n")
    sbatch.chmod(0o755)
    for words in hostile(2)[:20]:
        steps = [Step("prepare", tuple(words)), Step("parts", (*words, PART), 3)]
        scripts = [script(step, SlurmOptions(), "/tmp", ("voxweft",)) for step in steps]
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-eu", "-c", printed(steps, scripts, "logs")], cwd=tmp_path, env=env, check=True)
        assert (tmp_path / "got").read_bytes().decode() == "".join(scripts)
        (tmp_path / "got").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "sbatch"]


@pytest.mark.parametrize("name", ["partition", "account", "time", "memory", "log_dir"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x85b", "gpu\n#"])
def test_no_option_of_slurm_has_two_lines(name: str, value: str) -> None:
    with pytest.raises(RequestError, match="line break or control character"):
        SlurmOptions(**{name: value})


def expanded(word: str) -> str:
    """What Kubernetes makes of an argument."""
    return re.sub(r"\$\$|\$\([^)]*\)", lambda m: "$" if m[0] == "$$" else "EXPANDED", word)


@given(st.text())
def test_kubernetes_finds_no_variable_in_a_word(word: Any) -> None:
    assert expanded(literal(word)) == word


def test_hostile_words_through_kubernetes() -> None:
    for words in hostile(3):
        made = indexed_job("job", Step("parts", (*words, PART), 3), PodOptions(image="voxweft"), JobOptions())
        text = "# a note\n" + as_yaml(made)
        assert text.isascii()
        (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
        assert [expanded(a) for a in container["args"][:-1]] == words
        assert container["args"][-1] == "$(JOB_COMPLETION_INDEX)"


def test_hostile_words_through_argo() -> None:
    for words in hostile(4):
        parameters = [Parameter(f"p{n}", literal(word), "") for n, word in enumerate(words)]
        step = Step("parts", (*(taken(p.name) for p in parameters), PART), 3)
        flow = Flow("flow", [step], parameters, {}, ("", {}), {}, ("result", "p0"))
        spec = yaml.safe_load(as_yaml(workflow_template(flow, PodOptions(image="voxweft"), "amd64")))["spec"]
        values = {p["name"]: p["value"] for p in spec["arguments"]["parameters"]}
        (container,) = (t["container"] for t in spec["templates"] if t["name"] == "parts")
        arguments = [values[re.fullmatch(r"\{\{inputs\.parameters\.(p\d+)\}\}", a)[1]] for a in container["args"][:-1]]
        assert [expanded(a) for a in arguments] == words


@pytest.mark.parametrize("field", ["image", "namespace", "service_account"])
def test_no_option_of_a_pod_has_two_lines(field: str) -> None:
    with pytest.raises(RequestError, match="line break"):
        PodOptions(**{"image": "voxweft", field: "a\nb"})


def test_a_word_that_looks_like_the_number_of_a_part_is_a_word() -> None:
    step = Step("parts", ("run", "{part}", PART), 2)
    assert shlex.split(step.shell("7")) == ["voxweft", "run", "{part}", "7"]
    assert json.dumps([*step.arguments]) == '["run", "{part}", "{part}"]'
