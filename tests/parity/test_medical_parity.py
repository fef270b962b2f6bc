"""Folders of medical images against the files that itk_infer 4.0.0 and nnU-Net 2.8.1 wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from voxweft.apps.medical import MedicalOptions, batch

sitk = pytest.importorskip("SimpleITK")
openpyxl = pytest.importorskip("openpyxl")


def array(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def confidences(path: Path) -> dict[str, float]:
    rows = openpyxl.load_workbook(path)["Confidences"].iter_rows(min_row=2, values_only=True)
    return {row[0]: row[1] for row in rows}


@pytest.mark.parametrize("name", ["tiny_meta.onnx", "tiny_nometa.onnx"])
def test_itk_infer(shared: Path, tmp_path: Path, name: str) -> None:
    golden = shared / "golden/medical/itkit"
    without = {"wl": "50", "ww": "400", "patch_stride": "12"} if name == "tiny_nometa.onnx" else {}
    options = MedicalOptions(
        backend="onnx",
        onnx=str(golden / "model" / name),
        save_logits=True,
        save_conf=True,
        orientation="LPI",
        **without,
    )
    report = batch(golden / "in", tmp_path / "out", options)
    assert [case.status for case in report.cases] == ["done", "done"]
    for file, stem, flips in (("a_identity.mha", "a_identity", (1,)), ("b_flip.nii.gz", "b_flip.nii", (1, 2, 3))):
        theirs, ours = (sitk.ReadImage(str(folder / file)) for folder in (golden / "out", tmp_path / "out"))
        assert ours.GetPixelIDValue() == theirs.GetPixelIDValue()
        for one in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(ours, one)() == pytest.approx(getattr(theirs, one)(), abs=1e-6)
        logits, other = (zarr.open_array(folder / f"{stem}.zarr") for folder in (tmp_path / "out", golden / "out"))
        assert logits.dtype == np.float16
        native = np.flip(logits[:], flips)  # theirs lie as the input does, ours as the labels
        assert np.abs(native.astype(np.float32) - other[:].astype(np.float32)).max() <= 1e-3
        labels, wanted = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs)
        best = np.sort(logits[:].astype(np.float32), axis=0)
        tied = best[-1] - best[-2] <= 1e-3  # half precision cannot tell these apart
        assert (labels == wanted)[~tied].all()
        assert (labels != wanted).sum() <= 2
    wanted = confidences(golden / "out/confidences.xlsx")
    found = confidences(tmp_path / "out/confidences.xlsx")
    assert found == pytest.approx({name: wanted[name] for name in found}, abs=1e-3)
    assert set(found) == {"a_identity", "b_flip.nii"}


def test_nnunet(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden/medical/nnunet"
    options = MedicalOptions(model=str(golden / "model"), save_probabilities=True)
    batch(golden / "in", tmp_path / "out", options)
    labels, wanted = array(tmp_path / "out/casea.nii.gz"), array(golden / "out/casea.nii.gz")
    assert (labels == wanted).mean() >= 0.999
    ours, theirs = (np.load(p / "casea.npz")["probabilities"] for p in (tmp_path / "out", golden / "out"))
    off = np.abs(ours - theirs).max(axis=0)
    # nnU-Net sums weighted logits in half precision: in the corners of the box that is not 0, where the only patch has
    # tiny weights, its logits are multiples of a half or a quarter
    assert (off <= 0.01).mean() >= 0.99
    assert off[8:16, 8:24, 8:28].max() <= 0.01
    assert off.mean() < 1e-3


def test_only_labels_and_labels_beside_probabilities_are_the_same(shared: Path, tmp_path: Path) -> None:
    """The short way of resampled labels and the long way, which probabilities and confidence need."""
    golden = shared / "golden/medical/nnunet"
    model = str(golden / "model")
    for n, more in enumerate(({}, {"save_logits": True}, {"save_conf": True, "uncertainty": True})):
        batch(golden / "in", tmp_path / str(n), MedicalOptions(model=model, **more))
    first = array(tmp_path / "0/casea.nii.gz")
    assert all((array(tmp_path / f"{n}/casea.nii.gz") == first).all() for n in (1, 2))
