"""What ``--help`` shows of every command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import Voxweft
from voxweft.cli.app import app
from voxweft.cli.front_ends import words_to_read
from voxweft.cli.help import dressed, examples


def names(command: Any, *above: str) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(above)
    for name, below in getattr(command, "commands", {}).items():
        yield from names(below, *above, name)


@pytest.fixture
def shown(capsys: Any, monkeypatch: Any) -> Any:
    command = dressed(typer.main.get_command(app))

    def show(*words: str) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        command.main(words, prog_name="voxweft", standalone_mode=False)
        return str(capsys.readouterr().out)

    return show


def test_help_begins_with_an_example_and_fits_a_screen(shown: Any) -> None:
    for name in names(typer.main.get_command(app)):
        text = shown(*name.split(), "--help")
        assert text.splitlines()[3].startswith(" Example: voxweft "), name
        assert "<bool>" not in text
        assert len(text.splitlines()) <= 54, name


def test_help_all_shows_the_rest_in_groups(shown: Any) -> None:
    few, all_of_them = shown("run", "-h"), shown("run", "--help-all")
    assert "--sigma-scale" not in few
    assert "--help-all" in few
    for word in ("--sigma-scale", "--chunk", "Storage", "Runtime"):
        assert word in all_of_them
    assert "INPUT_CONTRACT" in shown("ink", "run", "--help-all")


def test_examples_are_command_lines_of_their_commands() -> None:
    whole = typer.main.get_command(app)
    for name, line in examples().items():
        program, *words = words_to_read(line.split())
        command = whole
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        assert (program, command.name) == ("voxweft", name.split()[-1])
        command.make_context(name, words)


def test_completion_knows_options_that_help_hides_with_underscores_too(voxweft: Voxweft) -> None:
    asked = {"_VOXWEFT_COMPLETE": "complete_bash", "COMP_WORDS": "voxweft run --sigma_", "COMP_CWORD": "2"}
    assert voxweft("run", **asked).stdout.split() == ["--sigma-scale"]


def test_completion_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    line = f"{sys.executable} -m voxweft --install-completion; exit $?"
    done = subprocess.run(["bash", "-c", line], env={**os.environ, "HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0
    assert "_VOXWEFT_COMPLETE=complete_bash" in (tmp_path / ".bash_completions/voxweft.sh").read_text()
