"""What became of a batch, as files: summary.csv, summary.json, and the confidences as itk_infer has them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxweft.apps.medical.book import CaseResult
from voxweft.stores.durable import replace

SHEET = "Confidences"


def write_summary(folder: Path, cases: Sequence[CaseResult], names: Sequence[str], *, confidence: bool) -> None:
    """Write the tables of a batch; each is whole when it has its name.

    Parameters
    ----------
    folder
        Where.
    cases, names
        What became of them; the labels.
    confidence
        Whether ``confidences.csv`` and ``.xlsx`` are wanted.
    """
    rows = [_row(case, names) for case in cases]
    replace(folder / "summary.csv", _csv(rows))
    records = [asdict(case) for case in cases]
    replace(folder / "summary.json", json.dumps({"cases": records}, indent=1).encode())
    if not confidence:
        return
    found = [
        {"case": _index(case), "Confidence": case.facts.get("confidence")}
        | {name: case.facts.get("labels", {}).get(name, {}).get("confidence") for name in names}
        for case in cases
        if case.facts
    ]
    replace(folder / "confidences.csv", _csv(found or [{"case": "", "Confidence": ""}]))
    replace(folder / "confidences.xlsx", _xlsx(found))


def _index(case: CaseResult) -> str:
    """What itk_infer calls a case: the name of its file without the last ending."""
    result = next(iter(case.files), case.case)
    return result.removesuffix(Path(result).suffix)


def _row(case: CaseResult, names: Sequence[str]) -> dict[str, Any]:
    labels = case.facts.get("labels", {})
    row: dict[str, Any] = {"case": case.case, "status": case.status, "seconds": case.seconds}
    row |= {f"{name}_ml": labels.get(name, {}).get("volume_ml", "") for name in names}
    return row | {"confidence": case.facts.get("confidence", ""), "message": case.message}


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _xlsx(rows: Sequence[dict[str, Any]]) -> bytes:
    """One sheet; the first column has no title, the second is the confidence of the case."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = SHEET
    more = list(rows[0])[2:] if rows else []
    sheet.append([None, "Confidence", *more])
    for row in rows:
        sheet.append([row["case"], row["Confidence"], *(row[name] for name in more)])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()
