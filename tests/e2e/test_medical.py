"""A folder in, a folder out: by the command, with good files and bad ones, killed, repeated, and with other names."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Voxweft
from voxweft.apps.medical import MedicalOptions, batch

nibabel = pytest.importorskip("nibabel")
sitk = pytest.importorskip("SimpleITK")
pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

NULL = "fake://null?patch=16,16,16&classes=3"
KILLS = int(os.environ.get("VOXWEFT_KILLS", "6"))


def write(path: Path, seed: int = 0, shape: tuple[int, int, int] = (24, 20, 18), affine: Any = None) -> Path:
    """An image x y z of int16, most of it below the level at which the null network sees something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 220, shape).astype(np.int16)
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1]) if affine is None else affine), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(path))
    return path


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def digests(folder: Path) -> dict[str, str]:
    """Of all results, as a user sees them."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and ".voxweft" not in p.parts]
    kept = [p for p in files if not p.name.startswith(("summary", "report", "confidences"))]
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in kept}


def bad_files(folder: Path) -> dict[str, str]:
    """Files that are no images, and what is said of each."""
    whole = write(folder / "cut.nii.gz", shape=(60, 60, 60)).read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("this is no image")
    rgb = np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), folder / "rgb.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), np.int16), np.eye(4)), folder / "four.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.complex64), np.eye(4)), folder / "complex.nii")
    image = nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    for name, rows in (("singular", np.zeros((3, 4))), ("nan", np.full((3, 4), np.nan))):
        data = bytearray(image.to_bytes())
        data[280:328] = rows.astype("<f4").tobytes()  # srow_x, srow_y, srow_z
        (folder / f"{name}.nii").write_bytes(data)
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:30, 10:30, 10:30] = 2
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "labels.nii")
    (folder / "empty.mha").write_bytes(b"")
    (folder / "cut.mha").write_bytes(write(folder / "whole.mha").read_bytes()[:900])
    (folder / "whole.mha").unlink()
    return {
        "cut.nii.gz": "damaged or ends early",
        "text": "no readable NIfTI",
        "rgb": "colours",
        "four": "holds 3 volumes",
        "complex": "complex numbers",
        "singular": "gives no grid",
        "nan": "gives no grid",
        "labels": "looks like labels",
        "empty": "no readable image",
        "cut.mha": "",
    }


def test_bad_files_get_a_reason_each_and_the_others_a_result(voxweft: Voxweft, tmp_path: Path) -> None:
    for n in range(6):
        write(tmp_path / f"in/good{n}.{('nii.gz', 'mha', 'nii')[n % 3]}", n)
    reasons = bad_files(tmp_path / "in")
    told = voxweft("batch", "-i", "in", "-o", "out", "-m", NULL, code=1)
    found = summary(tmp_path / "out")
    assert {k for k, row in found.items() if row["status"] == "done"} == {f"good{n}" for n in range(6)}
    for name, reason in reasons.items():
        assert found[name]["status"] == "failed"
        assert reason in found[name]["message"]
        assert "\n" not in found[name]["message"]
        assert f"warning: {name}: " in told.stderr
    assert "Traceback" not in told.stderr
    results = {p.name for p in (tmp_path / "out").iterdir() if p.suffix in (".gz", ".mha", ".nii")}
    assert results == {f"good{n}.{('nii.gz', 'mha', 'nii')[n % 3]}" for n in range(6)}
    assert not (tmp_path / "out/.voxweft/tmp").exists()
    assert not (tmp_path / "out/.voxweft/work").exists()


def test_a_second_run_does_nothing_and_one_after_the_mending_does_just_those(voxweft: Voxweft, tmp_path: Path) -> None:
    for n in range(6):
        write(tmp_path / f"in/c{n}.nii.gz", n)
    for n in range(4):
        (tmp_path / f"in/d{n}.nii.gz").write_bytes(b"broken")
    command = ["batch", "-i", "in", "-o", "out", "-m", NULL, "--save-conf"]
    voxweft(*command, code=1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")}
    assert len(before) == 6
    voxweft(*command, code=1)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")} == before
    for n in range(4):
        write(tmp_path / f"in/d{n}.nii.gz", n)
    voxweft(*command)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")}
    assert before.items() < after.items()
    assert len(after) == 10
    rows = summary(tmp_path / "out")
    assert [rows[f"c{n}"]["status"] for n in range(6)] == ["skipped"] * 6
    assert all(row["confidence"] for row in rows.values())  # those of cases that were skipped are there too
    assert "No new files to process" in voxweft(*command).stdout


def test_a_case_is_done_again_where_its_file_or_the_options_are_others(voxweft: Voxweft, tmp_path: Path) -> None:
    write(tmp_path / "in/a.nii.gz", 1)
    write(tmp_path / "in/b.nii.gz", 2)
    command = ["batch", "-i", "in", "-o", "out", "-m", NULL]
    voxweft(*command)
    write(tmp_path / "in/a.nii.gz", 3)
    voxweft(*command)
    assert [row["status"] for row in summary(tmp_path / "out").values()] == ["done", "skipped"]
    (tmp_path / "out/b.nii.gz").write_bytes((tmp_path / "out/b.nii.gz").read_bytes()[:100])  # not "done"
    voxweft(*command)
    assert [row["status"] for row in summary(tmp_path / "out").values()] == ["skipped", "done"]
    voxweft(*command, "--wl", "100", "--ww", "100")
    assert [row["status"] for row in summary(tmp_path / "out").values()] == ["done", "done"]


def test_files_of_another_program_are_not_written_over(voxweft: Voxweft, tmp_path: Path) -> None:
    write(tmp_path / "in/a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.nii.gz").write_text("mine")
    told = voxweft("batch", "-i", "in", "-o", "out", "-m", NULL, code=2).stderr
    assert "a.nii.gz, which voxweft did not write" in told
    assert (tmp_path / "out/a.nii.gz").read_text() == "mine"
    voxweft("batch", "-i", "in", "-o", "out", "-m", NULL, "--overwrite")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-i", "nowhere", "-o", "out", "-m", NULL], "nothing lies there"),
        (["-i", "empty", "-o", "out", "-m", NULL], "No input files found"),
        (["-i", "in", "-o", "in/out", "-m", NULL], "lies in, the input folder"),
        (["-i", "in", "-o", "in", "-m", NULL], "lies in, the input folder"),
        (["-i", "in", "-o", "out"], "a model is missing"),
        (["-i", "in", "-o", "out", "-m", "nowhere.onnx"], "no model lies there"),
        (["-i", "in", "-o", "out", "-m", NULL, "--wl", "50"], "--wl and --ww belong together"),
        (["-i", "in", "-o", "out", "-m", NULL, "--wl", "x", "--ww", "-3"], "--wl 'x' is no number"),
        (["-i", "in", "-o", "out", "-m", NULL, "--patch-size", "16", "16"], "--patch-size"),
        (["-i", "in", "-o", "out", "-m", NULL, "--num-proc", "0"], "--num-proc 0"),
        (["-i", "in", "-o", "out", "-m", NULL, "--list", "none.csv"], "none.csv cannot be read"),
        (["-i", "in", "-o", "out", "-m", NULL, "--roi-subset", "liver"], "'liver' is no label"),
        (["-i", "in", "-o", "out", "-m", NULL, "--patch-stride", "20"], "longer than the patch"),
        (["-i", "in", "-o", "out", "-m", "demo", "--wl", "5", "--ww", "5"], "are for models without a scaling"),
        (["-i", "in", "-o", "out", "--backend", "mmengine", "-ckpt", "a.pth"], "needs --cfg-path"),
        (["-i", "in", "-o", "out", "-cfg", "a.py", "-ckpt", "a.pth"], "--trust-code"),
    ],
)
def test_a_wrong_request_writes_nothing(voxweft: Voxweft, tmp_path: Path, flags: Any, said: str) -> None:
    write(tmp_path / "in/a.nii.gz")
    (tmp_path / "empty").mkdir()
    told = voxweft("batch", *flags, code=2).stderr
    assert said in told
    assert told.count("\n") <= 3
    assert not (tmp_path / "out").exists()


def test_odd_files_that_are_right(voxweft: Voxweft, tmp_path: Path) -> None:
    """Scaled, big-endian, wide, floating, flat: as the plain image of the same values."""
    voxels = np.random.default_rng(0).integers(0, 220, (24, 20, 18))
    folder = tmp_path / "in"
    folder.mkdir()
    affine = np.diag([0.8, 0.9, 2.5, 1])
    plain = nibabel.Nifti1Image(voxels.astype(np.int16), affine)
    nibabel.save(plain, folder / "plain.nii.gz")
    scaled = nibabel.Nifti1Image(voxels.astype(np.float64), affine)
    scaled.header.set_data_dtype(np.uint8)
    scaled.header.set_slope_inter(2.0, -5.0)
    nibabel.save(
        nibabel.Nifti1Image((voxels // 2 * 2).astype(np.float64), affine, scaled.header), folder / "scaled.nii"
    )
    big = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(voxels.astype(">i2"), affine, big), folder / "big.nii")
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int64), affine, dtype=np.int64), folder / "wide.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), folder / "float.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels[..., None].astype(np.int16), affine), folder / "one_time.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(voxels.T.astype(np.uint16)), str(folder / "nrrd.nrrd"), useCompression=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels.T.astype(np.int32)), str(folder / "header.mhd"))
    sitk.WriteImage(sitk.GetImageFromArray(voxels[:, :, 0].T.astype(np.int16)), str(folder / "flat.mha"))
    voxweft("batch", "-i", "in", "-o", "out", "-m", NULL, "--overwrite")
    out = tmp_path / "out"
    wanted = np.asarray(nibabel.load(out / "plain.nii.gz").dataobj)
    assert len(np.unique(wanted)) == 2  # a softmax of logits that differ by a slope: the first or the last
    for name in ("big.nii", "wide.nii.gz", "float.nii.gz", "one_time.nii.gz"):
        found, source = nibabel.load(out / name), nibabel.load(folder / name)
        assert (np.asarray(found.dataobj).reshape(wanted.shape) == wanted).all(), name
        assert found.shape == source.shape
        assert (found.affine == source.affine).all()
    for name in ("nrrd.nrrd", "header.mhd"):
        assert (wanted == sitk.GetArrayFromImage(sitk.ReadImage(str(out / name))).T).all(), name
    assert sitk.ReadImage(str(out / "flat.mha")).GetSize() == (24, 20)
    assert nibabel.load(out / "scaled.nii").dataobj.slope == 1.0


def test_two_cases_with_one_stem_keep_apart(voxweft: Voxweft, tmp_path: Path) -> None:
    write(tmp_path / "in/a.mha", 1)
    write(tmp_path / "in/a.nii.gz", 2)
    voxweft("batch", "-i", "in", "-o", "out", "-m", NULL, "--save-logits", "--preview", "--uncertainty")
    names = {p.name for p in (tmp_path / "out").rglob("*") if p.suffix in (".mha", ".gz", ".json", ".png", ".zarr")}
    assert {"a.mha", "a.nii.gz", "a.mha.json", "a.nii.gz.json", "a.mha.png", "a.mha.zarr", "a.nii.gz.zarr"} <= names


def test_cases_below_and_from_lists(voxweft: Voxweft, tmp_path: Path) -> None:
    write(tmp_path / "in/sub/a.nii.gz", 1)
    write(tmp_path / "in/b.nii.gz", 2)
    voxweft("batch", "-i", "in", "-o", "flat", "-m", NULL)
    assert [*summary(tmp_path / "flat")] == ["b"]
    voxweft("batch", "-i", "in", "-o", "deep", "-m", NULL, "--recursive")
    assert (tmp_path / "deep/sub/a.nii.gz").exists()
    (tmp_path / "list.csv").write_text("case,file\nfirst,sub/a.nii.gz\n")
    voxweft("batch", "-i", "in", "-o", "listed", "-m", NULL, "--list", "list.csv")
    assert (tmp_path / "listed/first.nii.gz").exists()
    (tmp_path / "list.json").write_text(json.dumps({"second": ["b.nii.gz"]}))
    voxweft("batch", "-i", "in", "-o", "json", "-m", NULL, "--list", "list.json")
    assert [*summary(tmp_path / "json")] == ["second"]


def onnx_file(path: Path, **changes: Any) -> Path:
    """A 1 x 1 x 1 convolution as ONNX, in one of the ways in which files are odd."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = changes.get("kind", TensorProto.FLOAT)
    shape = changes.get("shape", [1, 1, 16, 16, 16])
    weight = numpy_helper.from_array(np.array([-1.0, 1.0], np.float32).reshape(2, 1, 1, 1, 1), "w")
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    nodes, last = [], "x"
    if kind != TensorProto.FLOAT:
        nodes, last = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)], "f"
    if changes.get("two"):
        inputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("Add", [last, "more"], ["sum"]))
        last = "sum"
    nodes.append(helper.make_node("Conv", [last, "w"], ["y"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 2, *shape[2:]])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_odd_onnx_files(voxweft: Voxweft, tmp_path: Path) -> None:
    """Free axes want a patch; halves and integers are what they are; two inputs are refused."""
    from onnx import TensorProto

    write(tmp_path / "in/a.nii.gz")
    command = ["batch", "-i", "in", "--backend", "onnx", "--wl", "100", "--ww", "200"]
    plain = onnx_file(tmp_path / "plain.onnx")
    voxweft(*command, "-o", "plain", "--onnx", plain)
    wanted = np.asarray(nibabel.load(tmp_path / "plain/a.nii.gz").dataobj)
    free = onnx_file(tmp_path / "free.onnx", shape=["batch", 1, "d", "h", "w"])
    assert "give --patch-size" in voxweft(*command, "-o", "free", "--onnx", free, code=2).stderr
    voxweft(*command, "-o", "free", "--onnx", free, "--patch-size", "16", "16", "16")
    half = onnx_file(tmp_path / "half.onnx", kind=TensorProto.FLOAT16)
    voxweft(*command, "-o", "half", "--onnx", half)
    for name in ("free", "half"):
        found = np.asarray(nibabel.load(tmp_path / name / "a.nii.gz").dataobj)
        assert (found == wanted).mean() > 0.999, name
    two = onnx_file(tmp_path / "two.onnx", two=True)
    told = voxweft(*command, "-o", "two", "--onnx", two, code=2).stderr
    assert "2 inputs" in told
    whole = onnx_file(tmp_path / "int.onnx", kind=TensorProto.INT16)
    told = voxweft("batch", "-i", "in", "-o", "int", "-m", whole, "--wl", "100", "--ww", "200", code=2).stderr
    assert "takes integers" in told


def nnunet_folder(shared: Path, target: Path, **changes: Any) -> Path:
    """The golden model with other plans, and a network that fits them."""
    shutil.copytree(shared / "golden/medical/nnunet/model", target)
    plans = json.loads((target / "plans.json").read_text())
    plans |= changes.get("plans", {})
    plans["configurations"]["3d_fullres"] |= changes.get("configuration", {})
    (target / "plans.json").write_text(json.dumps(plans))
    dataset = json.loads((target / "dataset.json").read_text()) | changes.get("dataset", {})
    (target / "dataset.json").write_text(json.dumps(dataset))
    if n := changes.get("inputs"):
        for file in target.glob("fold_*/*.pth"):
            state = torch.load(file, weights_only=False)
            for key, value in state["network_weights"].items():
                if value.ndim == 5 and value.shape[1] == 1 and "stages.0" in key:
                    state["network_weights"][key] = value.repeat(1, n, 1, 1, 1) / n
            torch.save(state, file)
    return target


def test_channels_of_a_case(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    names = {"channel_names": {"0": "CT", "1": "CT"}}
    two = {"normalization_schemes": ["CTNormalization"] * 2, "use_mask_for_norm": [False] * 2}
    plans = json.loads((shared / "golden/medical/nnunet/model/plans.json").read_text())
    grey = plans["foreground_intensity_properties_per_channel"]["0"]
    model = nnunet_folder(
        shared,
        tmp_path / "model",
        dataset=names,
        configuration=two,
        inputs=2,
        plans={"foreground_intensity_properties_per_channel": {"0": grey, "1": grey}},
    )
    source = shared / "golden/medical/nnunet/in/casea_0000.nii.gz"
    (tmp_path / "in").mkdir()
    for channel in range(2):
        shutil.copy(source, tmp_path / f"in/both_{channel:04d}.nii.gz")
    shutil.copy(source, tmp_path / "in/lone_0000.nii.gz")
    shutil.copy(source, tmp_path / "in/moved_0000.nii.gz")
    image = nibabel.load(source)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4)), tmp_path / "in/moved_0001.nii.gz"
    )
    voxweft("nnunet", "predict", "-i", "in", "-o", "out", "-m", model, "--disable_tta", code=1)
    rows = summary(tmp_path / "out")
    assert rows["both"]["status"] == "done"
    assert "1 channel(s), the model takes 2" in rows["lone"]["message"]
    assert "another grid" in rows["moved"]["message"]
    # two equal channels, each with half of the weights: the result of the model with one
    voxweft(
        "nnunet", "predict", "-i", source, "-o", "one", "-m", shared / "golden/medical/nnunet/model", "--disable_tta"
    )
    both, one = (np.asarray(nibabel.load(tmp_path / p).dataobj) for p in ("out/both.nii.gz", "one/casea.nii.gz"))
    assert (both == one).mean() > 0.9999


