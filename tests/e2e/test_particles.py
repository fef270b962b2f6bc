"""Particles by the command: parts, kills, bad requests, bad runs, an S3 overlay, the real copick, other programs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zarr

from conftest import Voxweft
from servers import environment, upload
from voxweft.apps.particles import Picks, PicksName, Project
from voxweft.stores.copick import create_project
from voxweft.stores.ngff04 import write_group
from voxweft.testing.tomogram import LABELS, RADII, make_tomogram, sphere_targets

mrcfile = pytest.importorskip("mrcfile")
pytest.importorskip("monai")
KILLS = int(os.environ.get("VOXWEFT_KILLS", "3"))
COPICK = Path(__file__).resolve().parents[2] / ".venvs/copick/bin/python"
DEMO = ("-mw", "demo-particles", "-ntta", "1", "--runtime", "torch")


def make(folder: Path, n: int = 2, shape: tuple[int, int, int] = (40, 72, 80)) -> Path:
    """A project of small tomograms with their true picks."""
    objects = [
        {"name": name, "is_particle": True, "label": k, "radius": RADII[name], "color": [40 * k, 200, 90, 255]}
        for name, k in LABELS.items()
    ]
    objects.append({"name": "membrane", "is_particle": False, "label": 9, "color": [0, 0, 255, 255]})
    project = create_project(folder / "config.json", folder, objects)
    for k in range(n):
        made = make_tomogram(shape, n=4, seed=k)
        tomogram(folder, f"TS-{k}", made.image)
        for name, centres in made.centres.items():
            project.write_picks(f"TS-{k}", PicksName(name, "truth", "0"), Picks(centres))
    return folder / "config.json"


def tomogram(folder: Path, run: str, values: Any, kind: str = "wbp") -> None:
    place = folder / f"ExperimentRuns/{run}/VoxelSpacing10.000/{kind}.zarr"
    shape = values.shape
    write_group(str(place), lambda box: values[box.slices][None], shape_zyx=shape, dtype="float32", voxel_size=10.0)


def labelled(folder: Path, run: str, labels: Any, name: str = "predict") -> None:
    place = folder / f"ExperimentRuns/{run}/Segmentations/10.000_octopi_1_{name}-multilabel.zarr"
    shape = labels.shape
    write_group(str(place), lambda box: labels[box.slices][None], shape_zyx=shape, dtype="uint8", voxel_size=10.0)


def results(folder: Path) -> dict[str, str]:
    """Digests of all that others read: voxels, metadata, picks."""
    files = [p for p in sorted((folder / "ExperimentRuns").rglob("*")) if p.is_file()]
    kept = [p for p in files if b"voxweft" not in p.read_bytes()]  # metadata with the command line
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def points(folder: Path, run: str, name: str, session: str = "1", user: str = "octopi") -> Any:
    content = json.loads((folder / f"ExperimentRuns/{run}/Picks/{user}_{session}_{name}.json").read_text())
    return np.array([[*(p["location"][a] for a in "xyz"), p["score"]] for p in content["points"]]).reshape(-1, 4)


def test_from_tomograms_to_a_score(tmp_path: Path, voxweft: Voxweft) -> None:
    """All three commands; a second time nothing is done again; other options do it again."""
    config = make(tmp_path)
    voxweft("octopi", "segment", "-c", config, *DEMO, "--save-probabilities", "--seg-info", "predict,octopi,1")
    voxweft("octopi", "localize", "-c", config)
    said = voxweft(
        "octopi", "evaluate", "-c", config, "--ground-truth-user-id", "truth", "--save-path", "scores"
    ).stdout
    score = yaml.safe_load((tmp_path / "scores/average_metrics.yaml").read_text())["final_fbeta_score"]
    assert score > 0.9
    assert f"{score:.4f}" in said
    for page in ("logs/localize-octopi_1.html", "scores/evaluation.html"):
        assert len((tmp_path / page).read_text()) > 4_000
    before = results(tmp_path)
    assert "2 finished before" in voxweft("particles", "segment", "-c", config, *DEMO, "--save-probabilities").stdout
    assert "2 finished before" in voxweft("particles", "localize", "-c", config).stdout
    assert results(tmp_path) == before
    assert "TS-0  done" in voxweft("particles", "localize", "-c", config, "-rmax", "0.9").stdout
    assert "TS-1  done" in voxweft("particles", "segment", "-c", config, *DEMO, "--window", "gaussian").stdout


def test_a_changed_tomogram_is_segmented_again(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path)
    voxweft("particles", "segment", "-c", config, *DEMO)
    tomogram(tmp_path, "TS-1", make_tomogram((40, 72, 80), n=3, seed=9).image)
    said = voxweft("particles", "segment", "-c", config, *DEMO).stdout
    assert "TS-1  done" in said
    assert "1 finished before" in said


def test_workers_and_shares_give_the_same_files(tmp_path: Path, voxweft: Voxweft) -> None:
    """One process; a process a tomogram; three that share each of them; two shares of the runs, one after the other."""
    ways = {
        "one": [[]],
        "two": [["--workers", "2"]],
        "three": [["--workers", "3"]],
        "shares": [["--num-parts", "2", "--part-id", "1"], ["--num-parts", "2", "--part-id", "0"]],
    }
    found = {}
    for name, calls in ways.items():
        config = make(tmp_path / name)
        for more in calls:
            voxweft("particles", "segment", "-c", config, *DEMO, "--save-probabilities", *more)
        for more in calls:
            voxweft("particles", "localize", "-c", config, *more)
        found[name] = results(tmp_path / name)
    assert len([f for f in found["one"] if "octopi_1" in f]) > 10
    assert found["one"] == found["two"] == found["three"] == found["shares"]


def test_blocks_of_a_large_volume_give_the_same_picks(tmp_path: Path, voxweft: Voxweft) -> None:
    """More voxels than are parted at once; in 1, 3 and 8 or more blocks, by one process and by two."""
    config = make(tmp_path, n=1)
    made = make_tomogram((64, 520, 520), n=60, seed=3, noise=0.0)
    labels = sphere_targets(made, 0.8)
    labels[30:34, :, 100:110] = 1  # larger than any particle, through particles
    labelled(tmp_path, "TS-0", labels)
    found = []
    for n, more in enumerate((["--block", "576"], ["--block", "192"], ["--block", "64", "--workers", "2"])):
        voxweft("particles", "localize", "-c", config, "-psid", n, *more)
        found.append({name: points(tmp_path, "TS-0", name, str(n)).tolist() for name in LABELS})
    assert sum(map(len, found[0].values())) > 60
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["segment", "localize"])
def test_killed_again_and_again_and_resumed(tmp_path: Path, voxweft: Voxweft, what: str) -> None:
    shape = (40, 120, 150) if what == "segment" else (64, 520, 520)
    whole, killed = (
        make(tmp_path / name, n=2 if what == "segment" else 1, shape=shape) for name in ("whole", "killed")
    )
    if what == "segment":
        command = ["segment", *DEMO[:2], "-ntta", "2", "--runtime", "torch", "--uncertainty"]
        first, last = 2.5, 5.0
    else:
        command = ["localize", "--block", "64"]
        first, last = 0.7, 2.5
        for config in (whole, killed):
            labelled(config.parent, "TS-0", sphere_targets(make_tomogram(shape, n=60, seed=3, noise=0.0), 0.8))
    voxweft("particles", *command, "-c", whole)
    words = [sys.executable, "-m", "voxweft", "particles", *command, "-c", str(killed)]
    rng, n_killed = random.Random(7), 0
    for _ in range(KILLS):
        with subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            try:
                run.wait(rng.uniform(first, last))
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                n_killed += 1
        time.sleep(0.05)
    voxweft("particles", *command, "-c", killed)
    assert n_killed > KILLS // 2
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed/.voxweft").rglob("*.zarr*"))
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_a_run_without_particles_clears_old_picks_and_keeps_those_of_others(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path, n=1)
    labels = np.zeros((40, 72, 80), np.uint8)
    labelled(tmp_path, "TS-0", labels)
    stale = tmp_path / "ExperimentRuns/TS-0/Picks/octopi_1_cage.json"
    stale.write_bytes((tmp_path / "ExperimentRuns/TS-0/Picks/truth_0_cage.json").read_bytes())
    old = stale.read_bytes()
    voxweft("particles", "localize", "-c", config)
    assert len(points(tmp_path, "TS-0", "cage")) == 0
    kept = list((tmp_path / ".voxweft/replaced").rglob("octopi_1_cage.json"))
    assert [p.read_bytes() for p in kept] == [old]
    voxweft("particles", "localize", "-c", config, "--overwrite")
    assert len(list((tmp_path / ".voxweft/replaced").rglob("*.json"))) == 1  # its own are not kept


def test_a_mask_bounds_the_work(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path, n=1)
    mask = np.zeros((40, 72, 80), np.uint8)
    mask[:, :40] = 1
    labelled(tmp_path, "TS-0", mask, "slab")
    voxweft("particles", "segment", "-c", config, *DEMO, "--seg-uri", "whole:octopi/1")
    voxweft("particles", "segment", "-c", config, *DEMO, "--seg-uri", "part:octopi/1", "--mask", "slab:octopi/1")
    folder = tmp_path / "ExperimentRuns/TS-0/Segmentations"
    whole, part = (
        zarr.open_group(folder / f"10.000_octopi_1_{n}-multilabel.zarr", mode="r")["0"][:] for n in ("whole", "part")
    )
    assert (part[:, 40:] == 0).all()
    assert (whole[:, 40:] > 0).any()
    assert (part[:, :30] == whole[:, :30]).mean() > 0.98  # at the edge patches that did not run are missing


def test_ensembles_and_averages(tmp_path: Path, voxweft: Voxweft) -> None:
    """Two networks by lists, with one config for both; logits or probabilities averaged; the variance."""
    config = make(tmp_path, n=1)
    import voxweft as package

    demo = Path(package.__file__).parent / "backends/demo"
    state = torch.load(demo / "particles.pth", weights_only=True)
    torch.manual_seed(0)
    torch.save({k: v.float() * (1 + 0.2 * torch.randn(v.shape)) for k, v in state.items()}, tmp_path / "b.pth")
    pair = f"{demo / 'particles.pth'},{tmp_path / 'b.pth'}"
    common = ("-c", config, "-mw", pair, "-mc", demo / "particles_config.yaml", "-ntta", "1", "--save-probabilities")
    maps = []
    for average in ("logits", "probabilities"):
        name = f"{average}:octopi/1"
        voxweft("particles", "segment", *common, "--average", average, "--uncertainty", "--seg-uri", name)
        place = tmp_path / "ExperimentRuns/TS-0/VoxelSpacing10.000"
        probability, variance = (
            zarr.open_group(place / f"wbp_{average}-octopi-1-{kind}_features.zarr", mode="r")["0"][:]
            for kind in ("probability", "variance")
        )
        assert np.abs(probability.sum(axis=0, dtype=np.int64) - 65535).max() <= 4
        assert variance.shape == probability.shape[1:]
        assert 0 < variance.max() <= 0.25 + 1e-6
        maps.append((probability, variance))
    assert np.array_equal(maps[0][1], maps[1][1])
    assert np.abs(maps[0][0].astype(int) - maps[1][0]).max() > 655


BAD = {
    "segment -mw nowhere.pth": "nowhere.pth: no model lies there",
    "segment": "--model-weights is missing",
    "segment -mw demo-particles -ntta 9": "use 1 to 8",
    "segment -mw demo-particles --voxel-size 12": "it has wbp@10",
    "segment -mw demo-particles --tomo-uri denoised@10": "it has wbp@10",
    "segment -mw demo-particles --tomo-uri wbp": "wbp@10.0",
    "segment -mw demo-particles --run-ids TS-7": "the project has TS-0, TS-1",
    "segment -mw demo-particles -ntta 1 --uncertainty": "--ntta 2",
    "segment -mw demo-particles -o 1": "fraction",
    "segment -mw demo-particles -mc no.yaml": "no model config",
    "segment -mw a.pth,b.pth -mc a.yaml,b.yaml,c.yaml": "one each",
    "localize --seg-uri other:octopi/1": "it has none",
    "localize -obj ribosome": "the project has cage, complex, shell",
    "localize -m peak": "watershed, com, peaks",
    "localize -rmin 1 -rmax 0.5": "larger",
    "localize --threshold cage=2": "no probability",
    "evaluate": "--ground-truth-user-id is missing",
    "evaluate -gtuid nobody": "truth/0",
    "evaluate -gtuid truth -names ribosome": "no such particle",
    "export picks.txt": ".star or .csv",
    "export picks.star": "no picks octopi/1",
    "export picks.csv --filter size>3": "score>0.3",
    "import-picks nowhere.csv": "no list of particles",
    "import nowhere": "holds no tomograms",
}


def test_bad_requests_say_what_is_wrong_and_write_nothing(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    for words, said in BAD.items():
        done = voxweft("particles", *words.split(), "-c", config, code=2)
        assert said in done.stderr, (words, done.stderr)
        assert len(done.stderr.splitlines()) <= 3
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


CONFIGS: dict[str, tuple[Any, str]] = {
    "no overlay": ({"overlay_root": None}, "names no overlay_root"),
    "no radius": ({"pickable_objects": [{"name": "cage", "is_particle": True, "label": 1}]}, "cage has no radius"),
    "another type": ({"config_type": "mlcroissant"}, "'mlcroissant' is not read"),
    "unreachable": ({"overlay_root": "ssh://host/x"}, "ssh://host/x is on a file system"),
    "read-only": ({"overlay_root": "http://127.0.0.1:9/x"}, "read-only"),
    "twice": ({"pickable_objects": [{"name": "a", "is_particle": True}] * 2}, "two objects are called a"),
    "not a list": ({"pickable_objects": 7}, "pickable_objects"),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_bad_configs(tmp_path: Path, voxweft: Voxweft, change: str) -> None:
    config = make(tmp_path, n=1)
    labelled(tmp_path, "TS-0", np.ones((40, 72, 80), np.uint8))
    changes, said = CONFIGS[change]
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    assert said in voxweft("particles", "localize", "-c", config, code=2).stderr
    (tmp_path / "broken.json").write_text("{")
    assert "is no JSON" in voxweft("particles", "localize", "-c", "broken.json", code=2).stderr


def test_one_bad_run_of_five_does_not_stop_the_others(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path, n=5, shape=(32, 48, 48))
    runs = tmp_path / "ExperimentRuns"
    (runs / "TS-1/VoxelSpacing10.000/wbp.zarr/0/0/0/0").write_bytes(b"damaged")
    shutil.rmtree(runs / "TS-3/VoxelSpacing10.000/wbp.zarr")
    done = voxweft("particles", "segment", "-c", config, *DEMO, code=1)
    assert "TS-1" in done.stderr
    assert "TS-3 has no tomogram wbp@10; it has none" in done.stderr
    assert "2 of 5 runs failed" in done.stderr
    names = [p.parent.parent.name for p in runs.glob("*/Segmentations/*.zarr")]
    assert sorted(names) == ["TS-0", "TS-2", "TS-4"]
    # a segmentation that another program left half written
    half = runs / "TS-3/Segmentations/10.000_octopi_1_predict-multilabel.zarr"
    half.mkdir(parents=True)
    (half / ".zgroup").write_text('{"zarr_format": 2}')
    done = voxweft("particles", "localize", "-c", config, code=1)
    assert "TS-1 has no segmentation predict:octopi/1" in done.stderr
    assert "TS-3" in done.stderr
    assert "half-written or damaged" in done.stderr
    assert len(list(runs.glob("*/Picks/octopi_1_cage.json"))) == 3
    # coordinates that are none, in the truth of one run
    bad = runs / "TS-2/Picks/truth_0_cage.json"
    bad.write_text(bad.read_text().replace('"x": ', '"x": NaN, "was": ', 1))
    done = voxweft("particles", "evaluate", "-c", config, "-gtuid", "truth", code=1)
    assert "TS-2" in done.stderr
    assert "point 0 has a coordinate that is no finite number" in done.stderr
    assert (tmp_path / "scores/metrics.json").exists()


def test_two_sets_of_picks_that_fit_are_named(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path, n=1)
    picks = tmp_path / "ExperimentRuns/TS-0/Picks"
    for session in ("1", "2"):
        shutil.copy(picks / "truth_0_cage.json", picks / f"octopi_{session}_cage.json")
    more = ("-names", "cage", "--predict-session-id", "")
    done = voxweft("particles", "evaluate", "-c", config, "-gtuid", "truth", *more)
    assert "session 1 is taken, there are also 2" in done.stdout + done.stderr


def test_lists_for_relion_and_back(tmp_path: Path, voxweft: Voxweft) -> None:
    """Centred coordinates for RELION 5, pixels for RELION 4, the columns of the challenge; filters; and back."""
    starfile = pytest.importorskip("starfile")
    config = make(tmp_path, n=2)
    project = Project(str(config))
    rng = np.random.default_rng(0)
    for run in project.runs():
        for name in RADII:
            centres = project.read_picks(run, PicksName(name, "truth", "0")).centres
            project.write_picks(run, PicksName(name, "octopi", "1"), Picks(centres, rng.random(len(centres))))
    for file, kind in (("a.star", "relion5"), ("b.star", "relion4"), ("c.csv", "csv")):
        voxweft("particles", "export", file, "-c", config, "-f", kind)
        voxweft("particles", "import-picks", file, "-c", config, "-pui", kind)
        for run in project.runs():
            for name in RADII:
                ours = points(tmp_path, run, name)
                back = points(tmp_path, run, name, user=kind)
                assert np.allclose(ours, back, atol=1e-3)
    table = starfile.read(tmp_path / "a.star", always_dict=True)["particles"]
    mine = table[table["rlnTomoName"] == "TS-0"]
    first = mine[mine["rlnClassNumber"] == 1].iloc[0]
    centre = points(tmp_path, "TS-0", "cage")[0]
    assert first["rlnCenteredCoordinateXAngst"] == pytest.approx(centre[0] - 80 / 2 * 10, abs=1e-3)
    assert first["rlnCenteredCoordinateZAngst"] == pytest.approx(centre[2] - 40 / 2 * 10, abs=1e-3)
    assert (tmp_path / "c.csv").read_text().startswith("id,experiment,particle_type,x,y,z,score\n")
    mask = np.zeros((40, 72, 80), np.uint8)
    mask[:, :36] = 1
    for run in project.runs():
        labelled(tmp_path, run, mask, "half")
    options = ("--filter", "score>0.3", "--inside", "half:octopi/1", "--min-distance", "150")
    voxweft("particles", "export", "some.csv", "-c", config, *options)
    rows = [line.split(",") for line in (tmp_path / "some.csv").read_text().splitlines()[1:]]
    assert 0 < len(rows) < sum(len(points(tmp_path, run, n)) for run in project.runs() for n in RADII)
    assert all(float(row[6]) > 0.3 and float(row[4]) < 360 for row in rows)


def test_a_folder_of_mrc_files_becomes_a_project(tmp_path: Path, voxweft: Voxweft) -> None:
    folder = tmp_path / "mrc"
    folder.mkdir()
    made = make_tomogram((24, 32, 40), n=2).image
    for name, values in {"a": made, "b": (10 * made).astype(np.int16), "c": made.astype(np.float16)}.items():
        with mrcfile.new(folder / f"{name}.mrc", values) as file:
            file.voxel_size = 10.0
    with mrcfile.new(folder / "unsaid.mrc", made):
        pass
    (folder / "cut.mrc").write_bytes((folder / "a.mrc").read_bytes()[:5000])
    words = ("particles", "import", folder, "-c", "new/config.json", "--objects", "cage=60,shell=130")
    done = voxweft(*words, code=1)
    assert "3 tomograms" in done.stdout
    assert "unsaid.mrc does not say its voxel size" in done.stderr
    assert "cut.mrc" in done.stderr
    project = Project(str(tmp_path / "new/config.json"))
    assert project.runs() == ["a", "b", "c"]
    assert {n: o.radius for n, o in project.particles.items()} == {"cage": 60.0, "shell": 130.0}
    found = zarr.open_group(tmp_path / "new/ExperimentRuns/a/VoxelSpacing10.000/wbp.zarr", mode="r")
    assert np.array_equal(found["0"][:], made)
    assert [found[n].shape for n in "012"] == [(24, 32, 40), (12, 16, 20), (6, 8, 10)]
    assert "already" in voxweft(*words, code=1).stderr


@pytest.mark.skipif(not COPICK.exists(), reason="the environment of the real copick is not here; scripts/test makes it")
def test_the_real_copick_reads_what_was_written_and_the_other_way_round(tmp_path: Path, voxweft: Voxweft) -> None:
    config = make(tmp_path, n=1)
    voxweft("particles", "segment", "-c", config, *DEMO, "--save-probabilities")
    voxweft("particles", "localize", "-c", config)
    program = """
