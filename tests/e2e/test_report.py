"""report.html: what a colleague reads in it, whatever the result is, and what it never does."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from conftest import Voxweft

BLUR = ("--model", "fake://blur?patch=16,16,16", "--chunk", 16, "--runtime", "torch")
NOT_MADE = "could not be shown"


def write(path: Path, image: np.ndarray, sizes: tuple[float, float, float], unit: str = "nanometer") -> Path:
    """An OME-Zarr with a voxel size."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.create_array("0", shape=image.shape, chunks=(16, 32, 32), dtype=image.dtype)[:] = image
    axes = [{"name": n, "type": "space", "unit": unit} for n in "zyx"]
    scale = [{"type": "scale", "scale": list(sizes)}]
    levels: Any = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    return path


def size_of(folder: Path, name: str) -> tuple[int, int]:
    with Image.open(folder / name) as picture:
        return picture.size


def test_an_anisotropic_volume_has_true_proportions_and_volumes(
    voxweft: Voxweft, tmp_path: Path, image: np.ndarray
) -> None:
    write(tmp_path / "in.zarr", image[:20], (40, 10, 10))
    write(tmp_path / "truth.zarr", (image[:20] > 127).astype(np.uint8), (40, 10, 10))
    voxweft("run", "in.zarr", "o.zarr", *BLUR)
    voxweft("report", "o.zarr", "--to", "r.html", "--pictures", "seen", "--truth", "truth.zarr")
    wide, tall = size_of(tmp_path / "seen", "y_overlay.png")
    assert wide / tall == pytest.approx(72 * 10 / (20 * 40), rel=0.02)  # columns x, rows z
    page = html.unescape((tmp_path / "r.html").read_text())
    assert NOT_MADE not in page
    assert "40 nm x 10 nm x 10 nm (z, y, x)" in page
    n = int((zarr.open_group(str(tmp_path / "o.zarr"), mode="r")["0"][:] > 127).sum())
    assert f"{n:,}" in page
    assert f"{n * 4000 / 1e9:,.4g} µm³" in page
    assert "Dice" in page
    assert "Patches of 16 x 16 x 16 voxels, overlapping by half" in page
    places = re.findall(r'<a class="place" data-at="(\d+),(\d+),(\d+)"', page)
    assert places
    assert all(int(v) < side for place in places for v, side in zip(place, (20, 61, 72), strict=True))
    assert f"voxweft view o.zarr --at {','.join(places[0])}" in page
    told = voxweft("report", "o.zarr", "--truth", "o_none.zarr", code=2).stderr
    assert "o_none.zarr" in told


def test_names_are_text_nothing_is_fetched_and_an_input_that_is_gone_is_told(
    voxweft: Voxweft, tmp_path: Path, image: np.ndarray
) -> None:
    name = "<script>alert(1)<script>.zarr"
    write(tmp_path / name, image, (1, 1, 1), "")
    voxweft("run", name, "<b>o.zarr", *BLUR, "--output", "mask")
    (tmp_path / name).rename(tmp_path / "elsewhere.zarr")
    report = tmp_path / "<b>o.zarr.voxweft/report.json"
    facts = json.loads(report.read_text())
    report.write_text(
        json.dumps({"status": "complete", "warnings": ["<img src=x>"], "totals": {}, **facts, "parts": []})
    )
    voxweft("report", "<b>o.zarr", "--to", "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "<b>o.zarr" not in page
    assert NOT_MADE not in page
    assert "The image cannot be shown" in page
    assert 'name="viewport"' in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    report.unlink()  # of an old run, or of one that was killed after its last slab
    voxweft("report", "<b>o.zarr", "--to", "r.html")
    assert NOT_MADE not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((50, 61, 72), ("--output", "labels", "--mode", "multiclass")),
        ((50, 61, 72), ("--output", "logits")),
        ((1, 61, 72), ("--uncertainty", "entropy")),
        ((3, 5, 4), ()),
    ],
)
def test_every_kind_of_result_has_a_page(
    voxweft: Voxweft, tmp_path: Path, image: np.ndarray, shape: tuple[int, int, int], more: tuple[str, ...]
) -> None:
    depth, height, width = shape
    write(tmp_path / "in.zarr", image[20 : 20 + depth, -height:, -width:], (1, 1, 1), "micrometer")
    model = "fake://blur?patch=16,16,16" + ("&classes=3" if "labels" in more else "")
    voxweft("run", "in.zarr", "o.zarr", *("--model", model), *BLUR[2:], *more, "--report", "r.html")
    page = (tmp_path / "r.html").read_text()
    assert NOT_MADE not in page, page[page.index(NOT_MADE) :][:300]
    assert "data:image/png;base64," in page
