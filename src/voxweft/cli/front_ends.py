"""The table of front ends: a line each."""

from __future__ import annotations

import functools
from importlib import import_module

from voxweft.cli.front_end import Division, FrontEnd

MODULES = [
    "voxweft.cli.run",
    "voxweft.cli.scroll",
    "voxweft.cli.ink",
    "voxweft.cli.batch",
    "voxweft.cli.panoptic",
    "voxweft.cli.particles",
    "voxweft.cli.label",
    "voxweft.cli.view",
    "voxweft.cli.serve",
    "voxweft.cli.export",
    "voxweft.cli.models",
    "voxweft.cli.doctor",
]
"""Each has a ``FRONT_END``."""


@functools.cache
def front_ends() -> tuple[FrontEnd, ...]:
    """All front ends, in the order of the table."""
    return tuple(import_module(module).FRONT_END for module in MODULES)


def divisions() -> dict[str, Division]:
    """How commands are divided, by their full names."""
    return {name: division for front_end in front_ends() for name, division in front_end.divisions.items()}


def words_to_read(words: list[str]) -> list[str]:
    """A command line as the front ends want it to be read."""
    for front_end in front_ends():
        words = front_end.reads(words)
    return words
