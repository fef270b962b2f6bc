"""Gather stages: an operation on the tables and outputs of all stages before, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Made, find_op
from voxweft.engine.opened import OpenedGather, Readable


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a gather operation is given.

    Attributes
    ----------
    outputs
        Of each stage that is needed what it wrote.
    files
        Where each file is to be written, by its name; a path or URL.
    """

    outputs: Mapping[str, tuple[Readable, ...]]
    files: Mapping[str, str]
    ledger: Ledger

    def tables(self, stage: str) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """The units of a stage and their tables, in the order of the units."""
        return ((unit, self.ledger.table(stage, unit)) for unit in sorted(self.ledger.done(stage)))


def compute_gather(opened: OpenedGather, units: range, commit: Commit, goes_on: GoesOn) -> None:
    """Call the operation, keep its table, and declare the stage complete."""
    for unit in units:
        if goes_on(unit):
            with commit.totals.timed("compute"):
                gathered = Gathered(opened.outputs, opened.files, commit.ledger)
                made: Made = find_op(opened.stage.op, "gather")(gathered, **opened.stage.op.arguments)
            commit(unit, table=made.table)
