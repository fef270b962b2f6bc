"""A command line in steps: what a scheduler runs one after the other, or as many tasks at once."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields

from voxweft.errors import RequestError, RunError


class PartNumber(str):
    """Where a step takes the number of its part; no word of a user is one, whatever it says."""

    __slots__ = ()


PART = PartNumber("{part}")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job.

        prepare -> parts 0 .. N-1, in any order and number at once -> reduce

    Attributes
    ----------
    name
        "prepare", "parts", "reduce", ...
    arguments
        The words after ``voxweft``, without any quoting; ``PART`` stands for the number of the part.
    n_parts
        0: a single task.
    on_gpu
        Whether it runs the network, or must be where the network will run, so that it needs the GPU of the parts.
    """

    name: str
    arguments: tuple[str, ...]
    n_parts: int = 0
    on_gpu: bool = True

    def shell(self, part: str = "", program: Sequence[str] = ("voxweft",)) -> str:
        """The step as a line of shell; ``part`` is put in as it is.

        >>> print(Step("parts", ("run", "a b.zarr", "--part-id", PART), 2).shell('"$I"'))
        voxweft run 'a b.zarr' --part-id "$I"
        """
        return " ".join(part if isinstance(w, PartNumber) else shlex.quote(w) for w in (*program, *self.arguments))


def unprintable(options: object) -> list[str]:
    """Options whose values hold line breaks or other control characters, which no directive or manifest can hold."""
    found = []
    for one in fields(options):  # type: ignore[arg-type]
        values = getattr(options, one.name)
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, str) and not value.isprintable():
                found.append(f"--{one.name.replace('_', '-')} {value!r} holds a line break or control character")
    return found


def require(program: str) -> None:
    """Refuse to go on without a program of a scheduler.

    Raises
    ------
    RequestError
        If it is not installed.
    """
    if not shutil.which(program):
        raise RequestError(f"{program} is not on this machine; --dry-run prints what it would be given")


def call(words: Sequence[str], text: str = "") -> str:
    """Run a program of a scheduler with a text on its standard input; what it prints.

    Raises
    ------
    RequestError
        If the program is not installed.
    RunError
        If it refuses, in its own words.
    """
    require(words[0])
    done = subprocess.run([*words], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise RunError(f"{words[0]} refused: {' '.join(lines[:3])[:600]}")
    return done.stdout