def test_exchanged_axes_of_the_plans(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    """A model that sees x y z of an image turned the same way gives the turned result."""
    golden = shared / "golden/medical/nnunet"
    turned = nnunet_folder(shared, tmp_path / "turned", plans={"transpose_forward": [2, 0, 1]})
    image = nibabel.load(golden / "in/casea_0000.nii.gz")
    voxels = np.asarray(image.dataobj)  # x y z; arrays z y x are turned by (2, 0, 1) before the network sees them
    spacing = image.header.get_zooms()
    # its array [z, y, x] is such that transposing by (2, 0, 1) gives the original [z, y, x]
    moved = voxels.T.transpose(1, 2, 0).T
    zooms = (np.array(spacing)[::-1][[1, 2, 0]])[::-1]
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(moved, np.diag([*zooms, 1])), tmp_path / "in/t_0000.nii.gz")
    voxweft("nnunet", "predict", "-i", "in", "-o", "out", "-m", turned, "--disable_tta")
    voxweft("nnunet", "predict", "-i", golden / "in", "-o", "plain", "-m", golden / "model", "--disable_tta")
    made = np.asarray(nibabel.load(tmp_path / "out/t.nii.gz").dataobj).T
    wanted = np.asarray(nibabel.load(tmp_path / "plain/casea.nii.gz").dataobj).T
    assert (made.transpose(2, 0, 1) == wanted).all()