import copick, json, sys, numpy as np
root = copick.from_file(sys.argv[1])
run = root.get_run("TS-0")
seg = run.get_segmentations(name="predict", user_id="octopi", session_id="1", voxel_size=10.0, is_multilabel=True)[0]
tomo = run.get_voxel_spacing(10.0).get_tomogram("wbp")
found = {
    "labels": int(seg.numpy().astype(np.int64).sum()),
    "dtype": str(seg.numpy().dtype),
    "tomogram": float(tomo.numpy().astype(np.float64).sum()),
    "features": {f.feature_type: list(f.numpy().shape) for f in tomo.features},
    "picks": {p.pickable_object_name: [[q.location.x, q.location.y, q.location.z, q.score] for q in p.points]
              for p in run.get_picks(user_id="octopi", session_id="1")},
}
other = root.new_run("NEW")
spacing = other.new_voxel_spacing(10.0)
values = np.random.default_rng(0).normal(size=(30, 40, 50)).astype(np.float32)
spacing.new_tomogram("wbp").from_numpy(values)
labels = np.zeros((30, 40, 50), np.uint8); labels[10:20, 10:20, 10:20] = 2
other.new_segmentation(10.0, "hand", "1", True, user_id="me").from_numpy(labels)
turn = np.eye(4); turn[:3, 3] = (1, 2, 3)
other.new_picks("cage", "5", "me").from_numpy(np.array([[100.0, 200.0, 50.0]]), np.array([turn]))
print(json.dumps(found))
"""
    done = subprocess.run(
        [COPICK, "-W", "ignore", "-c", program, config], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout.splitlines()[-1])
    group = tmp_path / "ExperimentRuns/TS-0/Segmentations/10.000_octopi_1_predict-multilabel.zarr"
    ours = zarr.open_group(group, mode="r")["0"][:]
    assert (found["labels"], found["dtype"]) == (int(ours.astype(np.int64).sum()), "uint8")
    assert found["tomogram"] == pytest.approx(
        make_tomogram((40, 72, 80), n=4, seed=0).image.astype(float).sum(), rel=1e-6
    )
    assert found["features"] == {"predict-octopi-1-probability": [4, 40, 72, 80]}
    for name in RADII:
        assert np.allclose(found["picks"][name], points(tmp_path, "TS-0", name))
    project = Project(str(config))
    assert project.read_picks("NEW", PicksName("cage", "me", "5")).centres.tolist() == [[101.0, 202.0, 53.0]]
    voxweft("particles", "segment", "-c", config, *DEMO, "--run-ids", "NEW")
    voxweft(
        "particles", "localize", "-c", config, "--run-ids", "NEW", "--seg-uri", "hand:me/1", "-rmin", "0.2", "-m", "com"
    )
    assert len(points(tmp_path, "NEW", "complex")) == 1  # label 2


def test_an_overlay_on_s3(tmp_path: Path, voxweft: Voxweft, s3: Any) -> None:
    """A static project that is only read, here and on the server; results, and what is done again, on the server."""
    config = make(tmp_path / "static")
    upload(s3, tmp_path / "static/ExperimentRuns", "tomos/ExperimentRuns")
    env = environment(s3)
    content = json.loads(config.read_text())
    for static in (f"local://{tmp_path}/static", "s3://bucket/tomos"):
        overlay = f"s3://bucket/over-{len(static)}"
        config.write_text(json.dumps(content | {"overlay_root": overlay, "static_root": static}))
        voxweft("particles", "segment", "-c", config, *DEMO, "--save-probabilities", **env)
        voxweft("particles", "localize", "-c", config, **env)
        voxweft("particles", "evaluate", "-c", config, "-gtuid", "truth", "-o", "scores", **env)
        assert yaml.safe_load((tmp_path / "scores/average_metrics.yaml").read_text())["final_fbeta_score"] > 0.8
        assert (
            "2 finished before"
            in voxweft("particles", "segment", "-c", config, *DEMO, "--save-probabilities", **env).stdout
        )
        keys = [o["Key"] for o in s3["client"].list_objects_v2(Bucket="bucket", Prefix=overlay[12:])["Contents"]]
        assert f"{overlay[12:]}/logs/segment-octopi_1_predict.yaml" in keys
        assert not [k for k in keys if "/work/" in k]
    if COPICK.exists():
        program = (
            "import copick, sys; root = copick.from_file(sys.argv[1]); run = root.get_run('TS-0')\n"
            "seg = run.get_segmentations(name='predict', user_id='octopi')[0].numpy()\n"
            "print(seg.shape, seg.max(), sum(len(p.points) for p in run.get_picks(user_id='octopi')))"
        )
        about = {"key": env["AWS_ACCESS_KEY_ID"], "secret": env["AWS_SECRET_ACCESS_KEY"]}
        about["client_kwargs"] = {"endpoint_url": env["AWS_ENDPOINT_URL"]}
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"overlay_fs_args": about, "static_fs_args": about})
        )
        words = [COPICK, "-W", "ignore", "-c", program, config]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
        assert done.stdout.splitlines()[-1].startswith("(40, 72, 80) 3 ")


def test_data_of_the_portal_are_read_from_its_bucket(tmp_path: Path, voxweft: Voxweft, s3: Any) -> None:
    """The layout of the CryoET Data Portal, on a server of our own."""
    config = make(tmp_path / "made", n=1)
    s3["client"].create_bucket(Bucket="cryoet-data-portal-public")
    base = "10440/TS_5/Reconstructions/VoxelSpacing10.000/Tomograms/100"
    source = tmp_path / "made/ExperimentRuns/TS-0/VoxelSpacing10.000/wbp.zarr"
    for path in source.rglob("*"):
        if path.is_file():
            key = f"{base}/TS_5.zarr/{path.relative_to(source)}"
            s3["client"].upload_file(str(path), "cryoet-data-portal-public", key)
    about = {
        "reconstruction_method": "WBP",
        "processing": "denoised",
        "processing_software": "DenoisET",
        "ctf_corrected": True,
    }
    s3["client"].put_object(
        Bucket="cryoet-data-portal-public", Key=f"{base}/tomogram_metadata.json", Body=json.dumps(about).encode()
    )
    content = json.loads(config.read_text()) | {
        "config_type": "cryoet_data_portal",
        "dataset_ids": [10440],
        "overlay_root": f"local://{tmp_path}/mine",
    }
    config.write_text(json.dumps(content))
    named = "wbp-denoised-denoiset-ctfdeconv@10"
    voxweft("particles", "segment", "-c", config, *DEMO, "--tomo-uri", named, **environment(s3))
    voxweft("particles", "localize", "-c", config, **environment(s3))
    assert len(points(tmp_path / "mine", "TS_5", "shell")) > 0
