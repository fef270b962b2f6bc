"""The notebooks of examples/: they run, as a reader would run them, and what is stored in them is fit to be shown."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.ipynb"))
LARGEST_BYTES = 300_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of jupyter, about itself
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(fresh, timeout=300, kernel_name="python3", resources=where).execute()
    assert [_kinds(cell) for cell in fresh.cells] == [_kinds(cell) for cell in stored.cells]
    shown = [kind for cell in fresh.cells for kind in _kinds(cell)]
    assert "image/png" in shown
    assert "text/html" in shown


def test_stored_outputs_are_small_and_name_no_machine() -> None:
    assert len(EXAMPLES) == 2
    for path in EXAMPLES:
        text = path.read_text()
        assert len(text) < LARGEST_BYTES
        assert not [word for word in ("/home/", "/root/", "/work/", "/Users/", "/tmp/") if f"{word}" in _words(path)]


def _kinds(cell: nbformat.NotebookNode) -> list[str]:
    """Of the outputs of a cell: streams, and the forms of what is shown."""
    return sorted(kind for one in cell.get("outputs", ()) for kind in (one.get("data") or [one.get("name", "error")]))


def _words(path: Path) -> str:
    """All that is stored but pictures."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [one for cell in cells for one in cell.get("outputs", ())]
    shown = [str(text) for one in outputs for kind, text in (one.get("data") or one).items() if kind != "image/png"]
    return "\n".join([*(cell.source for cell in cells), *(text.partition("base64,")[0] for text in shown)])
