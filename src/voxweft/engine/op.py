"""Operations of stages by name: plain functions that a plan can name and every worker can find.

A plan may come from a file, and a name in a file must not choose what code runs: :func:`find_op` gives nothing but
functions that were marked as operations, of modules that voxweft brings or that the program has imported itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.model.frozen import FrozenDict

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__voxweft_op__"
Table = Mapping[str, NDArray[Any]]
"""A handful of small arrays by name: objects, never voxels."""


def joined(tables: Sequence[Table]) -> Table:
    """Tables of one kind as one, along their first axis; nothing where there is none."""
    if len(tables) < 2:
        return tables[0] if tables else {}
    return {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}


@dataclass(frozen=True, slots=True)
class Op:
    """A function by its name, ``package.module:function``, and the arguments it is called with (plain JSON values)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", FrozenDict(self.arguments))

    @classmethod
    def of(cls, function: Callable[..., Any], **arguments: Any) -> Op:
        """The operation that a function is."""
        return cls(f"{function.__module__}:{function.__qualname__}", arguments)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is computed by one call of a block operation.

    Attributes
    ----------
    box
        The voxels to be made.
    reads
        Of each source, the box that was read: with its halo, and clipped where the source ends.
    """

    box: Box
    reads: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What an operation gives back: an array [C, Z, Y, X] an output, and a table."""

    arrays: tuple[NDArray[Any], ...] = ()
    table: Table = field(default_factory=dict)


def block_op(function: F) -> F:
    """Mark ``function(sources, cell, **arguments) -> Made``.

    ``sources`` holds of each source the voxels [C, Z, Y, X] of ``cell.reads``, or None where nothing is stored there.
    Tables of the cells of one block are joined along their first axis.
    """
    setattr(function, MARK, "block")
    return function


def slice_op(function: F) -> F:
    """Mark ``function(first, n_slices, shape_yx, **arguments) -> SliceOp``; see :mod:`voxweft.engine.slices`."""
    setattr(function, MARK, "slice")
    return function


def gather_op(function: F) -> F:
    """Mark ``function(gathered, **arguments) -> Made``; see :class:`voxweft.engine.gather.Gathered`."""
    setattr(function, MARK, "gather")
    return function


def find_op(op: Op, kind: str) -> Callable[..., Any]:
    """The function behind a name.

    Raises
    ------
    RequestError
        If there is none, or it is no operation of that kind.

    Examples
    --------
    >>> find_op(Op("os:system", {"command": "true"}), "block")
    Traceback (most recent call last):
    voxweft.errors.RequestError: os:system is no block operation of voxweft or of a program that uses it
    """
    module, _, name = op.name.partition(":")
    if module.partition(".")[0] == "voxweft":
        import_module(module)
    function = getattr(sys.modules.get(module), name, None)
    if not callable(function) or getattr(function, MARK, "") != kind:
        raise RequestError(f"{op.name} is no {kind} operation of voxweft or of a program that uses it")
    return function  # type: ignore[no-any-return]
