"""Objects of stacks of slices: in parts, along all planes, killed, by other names, and from what nobody should give."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from conftest import Voxweft
from slicestacks import same_objects
from voxweft.apps import panoptic
from voxweft.apps.panoptic.options import ImageJob, MatchJob, OrthoJob, StackJob
from voxweft.errors import ModelError, RequestError

pytest.importorskip("cc3d")
KILLS = int(os.environ.get("VOXWEFT_KILLS", "3"))
FAKE = "fake://labels"
EXACT = ("--fine-boundaries", "--accept-labels", "--min-size", "0", "--min-extent", "0", "--median", "plain")


def cells(shape: tuple[int, int, int] = (40, 64, 72), n: int = 24, seed: int = 3) -> Any:
    """Labels of touching and of lone balls, uint16 [Z, Y, X]."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for k in range(1, n + 1):
        c, r = rng.integers(0, shape), rng.integers(4, 11)
        labels[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < r * r] = k
    return labels


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Labels as a zarr in the folder of the test."""
    zarr.create_array(tmp_path / "cells.zarr", data=cells(), chunks=(16, 32, 32))
    return tmp_path / "cells.zarr"


def read(path: Path) -> Any:
    return zarr.open(path, mode="r")["0"][:]


def objects(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("command", ["stack", "ortho"])
def test_parts_and_workers_give_the_same_labels(tmp_path: Path, volume: Path, voxweft: Voxweft, command: str) -> None:
    """One call, five parts one after the other, and two processes; with small memory, so that there are many slabs."""
    small = (*EXACT, "--chunk", "16,32,32", "--memory", "600MB")
    voxweft("panoptic", command, volume, "one.zarr", "-m", FAKE, *small)
    whole = read(tmp_path / "one.zarr")
    assert len(np.unique(whole)) > 10
    for part in (3, 0, 4, 1, 2):
        voxweft("panoptic", command, volume, "five.zarr", "-m", FAKE, *small, "--num-parts", 5, "--part-id", part)
    assert np.array_equal(read(tmp_path / "five.zarr"), whole)
    voxweft("panoptic", command, volume, "two.zarr", "-m", FAKE, *small, "--workers", 2)
    assert np.array_equal(read(tmp_path / "two.zarr"), whole)
    tables = [(tmp_path / f"{name}_objects.csv").read_text() for name in ("one", "five", "two")]
    assert tables[0] == tables[1] == tables[2]
    assert "complete" in voxweft("status", "five.zarr").stdout
    voxweft("verify", "five.zarr")


def test_dask_workers_give_the_same_labels(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    pytest.importorskip("distributed")
    voxweft("panoptic", "stack", volume, "one.zarr", "-m", FAKE, *EXACT)
    voxweft("panoptic", "stack", volume, "dask.zarr", "-m", FAKE, *EXACT, "--executor", "dask", "--workers", 2)
    assert np.array_equal(read(tmp_path / "dask.zarr"), read(tmp_path / "one.zarr"))


def test_the_table_says_what_is_there(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    """Every column of the table, counted by other means."""
    from scipy import ndimage

    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--chunk", "16,32,32")
    labels = read(tmp_path / "out.zarr").astype(int)
    rows = objects(tmp_path / "out_objects.csv")
    assert [int(row["id"]) for row in rows] == list(range(1, labels.max() + 1))
    for row, box in zip(rows, ndimage.find_objects(labels), strict=True):
        inside = labels == int(row["id"])
        assert int(row["voxels"]) == inside.sum()
        for axis, side in zip("zyx", box, strict=True):
            assert (int(row[f"{axis}_start"]), int(row[f"{axis}_stop"])) == (side.start, side.stop)
        centre = [float(row[f"{axis}_centre"]) for axis in "zyx"]
        assert np.allclose(centre, ndimage.center_of_mass(inside), atol=1e-3)
        padded = np.pad(labels, 1, mode="edge")
        shifts = [np.roll(padded, s, a)[1:-1, 1:-1, 1:-1] for a in range(3) for s in (1, -1)]
        assert int(row["surface_voxels"]) == (inside & np.any([s != labels for s in shifts], axis=0)).sum()
        edge = any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True))
        assert row["touches_border"] == str(edge)
        assert float(row["confidence"]) > 0.99
        assert int(row["slices"]) == len(np.unique(np.nonzero(inside)[0]))


@pytest.mark.parametrize("plane", ["xz", "yz"])
def test_a_plane_is_the_stack_of_a_turned_volume(plane: str) -> None:
    labels = cells()
    order = {"xz": (1, 0, 2), "yz": (2, 0, 1)}[plane]
    common = {"fine_boundaries": True, "accept_labels": True, "min_size": 50, "min_extent": 2, "chunk": "16,32,32"}
    found = []
    for values, of in ((labels, plane), (np.ascontiguousarray(labels.transpose(order)), "xy")):
        sink = voxweft.open_sink("memory://")
        panoptic.stack(values, sink, FAKE, StackJob(plane=of, **common))
        found.append(sink.read(voxweft.Box.of(values.shape))[0])
    assert np.array_equal(found[0].transpose(order) > 0, found[1] > 0)
    assert same_objects(found[0].transpose(order), found[1])


def test_lone_objects_come_back_as_they_are() -> None:
    """Maps made of labels, at once and in tiles, give the labels back, along every plane and in the consensus."""
    labels = np.zeros((40, 70, 90), np.uint16)
    z, y, x = np.indices(labels.shape)
    for k, (a, b, c) in enumerate([(10, 15, 20), (30, 50, 30), (12, 55, 70), (28, 18, 66)], start=1):
        labels[(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 81] = k
    exact = {"fine_boundaries": True, "accept_labels": True, "median_filter_size": 1, "min_size": 0, "min_extent": 0}
    for job, options in (
        (panoptic.stack, StackJob(**exact)),
        (panoptic.stack, StackJob(**exact, plane="yz")),
        (panoptic.stack, StackJob(**exact, median="plain", max_gap=1)),
        (panoptic.ortho, OrthoJob(**exact)),
    ):
        sink = voxweft.open_sink("memory://")
        job(labels, sink, FAKE, options)
        assert same_objects(sink.read(voxweft.Box.of(labels.shape))[0], labels)


def test_tiles_of_a_slice_are_blended(shared: Path) -> None:
    """A slice in tiles finds what the slice as a whole does, but for some pixels."""
    import tifffile

    image = tifffile.imread(shared / "data" / "em_sstem_vnc_nc" / "raw.tif")[:1]
    model = shared / "models" / "empanada_vnc_mito" / "VNCMito_tiny.yaml"
    found = []
    for size in ("", "512,512"):
        sink = voxweft.open_sink("memory://")
        panoptic.image(image, sink, model, ImageJob(patch_size=size, centers_min_distance=7, overlap=0.5))
        found.append(sink.read(voxweft.Box.of(image.shape))[0])
    a, b = (one > 0 for one in found)
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97
    assert abs(len(np.unique(found[0])) - len(np.unique(found[1]))) <= 3


def test_one_slice_may_fail_to_show_an_object() -> None:
    labels = np.zeros((12, 32, 32), np.uint16)
    labels[:, 8:24, 8:24] = 1
    labels[5] = 0
    counts = []
    for gap in (0, 1):
        sink = voxweft.open_sink("memory://")
        options = MatchJob(min_size=0, min_extent=0, max_gap=gap)
        panoptic.match(labels, sink, options)
        counts.append(int(sink.read(voxweft.Box.of(labels.shape)).max()))
    assert counts == [2, 1]


def test_what_one_slice_fuses_is_parted_when_asked() -> None:
    """Two objects that are one in a single slice are one object by the rules, and two where jumps are not allowed."""
    labels = np.zeros((11, 20, 40), np.uint16)
    labels[:, 4:16, 2:19], labels[:, 4:16, 21:38] = 1, 2
    labels[5, 4:16, 2:38] = 1
    counts = []
    for jump in (0.0, 0.3):
        sink = voxweft.open_sink("memory://")
        panoptic.match(labels, sink, MatchJob(min_size=0, min_extent=0, max_iou_jump=jump))
        made = sink.read(voxweft.Box.of(labels.shape))[0]
        counts.append((made[0, 10, 10] == made[0, 10, 30], made[10, 10, 10] == made[10, 10, 30]))
    assert counts == [(True, True), (False, False)]


def test_the_names_of_both_programs_mean_the_same(volume: Path, voxweft: Voxweft) -> None:
    """The window's names and the engine's; a repeat with the other names continues, it does not differ."""
    window = "--image-downsampling 2 --segmentation-confidence-threshold 0.4 --center-confidence-threshold 0.2"
    window += " --centers-min-distance 5 --max-objects-per-class 500 --median-filter-size 5 --min-extent 3"
    window += " --voxel-vote-threshold 1 --permit-detections-in-1-stack --return-stacks"
    engine = "--inference-scale 2 --confidence-thr 0.4 --nms-threshold 0.2 --nms-kernel 5 --label-divisor 500"
    engine += " --median-kernel-size 5 --min-span 3 --pixel-vote-thr 1 --allow-one-view --save-panoptic"
    voxweft("panoptic", "ortho", volume, "out.zarr", "-m", FAKE, "--accept-labels", *window.split())
    again = voxweft("panoptic", "ortho", volume, "out.zarr", "-m", FAKE, "--accept-labels", *engine.split())
    assert "complete" in again.stdout
    for plane in ("xy", "xz", "yz"):
        assert read(volume.parent / f"out_{plane}.zarr").shape == (40, 64, 72)


def test_killed_at_random_it_gives_the_same_labels(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    small = [*EXACT, "--chunk", "16,32,32", "--memory", "600MB"]
    slow = f"{FAKE}?delay=60"
    voxweft("panoptic", "ortho", volume, "whole.zarr", "-m", slow, *small)
    command = [sys.executable, "-m", "voxweft", "panoptic", "ortho", str(volume), "out.zarr", "-m", slow, *small]
    rng, n_killed = random.Random(5), 0
    for _ in range(KILLS):
        with subprocess.Popen(
            command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            try:
                run.wait(rng.uniform(2.0, 3.5))
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                n_killed += 1
        time.sleep(0.05)
    voxweft("panoptic", "ortho", volume, "out.zarr", "-m", slow, *small)
    assert n_killed > KILLS // 2
    assert np.array_equal(read(tmp_path / "out.zarr"), read(tmp_path / "whole.zarr"))
    assert (tmp_path / "out_objects.csv").read_text() == (tmp_path / "whole_objects.csv").read_text()


@pytest.mark.parametrize("divisor", [0, 3, 1000])
def test_a_divisor_that_is_too_small_is_widened_and_none_is_none(divisor: int) -> None:
    labels = np.zeros((2, 64, 64), np.uint8)
    for k in range(6):
        labels[:, 4 + 10 * k : 10 + 10 * k, 20:40] = k + 1
    sink = voxweft.open_sink("memory://")
    options = ImageJob(max_objects_per_class=divisor, fine_boundaries=True, accept_labels=True)
    panoptic.image(labels, sink, FAKE, options)
    found = np.unique(sink.read(voxweft.Box.of(labels.shape)))
    first = {0: 1, 3: 31, 1000: 1001}[divisor]
    assert found.tolist() == [0, *range(first, first + 6)]


def test_a_stack_of_nothing_one_slice_and_few_slices() -> None:
    one = np.zeros((2, 32, 32), np.uint8)
    one[:, 4:30, 3:20] = 7
    for labels in (np.zeros((5, 32, 32), np.uint8), one[:1], one):
        for job in (panoptic.stack, panoptic.ortho):
            sink = voxweft.open_sink("memory://")
            options: Any = (OrthoJob if job is panoptic.ortho else StackJob)(
                accept_labels=True, fine_boundaries=True, median_filter_size=5, min_size=0, min_extent=0
            )
            job(labels, sink, FAKE, options)
            found = sink.read(voxweft.Box.of(labels.shape))[0]
            assert np.array_equal(found > 0, labels > 0)


BAD = {
    "--median-filter-size 4": "odd number",
    "--image-downsampling 3": "1, 2, 4",
    "--confidence-thr 1.5": "not 0 to 1",
    "--plane zz": "xy, xz, yz",
    "--min-size -1": "negative",
    "--intensity-range 5,1": "LOW,HIGH",
    "--roi 0:900,0:5,0:5": "0:900",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_options_are_refused_in_a_line(volume: Path, voxweft: Voxweft, words: str) -> None:
    done = voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, "--accept-labels", *words.split(), code=2)
    assert BAD[words] in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not (volume.parent / "out.zarr").exists()


def test_bad_files_are_refused_in_a_line(tmp_path: Path, voxweft: Voxweft) -> None:
    zarr.save_array(tmp_path / "float.zarr", np.random.default_rng(0).random((4, 32, 32)))
    group = {"two.zarr": (2, 4, 32, 32), "empty.zarr": (0, 32, 32)}
    for name, shape in group.items():
        zarr.save_array(tmp_path / name, np.zeros(shape, np.uint8))
    zarr.save_array(tmp_path / "small.zarr", np.zeros((4, 30, 32), np.uint8))
    zarr.save_array(tmp_path / "large.zarr", np.zeros((4, 32, 32), np.uint8))
    (tmp_path / "none.yaml").write_text("padding_factor: 16\nnorms: {mean: 0.5, std: 0.2}\nmodel: gone.pth\n")
    (tmp_path / "odd.yaml").write_text("padding_factor: [\n")
    (tmp_path / "more.yaml").write_text(
        "padding_factor: 16\nnorms: {mean: 0.5, std: 0}\nmodel: gone.pth\nlabels: [1]\nthing_list: [1, 2]\n"
    )
    for words, said in (
        ("panoptic stack two.zarr out.zarr -m fake://labels", "2 channels"),
        ("panoptic stack empty.zarr out.zarr -m fake://labels", "empty"),
        ("panoptic stack large.zarr out.zarr -m none.yaml", "gone.pth"),
        ("panoptic stack large.zarr out.zarr -m odd.yaml", "YAML"),
        ("panoptic stack large.zarr out.zarr -m more.yaml", "std"),
        ("panoptic stack large.zarr out.zarr -m fake://null", "no panoptic network"),
        ("panoptic stack large.zarr out.zarr", "--model is missing"),
        ("run large.zarr out.zarr --model fake://labels --patch-size 1,16,16", "use voxweft panoptic"),
        ("panoptic match float.zarr out.zarr", "labels are integers"),
        ("panoptic consensus large.zarr small.zarr out.zarr", "one shape"),
        ("panoptic consensus large.zarr out.zarr", "two or three stacks"),
        ("label float.zarr out.zarr --low 0.5", "--high"),
        ("label large.zarr out.zarr --threshold 0.5", "128"),
        ("label two.zarr out.zarr", "2 channels"),
    ):
        done = voxweft(*words.split(), code=2)
        assert said in done.stderr, words
        assert len(done.stderr.strip().splitlines()) <= 3, words
        assert not (tmp_path / "out.zarr").exists()


def test_grey_values_that_the_network_does_not_expect_are_told_of(tmp_path: Path, voxweft: Voxweft) -> None:
    rng = np.random.default_rng(0)
    zarr.save_array(tmp_path / "dark.zarr", rng.integers(0, 255, (4, 64, 64)).astype(np.int32))
    done = voxweft("panoptic", "image", "dark.zarr", "out.zarr", "-m", FAKE)
    assert "--intensity-range 0,254" in done.stderr
    done = voxweft("panoptic", "image", "dark.zarr", "more.zarr", "-m", FAKE, "--intensity-range", "0,255")
    assert "intensity-range" not in done.stderr


def test_a_mask_and_a_box_say_where_objects_may_be(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    mask = np.zeros((40, 64, 72), np.uint8)
    mask[:, 10:40, 5:60] = 1
    zarr.save_array(tmp_path / "mask.zarr", mask)
    voxweft("panoptic", "stack", volume, "masked.zarr", "-m", FAKE, *EXACT, "--mask", "mask.zarr", "--plane", "xz")
    found = read(tmp_path / "masked.zarr")
    assert not found[mask == 0].any()
    assert found[mask > 0].any()
    voxweft("panoptic", "stack", volume, "box.zarr", "-m", FAKE, *EXACT, "--roi", "4:30,10:50,8:70")
    assert read(tmp_path / "box.zarr").shape == (26, 40, 62)


def test_a_model_of_the_registry_and_one_that_is_none(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared / "models" / "empanada_vnc_mito"
    folder = tmp_path / ".empanada" / "configs"
    folder.mkdir(parents=True)
    text = (source / "VNCMito_tiny.yaml").read_text()
    (folder / "VNCMito.yaml").write_text(text.replace("model: VNCMito_tiny.pth", f"model: {source}/VNCMito_tiny.pth"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert voxweft.load_model("VNCMito").card.things == (1,)
    with pytest.raises(ModelError):
        voxweft.load_model("NoSuchModel")


def test_a_second_run_with_other_options_is_refused(volume: Path, voxweft: Voxweft) -> None:
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT)
    done = voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--merge-iou-thr", "0.5", code=2)
    assert "merge_iou" in done.stderr


def test_a_lost_chunk_is_noticed_and_made_again(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--chunk", "16,32,32")
    whole = read(tmp_path / "out.zarr")
    chunk = next(p for p in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if p.is_file())
    chunk.unlink()
    voxweft("verify", "out.zarr", code=1)
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--chunk", "16,32,32")
    assert np.array_equal(read(tmp_path / "out.zarr"), whole)


def test_python_refuses_what_the_command_refuses() -> None:
    with pytest.raises(RequestError, match="odd number"):
        StackJob(median_filter_size=2)


def test_several_classes_have_arrays_of_their_own(tmp_path: Path, voxweft: Voxweft) -> None:
    """Classes are matched by themselves; the result is class x divisor + number, and each class beside it."""
    labels = np.zeros((6, 30, 40), np.uint32)
    labels[:, 2:12, 2:12], labels[:, 2:12, 20:30] = 1001, 1002
    labels[:, 15:28, 5:35], labels[:, 13:14, 5:35] = 2001, 3001
    zarr.save_array(tmp_path / "classes.zarr", labels)
    flags = ("--label-divisor", 1000, "--classes", "mito,er", "--min-size", 0, "--min-extent", 0)
    voxweft("panoptic", "match", "classes.zarr", "out.zarr", *flags)
    assert sorted(np.unique(read(tmp_path / "out.zarr")).tolist()) == [0, 1001, 1002, 2001]
    assert np.array_equal(read(tmp_path / "out_mito.zarr"), np.where(labels // 1000 == 1, labels % 1000, 0))
    assert np.array_equal(read(tmp_path / "out_er.zarr"), labels // 1000 == 2)
    assert [row["class"] for row in objects(tmp_path / "out_objects.csv")] == ["mito", "mito", "er"]
    names = ("classes.zarr", "classes.zarr", "classes.zarr", "voted.zarr")
    voxweft("panoptic", "consensus", *names, *flags)
    assert np.array_equal(read(tmp_path / "voted.zarr"), read(tmp_path / "out.zarr"))
    attributes = zarr.open(tmp_path / "out_er.zarr", mode="r").attrs.asdict()
    assert "image-label" in attributes.get("ome", attributes)


@pytest.mark.parametrize("job", ["image", "stack", "ortho"])
def test_semantic_only_tells_no_objects_apart(job: str) -> None:
    labels = cells((20, 48, 48), 9)
    made = voxweft.open_sink("memory://")
    options: Any = {"image": ImageJob, "stack": StackJob, "ortho": OrthoJob}[job](
        semantic_only=True, accept_labels=True, fine_boundaries=True, stuff_area=1
    )
    getattr(panoptic, job)(labels, made, FAKE, options)
    found = made.read(voxweft.Box.of(labels.shape))[0]
    assert np.unique(found).tolist() == [0, 10000 if job == "image" else 1]


def test_holes_objects_and_edges_as_asked(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    """Erosion and dilation of what was found, in blocks, are those of the whole."""
    from voxweft.ops.objects import dilated, eroded

    voxweft("panoptic", "stack", volume, "plain.zarr", "-m", FAKE, *EXACT, "--chunk", "16,32,32")
    more = ("--erode-labels", 2, "--dilate-labels", 1)
    voxweft("panoptic", "stack", volume, "changed.zarr", "-m", FAKE, *EXACT, "--chunk", "16,32,32", *more)
    assert np.array_equal(read(tmp_path / "changed.zarr"), dilated(eroded(read(tmp_path / "plain.zarr"), 2), 1))


def test_parameters_are_tried_in_a_picture(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    from PIL import Image

    grid = ("--grid", "image-downsampling=1,2", "confidence-thr=0.3,0.5", "--slices", "10,20,30")
    done = voxweft("panoptic", "image", volume, "sheet.png", "-m", FAKE, "--accept-labels", *grid)
    assert done.stderr.count("objects") == 12
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 72
    both = ("--grid", "semantic-only=false,true", "--slices", "20", "--accept-labels")
    done = voxweft("panoptic", "image", volume, "both.png", "-m", FAKE, *both)
    counts = [int(line.rpartition(": ")[2].split()[0]) for line in done.stderr.splitlines() if "objects" in line]
    assert counts[0] > counts[1] == 1
    for words, said in (
        ("--grid colour=1", "image-downsampling"),
        ("--grid confidence-thr=many", "no value"),
        ("--grid confidence-thr=0.3 --slices 99", "0 to 39"),
        ("--grid confidence-thr=7", "not 0 to 1"),
    ):
        done = voxweft("panoptic", "image", volume, "no.png", "-m", FAKE, "--accept-labels", *words.split(), code=2)
        assert said in done.stderr
    assert not (tmp_path / "no.png").exists()


def test_what_it_will_cost_is_said_and_nothing_written(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    flags = ("--accept-labels", "--median-filter-size", 5, "--estimate")
    done = voxweft("panoptic", "ortho", volume, "out.zarr", "-m", FAKE, *flags)
    assert "40 of 64 x 72" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["cells.zarr"]


def test_other_formats(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    tifffile = pytest.importorskip("tifffile")
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--tiff")
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT, "--precomputed")
    labels = read(tmp_path / "out.zarr")
    assert np.array_equal(tifffile.imread(tmp_path / "out_labels.tif"), labels)
    chunk = tmp_path / "out_precomputed" / "full" / "0-64_0-64_0-40"
    assert np.array_equal(np.fromfile(chunk, "<u4").reshape(40, 64, 64), labels[:, :, :64])
    more = ("--min-size", 10**6, "--overwrite", "--precomputed")  # nothing is that large, and nothing old must stay
    voxweft("panoptic", "stack", volume, "out.zarr", "-m", FAKE, *EXACT[:2], "--median", "plain", *more)
    assert not [*(tmp_path / "out_precomputed" / "full").iterdir()]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "out_objects.parquet").to_pydict()
    assert [str(n) for n in table["id"]] == [row["id"] for row in objects(tmp_path / "out_objects.csv")]


def test_a_folder_of_images_each_of_its_own_size(tmp_path: Path, voxweft: Voxweft) -> None:
    """TIFF, PNG and JPEG; a picture of colours fails, is named, and does not hide behind exit code 0."""
    from PIL import Image

    tifffile = pytest.importorskip("tifffile")
    folder = tmp_path / "images"
    folder.mkdir()
    for n, size in enumerate([(40, 50), (64, 33), (20, 90)]):
        image = np.random.default_rng(n).integers(0, 60, size).astype(np.uint8)
        image[5:15, 5:15] = 200
        if n == 0:
            tifffile.imwrite(folder / "a.tif", image)
        else:
            Image.fromarray(image).save(folder / f"{'bc'[n - 1]}.png")
    voxweft("panoptic", "image", "images", "results", "-m", FAKE, "--accept-labels", "--intensity-range", "0,255")
    for name, size in zip("abc", [(40, 50), (64, 33), (20, 90)], strict=True):
        assert read(tmp_path / f"results/{name}.zarr").shape == (1, *size)
        assert (tmp_path / f"results/{name}_objects.csv").exists()
    colours = np.random.default_rng(9).integers(0, 255, (30, 30, 3)).astype(np.uint8)
    Image.fromarray(colours).save(folder / "d.png")
    done = voxweft(
        "panoptic", "image", "images", "results", "-m", FAKE, "--accept-labels", "--intensity-range", "0,255", code=1
    )
    assert "d.png is a picture of colours" in done.stderr
    done = voxweft("panoptic", "image", "images", "other", "-m", FAKE, "--estimate", code=2)
    assert "folder of images" in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_mask_is_that_of_the_result_however_small_the_images(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    """At half the resolution, with a mask as fine as the volume, and one of another shape, which is refused."""
    mask = np.zeros((40, 64, 72), np.uint8)
    mask[:, 11:41, 5:61] = 1
    zarr.save_array(tmp_path / "mask.zarr", mask)
    zarr.save_array(tmp_path / "other.zarr", mask[:, :50])
    flags = ("-m", FAKE, "--accept-labels", "--min-size", 0, "--min-extent", 0, "--image-downsampling", 2)
    voxweft("panoptic", "stack", volume, "out.zarr", *flags, "--mask", "mask.zarr")
    found = read(tmp_path / "out.zarr")
    assert found[mask > 0].any()
    assert not found[mask == 0].any()
    done = voxweft("panoptic", "stack", volume, "no.zarr", *flags, "--mask", "other.zarr", code=2)
    assert "other.zarr" in done.stderr
    assert not (tmp_path / "no.zarr").exists()


def test_a_stored_plan_is_repeated(tmp_path: Path, volume: Path, voxweft: Voxweft) -> None:
    """Tiles, a scale and a box included."""
    more = ("--patch-size", "32,32", "--image-downsampling", 2, "--roi", "0:40,0:64,2:70")
    voxweft("panoptic", "ortho", volume, "out.zarr", "-m", FAKE, *EXACT, *more)
    voxweft("run", "--plan", "out.zarr", "again.zarr")
    assert np.array_equal(read(tmp_path / "out.zarr"), read(tmp_path / "again.zarr"))
    assert "OME-Zarr" in voxweft("panoptic", "stack", volume, "out.tif", "-m", FAKE, *EXACT, code=2).stderr
