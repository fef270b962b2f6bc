"""The tables of RESULTS.md, each between two markers, so that every benchmark renews its own."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from voxweft.processor import processor

PAGE = Path(__file__).resolve().parent / "RESULTS.md"


def keep(section: str, table: str) -> None:
    """Replace a table in RESULTS.md and say on which machine it was measured; print it too."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    if not tail:
        raise SystemExit(f"{PAGE} has no place for {section!r}")
    machine = f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}"
    PAGE.write_text(f"{head}{begin}\n\n{table}\n\nMeasured on {machine}.\n\n{end}{tail}", encoding="utf-8")
    print(table)