def test_an_ensemble_of_one_model_twice_is_that_model(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden/medical/nnunet"
    model = golden / "model"
    voxweft("nnunet", "predict", "-i", golden / "in", "-o", "one", "-m", model, "-f", "0", "1", "--disable_tta")
    folds = [word for n in range(2) for word in ("-m", model / f"fold_{n}")]
    voxweft("nnunet", "predict", "-i", golden / "in", "-o", "two", *folds, "--disable_tta")
    one, two = (np.asarray(nibabel.load(tmp_path / f"{n}/casea.nii.gz").dataobj) for n in ("one", "two"))
    assert (one == two).mean() > 0.9999  # folds inside a model, and models as passes of one sweep


def test_a_2d_configuration_sees_slice_by_slice(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    """Planes in another order give the planes of the result in that order."""
    from voxweft.backends.nnunet import build
    from voxweft.backends.plans import configuration_of, read_plans

    model = nnunet_folder(shared, tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    flat = plans["configurations"]["3d_fullres"] | {"patch_size": [16, 24], "spacing": [0.9, 0.8]}
    flat["architecture"]["arch_kwargs"] |= {
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
    }
    plans["configurations"]["2d"] = flat
    (model / "plans.json").write_text(json.dumps(plans))
    torch.manual_seed(0)
    net = build(configuration_of(read_plans(model)[0], "2d", model), 1, 3, model)
    weights = {k: v * (k.endswith("weight") or 0) if "seg_layers" in k else v for k, v in net.state_dict().items()}
    state = {"network_weights": weights, "init_args": {"configuration": "2d"}, "trainer_name": "nnUNetTrainer"}
    shutil.rmtree(model / "fold_1")
    torch.save(state | {"inference_allowed_mirroring_axes": (0, 1)}, model / "fold_0/checkpoint_final.pth")
    image = nibabel.load(shared / "golden/medical/nnunet/in/casea_0000.nii.gz")
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0], voxels[-1, -1] = 1, 1  # nothing is cropped in the planes
    order = np.random.default_rng(0).permutation(voxels.shape[2])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), tmp_path / "in/a_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels[:, :, order], image.affine), tmp_path / "in/b_0000.nii.gz")
    voxweft("batch", "-i", "in", "-o", "out", "-m", model)
    a, b = (np.asarray(nibabel.load(tmp_path / f"out/{n}.nii.gz").dataobj) for n in "ab")
    assert len(np.unique(a)) > 1
    assert (a[:, :, order] == b).all()


def test_a_cascade_is_refused_with_a_reason(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    model = nnunet_folder(shared, tmp_path / "model", configuration={"previous_stage": "3d_lowres"})
    told = voxweft("batch", "-i", shared / "golden/medical/nnunet/in", "-o", "out", "-m", model, code=2).stderr
    assert "second stage of a cascade" in told


def test_postprocessing_reads_json_and_no_pickle(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    model = nnunet_folder(shared, tmp_path / "model")
    command = ["nnunet", "predict", "-i", shared / "golden/medical/nnunet/in", "-m", model, "--disable_tta"]
    voxweft(*command, "-o", "raw")
    voxweft(*command, "-o", "each", "--postprocessing")
    (model / "postprocessing.pkl").write_bytes(b"never read")
    assert "is a pickle" in voxweft(*command, "-o", "pickled", "--postprocessing", code=2).stderr
    rules = {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"]}
    rules["postprocessing_kwargs"] = [{"labels_or_regions": [[1, 2]]}]
    (model / "postprocessing.json").write_text(json.dumps(rules))
    voxweft(*command, "-o", "joined", "--postprocessing")
    raw, each, joined = (
        np.asarray(nibabel.load(tmp_path / f"{n}/casea.nii.gz").dataobj) for n in ("raw", "each", "joined")
    )
    import cc3d

    for label in (1, 2):
        assert cc3d.connected_components(each == label, connectivity=26).max() == 1
        assert set(np.unique(raw[each == label])) == {label}
    assert cc3d.connected_components(joined > 0, connectivity=26).max() == 1
    facts = json.loads((tmp_path / "each/statistics/casea.json").read_text())["labels"]
    assert facts["organ"]["voxels"] == (each == 1).sum()


def test_statistics_are_those_of_the_result(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    voxweft(
        "batch", "-i", shared / "golden/medical/nnunet/in", "-o", "out", "-m", shared / "golden/medical/nnunet/model"
    )
    labels = np.asarray(nibabel.load(tmp_path / "out/casea.nii.gz").dataobj).T
    image = np.asarray(nibabel.load(shared / "golden/medical/nnunet/in/casea_0000.nii.gz").dataobj).T
    facts = json.loads((tmp_path / "out/statistics/casea.json").read_text())["labels"]
    for label, name in ((1, "organ"), (2, "lesion")):
        inside, fact = labels == label, facts[name]
        places = np.argwhere(inside)
        assert fact["voxels"] == inside.sum()
        assert fact["volume_ml"] == pytest.approx(inside.sum() * 0.8 * 0.9 * 2.5 / 1000, rel=1e-3)
        assert fact["mean"] == pytest.approx(image[inside].mean())
        assert fact["std"] == pytest.approx(image[inside].std())
        assert fact["bounding_box_zyx"] == [
            [int(a), int(b) + 1] for a, b in zip(places.min(0), places.max(0), strict=True)
        ]
        assert fact["centroid_zyx"] == pytest.approx(places.mean(axis=0), abs=1e-3)


def test_confidence_and_uncertainty_are_of_the_probabilities(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden/medical/nnunet"
    flags = ["--save-conf", "--uncertainty", "--save-probabilities", "--disable-tta"]
    voxweft("batch", "-i", golden / "in", "-o", "out", "-m", golden / "model", *flags)
    p = np.load(tmp_path / "out/casea.npz")["probabilities"].astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=0) / np.log(3)
    found = np.asarray(nibabel.load(tmp_path / "out/casea_uncertainty.nii.gz").dataobj).T
    assert np.abs(found - entropy).max() < 1e-5
    labels = np.asarray(nibabel.load(tmp_path / "out/casea.nii.gz").dataobj).T
    inside = (slice(3, 21), slice(0, 30), slice(0, 33))  # the box that is not 0
    facts = json.loads((tmp_path / "out/statistics/casea.json").read_text())
    assert facts["confidence"] == pytest.approx(1 - entropy[inside].mean(), abs=1e-5)
    assert facts["labels"]["organ"]["confidence"] == pytest.approx(1 - entropy[labels == 1].mean(), abs=1e-5)


def test_a_dicom_series_becomes_a_dicom_seg(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "data/dicom_ct_oriented", tmp_path / "in/one")
    model = shared / "models/onnx_ct_bone/model.onnx"
    voxweft("batch", "-i", "in", "-o", "out", "--onnx", model, "--output-format", "dicom-seg")
    voxweft("batch", "-i", "in/one", "-o", "nifti", "--onnx", model)
    found = highdicom.seg.segread(tmp_path / "out/one.dcm")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "nifti/one.nii.gz")))
    assert found.get_segment_description(1).segment_label == "vertebra"
    volume = found.get_volume(combine_segments=True)
    assert int((np.asarray(volume.array) > 0).sum()) == int((labels > 0).sum())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "in/one")))
    series, made = reader.Execute(), sitk.ReadImage(str(tmp_path / "nifti/one.nii.gz"))
    assert made.GetOrigin() == pytest.approx(series.GetOrigin(), abs=1e-4)
    assert made.GetDirection() == pytest.approx(series.GetDirection(), abs=1e-6)
    gone = sorted((tmp_path / "in/one").glob("*.dcm"))[7]
    gone.unlink()
    told = voxweft("batch", "-i", "in", "-o", "holes", "--onnx", model, code=1).stderr
    assert "not evenly spaced" in told


