"""What a person sees of commands: info in words, nothing in folders that others share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Voxweft

PYTHON = re.compile(r"[{}]|\('|\[\d|\d, \d+\)|None|True|False")  # marks of dictionaries, tuples and names


def _rows(voxweft: Voxweft, *words: object) -> str:
    return " ".join(voxweft("info", *words).stdout.split())


def test_info_is_in_words(voxweft: Voxweft, shared: Path) -> None:
    for name in ("empanada_vnc_mito", "ink_timesformer_tiny", "nnunet_t1_tissue", "octopi_cryoet", "onnx_ct_bone"):
        told = _rows(voxweft, shared / "models" / name)
        assert not PYTHON.search(told), told
        assert "patch" in told
    oblique = _rows(voxweft, shared / "data/orientations/flair_oblique.nii.gz")
    assert "direction z along 0.945639 -0.305367" in oblique
    assert not PYTHON.search(oblique)


def test_info_of_folders(voxweft: Voxweft, tmp_path: Path) -> None:
    (tmp_path / "seg/layers").mkdir(parents=True)
    for n in range(3):
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / f"seg/layers/{n:02d}.png")
    for place in ("seg", "seg/layers"):
        assert "3 layers of 8 x 9 pixels (rows x columns), for voxweft ink" in _rows(voxweft, place)
    (tmp_path / "empty").mkdir()
    assert "without a volume" in voxweft("info", "empty", code=2).stderr


def test_info_of_outputs_says_what_values_mean(voxweft: Voxweft, tmp_path: Path, image: np.ndarray) -> None:
    import zarr

    zarr.save_array(str(tmp_path / "in.zarr"), image[:16, :20, :24])
    voxweft("run", "in.zarr", "o.zarr", "-m", "fake://null?patch=16,16,16", "--uncertainty", "entropy", "-q")
    assert "made by voxweft" in _rows(voxweft, "o.zarr")
    told = _rows(voxweft, "o_uncertainty.zarr")
    assert "entropy of the blended probabilities, stored times 255, so 0 to 1" in told
    assert not PYTHON.search(told)


@pytest.mark.slow
def test_ink_with_output_leaves_shared_folders_alone(voxweft: Voxweft, tmp_path: Path) -> None:
    (tmp_path / "seg/layers").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 48), dtype=np.uint8)).save(tmp_path / f"seg/layers/{n:02d}.png")
    shared = [Path("/tmp/partitions"), Path("/tmp/result_s3_url.txt")]
    before = [path.stat().st_mtime_ns if path.exists() else None for path in shared]
    words = ("ink", "run", "seg", "found/ink.png", "--model", "demo-ink", "--stride", 32, "--runtime", "torch")
    (tmp_path / "found").mkdir()
    done = voxweft(*words)
    assert [path.stat().st_mtime_ns if path.exists() else None for path in shared] == before
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["ink.png", "ink.voxweft", "ink_report.html"]
    assert "<h1>ink.png" in (tmp_path / "found/ink_report.html").read_text()
    assert "voxel" not in done.stdout
