"""report.html of a batch: every case, the least certain first, with its picture where there is one."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from voxweft.stores.durable import replace
from voxweft.viewer.markup import page

STYLE = "table.cases{width:100%}.cases td,.cases th{padding:.35rem .6rem;border-bottom:1px solid var(--line)}"


def save_batch_page(report: Any) -> str:
    """Write ``report.html`` into the folder of a batch; its path.

    Parameters
    ----------
    report
        A :class:`voxweft.apps.medical.BatchReport`.
    """
    folder = Path(report.output)
    cases = sorted(report.cases, key=lambda case: (case.status != "failed", _sureness(case), case.case))
    rows = "".join(_row(case, folder) for case in cases)
    n = len(cases)
    head = f"{n} case{'s' * (n != 1)}, {report.n_failed} failed, {report.seconds:.1f} s"
    notes = "".join(f"<p class=muted>{html.escape(note)}</p>" for note in report.notes)
    parts = (
        f"<h1>{html.escape(folder.name)}</h1><p>{head}</p>{notes}<div class=scroll><table class=cases>"
        f"<tr><th>case<th>status<th>confidence<th>labels<th>picture</tr>{rows}</table></div>"
    )
    replace(folder / "report.html", page(folder.name, [parts], STYLE).encode())
    return str(folder / "report.html")


def _sureness(case: Any) -> float:
    found = case.facts.get("confidence")
    return 2.0 if found is None else float(found)


def _row(case: Any, folder: Path) -> str:
    labels = "<br>".join(
        f"{html.escape(name)}: {fact['volume_ml']:g} ml"
        + (f" <span class=muted>({fact['confidence']:.3f})</span>" if fact.get("confidence") is not None else "")
        for name, fact in case.facts.get("labels", {}).items()
    )
    sure = case.facts.get("confidence")
    message = (
        f"<br>{html.escape(case.message)}"
        if case.status == "failed"
        else f" <span class=muted>{case.seconds:.1f} s</span>"
    )
    picture = next((folder / name for name in case.files if name.startswith("previews/")), None)
    image = ""
    if picture and picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        image = f'<img alt="{html.escape(case.case)}" src="data:image/png;base64,{data}">'
    return (
        f"<tr class={case.status}><td>{html.escape(case.case)}<td>{case.status}{message}"
        f"<td>{'' if sure is None else f'{sure:.3f}'}<td>{labels}<td>{image}</tr>"
    )
