"""Every error that voxweft raises on purpose.

    VoxweftError
    |-- RequestError        the request was wrong; nothing was written         exit code 2
    |   |-- GridError       a tiling that cannot be
    |   |-- VolumeError     an input that is missing, unreadable or no volume
    |   |-- ModelError      a model that is missing, unsafe or does not fit
    |   `-- PlanMismatchError  the output holds the work of another plan
    `-- RunError            the run began and could not be finished            exit code 1
        |-- ReadError       a chunk of the input that cannot be read
        |-- WriteError      the output could not be written (no space, no right)
        `-- IncompleteError slabs or parts that are missing

A message is one to three lines: what, with which value, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class VoxweftError(Exception):
    """Base of all; ``exit_code`` is what the command line returns.

    Parameters
    ----------
    *lines
        One sentence each.

    >>> RequestError("INPUT is missing", "OUTPUT is missing").exit_code, RunError("no answer").exit_code
    (2, 1)
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines: Sequence[str] = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class RequestError(VoxweftError):
    """The request was wrong and nothing was written; all problems of a request are reported at once."""

    exit_code = 2


class GridError(RequestError):
    """A tiling that cannot be, for example a window longer than its axis."""


class VolumeError(RequestError):
    """The input is missing, is no volume, or is of a kind that voxweft refuses."""


class ModelError(RequestError):
    """The model is missing, unsafe to load, or does not fit the input."""


class PlanMismatchError(RequestError):
    """The output holds the work of another plan."""


class RunError(VoxweftError):
    """The run began and could not be finished; a rerun continues it."""


class ReadError(RunError):
    """Part of the input cannot be read; the message names the chunk."""


class WriteError(RunError):
    """The output could not be written."""


class IncompleteError(RunError):
    """Slabs or parts are missing; the message names them."""
