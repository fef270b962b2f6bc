"""The table of what each choice costs and changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from voxweft.cli.show import say
from voxweft.engine.fields import spell_duration
from voxweft.errors import plain

COLUMNS = ("choice", "time", "labels that flip", "mean difference", "voxels", "Dice")
ENOUGH = 3  # regions
MARKS = {"is_reference": "reference", "is_asked": "asked for", "is_chosen": "taken"}


def show_choices(told: Mapping[str, Any], *, views: bool) -> None:
    """What a plan tells of choices, on standard output; ``views``: whether there are views among them."""
    grid = Table(box=None, pad_edge=False)
    for n, name in enumerate(COLUMNS):
        grid.add_column(name, justify="right" if n in (1, 2, 3, 4) else "left", overflow="fold")
    for row in told["rows"]:
        if row["flips"] is not None:
            grid.add_row(*map(plain, _cells(row)))
    Console(highlight=False, markup=False).print(grid)
    for row in told["rows"]:
        if row["flips"] is None:
            say(f"left out: {row['name']}: {row['remark']}")
    took = f"in {spell_duration(told['elapsed_s'])}"
    n = told["n_regions"]
    few = "; so few say little of the whole" if n < ENOUGH else ""
    say(f"compared with the reference: {told['n_voxels']} voxels in {n} region{'s' * (n != 1)}, {took}{few}")
    if not views:
        say("with --tta mirroring the table shows what mirrored views buy")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    marks = [text for name, text in MARKS.items() if row[name]]
    name = f"{row['name']} ({', '.join(marks)})" if marks else row["name"]
    dice = ", ".join(f"{value:.4f}" for value in row["dice"])
    return name, spell_duration(row["seconds"]), f"{row['flips']:.3%}", f"{row['mean']:.5f}", str(row["n_voxels"]), dice
