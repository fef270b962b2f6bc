"""COMMAND of ``voxweft submit``: what becomes of its words, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from voxweft.apps.scroll.options import PartOptions
from voxweft.cli.app import execute
from voxweft.cli.command import read
from voxweft.cli.front_end import ready
from voxweft.cli.front_ends import divisions
from voxweft.errors import RequestError
from voxweft.launch.steps import PART

SHARE = ("--num-parts", "4", "--part-id", PART)
RUN = ["run", "in.zarr", "o.zarr", "--model", "m"]
INK = ["--model", "demo-ink", "--start-layer", "0", "--end-layer", "5"]
DIR = ["--zarr-output-dir", "shared"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "S3_PATH", "START_LAYER", "END_LAYER", "ZARR_OUTPUT_DIR", "NUM_PARTS", "PART_ID", "STEP"):
        monkeypatch.delenv(name, raising=False)


def steps(*words: str, n_parts: int = 4) -> dict[str, tuple[str, ...]]:
    command, n_parts, division = ready(read([*words]), n_parts, divisions())
    return {s.name: s.arguments for s in division.steps(command, n_parts)}


def test_steps_of_a_run() -> None:
    words = (*RUN, "--no-pyramid", "--overlap", "0.25")
    made = steps("voxweft", *words[:3], "--overwrite", *words[3:])
    expected = {*words}
    assert [*made] == ["prepare", "parts", "reduce"]
    assert {*made["reduce"]} == expected
    assert {*made["prepare"]} == expected | {"--overwrite", "--prepare"}
    assert made["parts"][-4:] == SHARE
    assert {*made["parts"][:-4]} == expected
    assert steps(*RUN, "--num-parts", "6")["parts"][-3:] == ("6", "--part-id", PART)
    assert steps("run", "--plan", "a.zarr", "b.zarr")["parts"] == ("run", "b.zarr", "--plan", "a.zarr", *SHARE)


def test_steps_of_the_stages() -> None:
    PartOptions(num_parts=4, overwrite=True, prepare=True)
    with pytest.raises(RequestError):
        PartOptions(num_parts=4, overwrite=True)
    made = steps("predict", "--output-dir", "p", "--model-path", "m", "--input-dir", "v", "--overwrite")
    assert [*made] == ["prepare", "parts"]
    assert made["prepare"][-4:] == ("--num-parts", "4", "--overwrite", "--prepare")
    assert steps("blend_logits", "p", "o.zarr") == {"parts": ("blend", "p", "o.zarr", *SHARE)}
    assert [*steps("finalize", "m.zarr", "o.zarr")] == ["parts"]
    assert steps("inference_pipeline", "--output", "o.zarr", "-m", "x")["reduce"][0] == "pipeline"


def test_steps_of_ink_get_what_each_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZARR_OUTPUT_DIR", "s3://b/parts")
    monkeypatch.setenv("HF_TOKEN", "secret")
    words = ["ink", "run", "seg", "out.png", *INK, "--stride", "8", "--level", "1"]
    made = steps(*words)
    assert [*made] == ["prepare", "infer", "reduce"]
    at = made["prepare"][made["prepare"].index("--surface-volume-zarr") + 1]
    assert at.startswith("s3://b/parts/surface_00_05-")
    for name, arguments in made.items():
        assert at in arguments, name
        assert "s3://b/parts" in arguments
        assert arguments[:2] == ("ink", name)
        assert ("--stride" in arguments) == (name == "infer")
        assert ("--model" in arguments) == (name != "prepare")
        assert "secret" not in str(arguments)
    assert [*steps("ink", "run", "v.zarr", *INK)] == ["infer", "reduce"]
    made = steps("ink", "run", "seg", "--model", "demo-ink", "--direction", "both", "--windows", "3")
    assert made["prepare"][made["prepare"].index("--surface-volume-zarr") + 1].startswith("s3://b/parts/surface_all-")
    assert [name for name, words in made.items() if "--windows" in words] == ["infer"]
    assert "both" in made["reduce"], "both pictures are joined"
    monkeypatch.setenv("S3_PATH", "seg")
    assert [*steps("ink", *INK)] == ["infer", "reduce"], "bare voxweft ink obeys STEP"


REFUSED = [
    ([], "COMMAND"),
    (["demo"], "voxweft demo has no parts"),
    (["ink", "reduce", *INK], "voxweft ink reduce has no parts"),
    (["rum", "a", "b"], "no command 'rum'"),
    (["ink", "find"], "no command 'ink find'"),
    ([*RUN, "--part-id", "0", "--num-parts", "2"], "--part-id: leave it out"),
    ([*RUN, "--executor", "processes"], "--executor: leave it out"),
    ([*RUN, "--prepare"], "--prepare: leave it out"),
    ([*RUN, "--colour", "red"], "--colour"),
    ([*RUN, "--overlap", "2"], "--overlap 2.0 is not a fraction"),
    ([*RUN, "--overlap", "much"], "--overlap"),
    ([*RUN[:3]], "--model is missing"),
    (["run"], "INPUT is missing"),
    ([*RUN, "--num-parts", "-3"], "-3"),
    (["pipeline", "--output", "o.zarr", "-m", "x", "--staged"], "--staged"),
    (["pipeline", "--output", "o.zarr", "-m", "x", "--compat", "vesuvius-0.2.4"], "--compat"),
    (["predict", "--output-dir", "p", "-m", "x", "--estimate"], "--estimate computes nothing"),
    (["predict", "--output-dir", "p", "-m", "hf://o/r", "--hf-token", "hush"], "set HF_TOKEN"),
    (["blend", "p", "o.zarr", "--overwrite"], "--overwrite would delete"),
    (["blend", "p"], "OUTPUT"),
    (["ink", "run", "seg", *INK], "ZARR_OUTPUT_DIR is missing"),
    (["ink", "run", *INK, *DIR], "S3_PATH is missing"),
    (["ink", "run", "seg", *DIR], "MODEL is missing"),
    (["ink", "run", "seg", *INK, *DIR, "--num-parts", "1"], "--num-parts 1 divides nothing"),
    (["ink", "infer", "v.zarr", *INK, *DIR, "--overwrite"], "--overwrite would delete"),
    (["ink", "run", "v.zarr", *INK, *DIR, "--overwrite"], "--overwrite would delete"),
    (["run", "--plan", "a.zarr"], "OUTPUT is missing"),
    (["ink", "run", "seg", "o.jpg", *INK, *DIR], "o.jpg"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_each_bad_command_gets_one_message(words: Any, message: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["submit", "slurm", "--dry-run", "--", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert 1 <= told.err.count("\n") <= 3
    assert told.out == ""
    assert "hush" not in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm", "--num-parts", "0", "--", *RUN], "--num-parts 0 is below 1"),
        (["slurm", "--name", "a b", "--", *RUN], "--name 'a b'"),
        (["slurm", "--gpus", "two", "--", *RUN], "--gpus"),
        (["kubernetes", "--", *RUN], "--image is missing"),
        (["kubernetes", "--image", "i", "--memory", "lots", "--", *RUN], "--memory 'lots'"),
        (["kubernetes", "--image", "i", "--claim", "data", "--", *RUN], "write NAME=/mount/path"),
        (["kubernetes", "--image", "i", "--claim", "data=data", "--", *RUN], "write NAME=/mount/path"),
        (["kubernetes", "--image", "i", "--env", "A", "--", *RUN], "write NAME=VALUE"),
        (["kubernetes", "--image", "i", "--name", "Big_Job", "--", *RUN], "--name 'Big_Job'"),
        (["kubernetes", "--image", "i", "--", "ink", "run", "seg", *INK, *DIR], "voxweft submit argo"),
        (["argo", "--image", "i", "--", *RUN[:1], "{{x}}", *RUN[2:]], "read as a variable"),
    ],
)
def test_each_bad_option_gets_one_message(words: Any, message: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["submit", words[0], "--dry-run", *words[1:]]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert 1 <= told.err.count("\n") <= 3
    assert told.out == ""


def test_the_command_needs_no_dashes_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["submit", "slurm", "--dry-run", *RUN]) == 0
    bare = capsys.readouterr().out
    assert execute(["submit", "slurm", "--dry-run", "--", *RUN]) == 0
    assert capsys.readouterr().out == bare


def test_all_reasons_are_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        ready(read(["run", "in.zarr", "--executor", "serial"]), 2, divisions())
    assert len(caught.value.lines) == 3