def test_names_of_slicer_and_bids_and_a_file_a_label(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    model = shared / "golden/medical/nnunet/model"
    image = sitk.ReadImage(str(shared / "golden/medical/nnunet/in/casea_0000.nii.gz"))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in/sub-01_ses-2_T1w.nrrd"))
    voxweft(
        "batch", "-i", "in", "-o", "out", "-m", model, "--bids", "--split", "--roi-subset", "lesion", "--disable-tta"
    )
    header = sitk.ReadImage(str(tmp_path / "out/sub-01_ses-2_desc-voxweft_dseg.nrrd"))
    assert header.GetMetaData("Segment0_Name") == "organ"
    assert header.GetMetaData("Segment1_LabelValue") == "2"
    assert (tmp_path / "out/sub-01_ses-2_desc-voxweft_dseg.tsv").read_text() == "index\tname\n1\torgan\n2\tlesion\n"
    assert json.loads((tmp_path / "out/dataset_description.json").read_text())["DatasetType"] == "derivative"
    masks = [p.name for p in (tmp_path / "out/sub-01_ses-2_T1w").iterdir()]
    assert masks == ["lesion.nrrd"]
    assert set(np.unique(sitk.GetArrayFromImage(header))) == {0, 2}


NET = """
import torch
from mmengine import MODELS

@MODELS.register_module()
class SmallNet(torch.nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, n_classes, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

def make():
    return SmallNet(3)
"""
CONFIG = """
custom_imports = dict(imports=["net"])
wl, ww = 50, 400
model = dict(
    type="SemSeg3D",
    num_classes=3,
    backbone=dict(type="SmallNet", n_classes=3),
    inference_config=dict(patch_size=[16, 16, 16], patch_stride=[12, 12, 12], forward_device="cpu"),
)
"""


def commands_of_the_page(shared: Path) -> list[list[str]]:
    """Every command line of the document that defines the job."""
    text = (shared / "seeds/002_b565a04a1a8efcb2.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line) for line in lines if line.startswith("itk_infer") and "<" not in line]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("n", range(5))
def test_every_command_of_the_page_runs(voxweft: Voxweft, shared: Path, tmp_path: Path, n: int) -> None:
    """Only the name of the program and the paths are others; code of a configuration needs the user's word."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "config.py").write_text(CONFIG)
    torch.manual_seed(0)
    weights = torch.nn.Conv3d(1, 3, 3, padding=1).state_dict()
    torch.save({"state_dict": {f"backbone.conv.{k}": v for k, v in weights.items()}}, tmp_path / "net.pth")
    write(tmp_path / "in/a.nii.gz", 1)
    write(tmp_path / "in/b.mha", 2)
    places = {
        "/data/images": "in",
        "/data/results": "out",
        "/models/checkpoint.pth": "net.pth",
        "/models/config.py": "config.py",
        "/models/model.onnx": str(shared / "golden/medical/itkit/model/tiny_meta.onnx"),
    }
    words = [places.get(word, word) for word in commands_of_the_page(shared)[n]]
    if "mmengine" in words:
        pytest.importorskip("mmengine")
        words += ["--trust-code", "a network of our own"]
    voxweft(*words)
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"a.nii.gz", "b.mha"}
    if "--save-logits" in words:
        assert (tmp_path / "out/a.nii.zarr/zarr.json").exists()
        assert (tmp_path / "out/confidences.xlsx").exists()


def test_a_network_of_ones_own_without_mmengine(voxweft: Voxweft, tmp_path: Path) -> None:
    """By a factory and a state dict, the same labels as by the configuration; and not without a word why."""
    pytest.importorskip("mmengine")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "config.py").write_text(CONFIG)
    torch.manual_seed(0)
    weights = torch.nn.Conv3d(1, 3, 3, padding=1).state_dict()
    torch.save({"meta": {}, "state_dict": {f"backbone.conv.{k}": v for k, v in weights.items()}}, tmp_path / "net.pth")
    write(tmp_path / "in/a.nii.gz", 1)
    how = ["--trust-code", "ours"]
    voxweft("batch", "-i", "in", "-o", "one", "-cfg", "config.py", "-ckpt", "net.pth", *how)
    more = ["--patch-size", "16", "16", "16", "--patch-stride", "12", "12", "12", "--wl", "50", "--ww", "400"]
    voxweft("batch", "-i", "in", "-o", "two", "--network", "net:make", "-ckpt", "net.pth", *more, *how)
    assert (tmp_path / "one/a.nii.gz").read_bytes() == (tmp_path / "two/a.nii.gz").read_bytes()
    told = voxweft("batch", "-i", "in", "-o", "no", "--network", "net:make", "-ckpt", "net.pth", code=2).stderr
    assert "is Python code" in told
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    told = voxweft("batch", "-i", "in", "-o", "no", "-cfg", "config.py", "-ckpt", "other.pth", *how, code=2).stderr
    assert "does not fit the network" in told


def test_killed_at_random_it_gives_the_same_files(tmp_path: Path) -> None:
    """SIGKILL at random moments, with two processes or one; what is finished stays, what was begun is finished."""
    for n in range(8):
        write(tmp_path / f"in/c{n}.nii.gz", n, (40, 36, 40))
    base = [sys.executable, "-m", "voxweft", "batch", "-i", "in", "-m", "fake://blur?patch=16,16,16&classes=3&delay=2"]
    base += ["-q", "--save-logits", "--uncertainty", "--preview"]
    subprocess.run([*base, "-o", "whole"], cwd=tmp_path, check=True)
    rng = np.random.default_rng(0)
    for n in range(KILLS):
        flags = ["-o", "out", *(["--num-proc", "2"] if n % 3 == 2 else [])]
        run = subprocess.Popen([*base, *flags], cwd=tmp_path, start_new_session=True)
        try:
            run.wait(timeout=2.5 + 3 * float(rng.random()))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        time.sleep(0.05)
    subprocess.run([*base, "-o", "out"], cwd=tmp_path, check=True)
    whole, out = digests(tmp_path / "whole"), digests(tmp_path / "out")
    pictures = {k for k in whole if not k.startswith("statistics")}
    assert {k: out[k] for k in pictures} == {k: whole[k] for k in pictures}
    assert set(out) == set(whole)
    left = [p for p in (tmp_path / "out").rglob("*.nii.gz") if ".voxweft" in str(p)]
    assert not left


AXES = list(itertools.permutations(range(3)))


def test_every_orientation_gives_the_turned_result(tmp_path: Path) -> None:
    """All 48, with a network that treats all axes alike: to the bit, and each on its own grid."""
    voxels = np.random.default_rng(3).integers(0, 220, (32, 32, 32)).astype(np.int16)
    affine = np.array([[0.7, 0, 0, -10], [0, 0.8, 0, 5], [0, 0, 1.5, 30], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    turned = {}
    for n, (order, flips) in enumerate(itertools.product(AXES, itertools.product([False, True], repeat=3))):
        array, matrix = voxels.transpose(order), np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = affine[:3, :3][:, list(order)], affine[:3, 3]
        for axis in np.flatnonzero(flips):
            array = np.flip(array, axis)
            matrix[:3, 3] += matrix[:3, axis] * 31
            matrix[:3, axis] *= -1
        nibabel.save(nibabel.Nifti1Image(array, matrix), tmp_path / f"in/{n:02d}.nii")
        turned[f"{n:02d}"] = (order, flips, matrix)
    report = batch(tmp_path / "in", tmp_path / "out", MedicalOptions(model=(NULL,)))
    assert len(report.cases) == 48
    plain = np.asarray(nibabel.load(tmp_path / "out/00.nii").dataobj)
    assert len(np.unique(plain)) == 2
    for name, (order, flips, matrix) in turned.items():
        found = nibabel.load(tmp_path / f"out/{name}.nii")
        assert (found.affine == matrix.astype(np.float32)).all()
        assert (np.asarray(found.dataobj) == np.flip(plain.transpose(order), np.flatnonzero(flips))).all(), name


def test_real_orientations_come_out_on_their_own_grid(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    """Oblique, sheared, scaled, permuted: the header's grid, to the bit."""
    (tmp_path / "in").mkdir()
    for path in (shared / "data/orientations").iterdir():
        shutil.copy(path, tmp_path / "in")
    voxweft("batch", "-i", "in", "-o", "out", "-m", NULL.replace("16,16,16", "64,64,64"), "--accept-labels")
    fields = ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
    fields += ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "dim", "xyzt_units")
    seen = 0
    for path in (tmp_path / "in").iterdir():
        if path.name.endswith(".nii.gz"):
            source, made = (nibabel.load(p) for p in (path, tmp_path / "out" / path.name))
            assert all(np.array_equal(source.header[f], made.header[f]) for f in fields), path.name
        else:
            source, made = (sitk.ReadImage(str(p)) for p in (path, tmp_path / "out" / path.name))
            grids = [(i.GetSize(), i.GetSpacing(), i.GetOrigin(), i.GetDirection()) for i in (source, made)]
            assert grids[0] == grids[1], path.name
        seen += 1
    assert seen == 8
    notes = json.loads((tmp_path / "out/summary.json").read_text())["cases"]
    assert any("sheared" in case["message"] for case in notes)


def test_parts_of_a_batch_share_a_folder(voxweft: Voxweft, tmp_path: Path) -> None:
    for n in range(5):
        write(tmp_path / f"in/c{n}.nii.gz", n)
    command = ["batch", "-i", "in", "-o", "out", "-m", "demo", "--num-parts", "2"]
    voxweft(*command, "--part-id", "1")
    states = [row["status"] for row in summary(tmp_path / "out").values()]
    assert states == ["waiting", "done", "waiting", "done", "waiting"]
    voxweft(*command, "--part-id", "0")
    assert [row["status"] for row in summary(tmp_path / "out").values()] == ["done", "skipped"] * 2 + ["done"]
    voxweft("batch", "-i", "in", "-o", "whole", "-m", "demo")
    first, second = ({k: v for k, v in digests(tmp_path / n).items() if "stat" not in k} for n in ("out", "whole"))
    assert first == second
    several = [*command[:-2], "-m", "demo", "--roi-subset", "a b", "--roi-subset", "c"]
    script = voxweft("submit", "slurm", "--num-parts", "2", "--dry-run", "--", *several).stdout
    assert "--model demo --model demo --roi-subset 'a b' --roi-subset c" in script
    assert "--part-id" in script
