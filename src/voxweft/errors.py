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

LONGEST_LINE = 200  # characters of what a library says


class VoxweftError(Exception):
    """Base of all; ``exit_code`` is what the command line returns.

    Parameters
    ----------
    *lines
        One sentence each.

    Examples
    --------
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


def first_line(error: BaseException) -> str:
    r"""What an error of a library says, cut to a line; its name where it says nothing.

    >>> first_line(ValueError("bad header\nat 7\n")), first_line(EOFError())
    ('bad header', 'EOFError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if isinstance(error, VoxweftError) else lines[0][:LONGEST_LINE]


def plain(text: str) -> str:
    r"""Text of files and names for a terminal: what would move its cursor, ring or colour is spelled out.

    >>> plain("slab 1, \x1b[31mred")
    'slab 1, \\x1b[31mred'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def write_error(what: str, error: OSError) -> WriteError:
    """A full disk or a missing right in words."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(
            f"no space is left on the device for {what}. Free some and run the same command again: "
            "finished slabs are kept."
        )
    return WriteError(f"{what} cannot be written: {error.strerror or error}")
