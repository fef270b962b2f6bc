"""For a shared archive: RO-Crate metadata, plans that are repeated from anywhere, pictures that say what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from rocrate.rocrate import ROCrate

from conftest import Voxweft
from servers import environment, hub, serve_folder, upload
from surfaces import small_checkpoint, waves, write_layers

NULL = "fake://null?patch=16,16,16"
LAYERS = ("--start-layer", 0, "--end-layer", 5)
NET = ("--model", "net.ckpt", "--stride", 32, "--runtime", "torch", "--batch-size", 16)
HERE = ("--zarr-output-dir", "parts", "--runtime-dir", "notes")
LICENCE = ("--ro-crate", "--licence", "CC-BY-4.0", "--creator", "Ada Lovelace 0000-0002-1825-0097")


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return tmp_path / "in.zarr"


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """``seg/layers`` and ``net.ckpt`` in the folder of the test."""
    small_checkpoint(tmp_path / "net.ckpt")
    return write_layers(tmp_path / "seg", waves(5, 130, 150))


def told(path: Path) -> dict[str, Any]:
    """What a PNG holds beside its pixels."""
    with Image.open(path) as picture:
        return dict(picture.info)


def values(path: Path) -> np.ndarray:
    return np.asarray(zarr.open(str(path / "0"), mode="r")[:])


def test_a_crate_says_result_model_input_software_and_settings(
    voxweft: Voxweft, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", "in.zarr", "o.zarr", "--model", NULL, "--overlap", "0.25", *LICENCE]
    assert "archive: o.zarr/ro-crate-metadata.json" in voxweft(*run, SOURCE_DATE_EPOCH="1700000000").stdout
    crate = ROCrate(tmp_path / "o.zarr")
    root, action = crate.root_dataset, crate.get("#run")
    assert root["license"].id == "https://spdx.org/licenses/CC-BY-4.0"
    assert root["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    assert root["mentions"] == action
    assert [p.id for p in root["creator"]] == ["https://orcid.org/0000-0002-1825-0097"]
    assert root["creator"][0]["name"] == "Ada Lovelace"
    assert action.type == "CreateAction"
    assert action["result"] == root
    assert action["instrument"].type == "SoftwareApplication"
    assert action["startTime"] == action["endTime"] == root["datePublished"] == "2023-11-14T22:13:20Z"
    assert action["description"].startswith("voxweft run in.zarr o.zarr --model")
    used = {e.id: e for e in action["object"]}
    assert used["#setting-overlap"]["value"] == 0.25
    plan = json.loads((tmp_path / "o.zarr.voxweft/plan.json").read_text())
    assert used["#volume"]["identifier"] == f"fingerprint:{plan['inputs'][0]['fingerprint']}"
    assert used["#model-0"]["identifier"] == f"sha256:{plan['models'][0]['card']['digest']}"
    parts = {p.id: json.loads((tmp_path / "o.zarr" / p.id).read_text()) for p in root["hasPart"]}
    assert parts["ro-crate/report.json"]["status"] == "complete"
    before = (tmp_path / "o.zarr/ro-crate-metadata.json").read_bytes()
    voxweft("report", "o.zarr", *LICENCE, SOURCE_DATE_EPOCH="1700000000")
    assert (tmp_path / "o.zarr/ro-crate-metadata.json").read_bytes() == before
    voxweft("verify", "o.zarr")
    voxweft("run", "--plan", "o.zarr/ro-crate/plan.json", "again.zarr")
    assert np.array_equal(values(tmp_path / "o.zarr"), values(tmp_path / "again.zarr"))
    voxweft(*run, "--overwrite")  # what is in it goes with it


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--license", "CC-BY-4.0"], "give that too"),
        (["--ro-crate", "--license", "see the letter"], "no SPDX name"),
        (["--ro-crate", "--creator", " "], "--creator is empty"),
    ],
)
def test_what_an_archive_could_not_use_is_refused_before_the_run(
    voxweft: Voxweft, volume: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    assert said in voxweft("run", volume, "o.zarr", "--model", NULL, *flags, code=2).stderr
    assert not (tmp_path / "o.zarr").exists()


def test_a_crate_on_s3_holds_no_secret(voxweft: Voxweft, s3: Any, volume: Path, tmp_path: Path) -> None:
    with serve_folder(tmp_path) as url:
        secret = url.replace("http://", "http://ada:hush@")
        voxweft("run", f"{secret}/in.zarr", "s3://bucket/crate.zarr", "--model", NULL, "--ro-crate", **environment(s3))
    pages = s3["client"].list_objects_v2(Bucket="bucket", Prefix="crate.zarr/ro-crate")["Contents"]
    keys = {item["Key"] for item in pages}
    assert keys == {f"crate.zarr/{n}" for n in ("ro-crate-metadata.json", "ro-crate/plan.json", "ro-crate/report.json")}
    for key in keys:
        text = s3["client"].get_object(Bucket="bucket", Key=key)["Body"].read().decode()
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(text)
        assert "hush" not in text
    about = s3["client"].get_object(Bucket="bucket", Key="crate.zarr/zarr.json")["Body"].read().decode()
    assert "in.zarr" in about
    assert "hush" not in about
    crate = ROCrate(tmp_path / "crate.zarr")
    assert crate.get(f"{url}/in.zarr")["url"] == f"{url}/in.zarr"
    assert "license" not in crate.root_dataset.properties()


def test_a_plan_on_s3_is_repeated(voxweft: Voxweft, s3: Any, volume: Path, tmp_path: Path) -> None:
    env = environment(s3)
    upload(s3, volume, "in.zarr")
    voxweft("run", "s3://bucket/in.zarr", "s3://bucket/first.zarr", "--model", NULL, **env)
    voxweft("run", "--plan", "s3://bucket/first.zarr", "one.zarr", **env)
    voxweft("run", "--plan", "s3://bucket/first.zarr.voxweft/plan.json", "s3://bucket/two.zarr", **env)
    voxweft("run", "--plan", "s3://bucket/two.zarr/", "three.zarr", "--executor", "processes", "--workers", 2, **env)
    voxweft("run", "in.zarr", "direct.zarr", "--model", NULL)
    for name in ("one", "three"):
        assert np.array_equal(values(tmp_path / f"{name}.zarr"), values(tmp_path / "direct.zarr"))
    done = voxweft("run", "--plan", "s3://bucket/nothing.zarr", "x.zarr", code=2, **env)
    assert "no plan lies" in done.stderr
    assert "nothing lies there" in voxweft("run", "--plan", "s3://bucket/no.json", "x.zarr", code=2, **env).stderr


def test_a_copy_without_its_records_is_repeated_too(voxweft: Voxweft, volume: Path, tmp_path: Path) -> None:
    voxweft("pipeline", "--input", volume, "--output", "a.zarr", "--model-path", NULL, *LICENCE)
    shutil.rmtree(tmp_path / "a.zarr.voxweft")
    voxweft("run", "--plan", "a.zarr", "b.zarr")
    with serve_folder(tmp_path) as url:
        voxweft("run", "--plan", f"{url}/a.zarr", "c.zarr")
        assert "no plan lies" in voxweft("run", "--plan", f"{url}/in.zarr", "d.zarr", code=2).stderr
    for name in "bc":
        assert np.array_equal(values(tmp_path / f"{name}.zarr"), values(tmp_path / "a.zarr"))


def test_an_ink_run_on_s3_is_repeated_with_its_picture(
    voxweft: Voxweft, s3: Any, segment: Path, tmp_path: Path
) -> None:
    env = environment(s3)
    upload(s3, segment, "seg")
    s3["client"].upload_file(str(tmp_path / "net.ckpt"), "bucket", "net.ckpt")
    model = ("--model", "s3://bucket/net.ckpt", *NET[2:])
    run = ["ink", "run", "s3://bucket/seg", "s3://bucket/ink.zarr", *LAYERS, *model, *HERE, "--ro-crate"]
    voxweft(*run, **env)
    voxweft("run", "--plan", "s3://bucket/ink.zarr", "again.zarr", **env)
    voxweft("run", "--plan", "s3://bucket/ink.zarr", "s3://bucket/again.zarr", **env)
    s3["client"].download_file("bucket", "again.png", str(tmp_path / "far.png"))
    near = np.asarray(Image.open(tmp_path / "again.png"))
    assert near.any()
    assert np.array_equal(near, values(tmp_path / "again.zarr")[0])
    assert np.array_equal(near, np.asarray(Image.open(tmp_path / "far.png")))
    (tmp_path / "mine.png").write_bytes(b"mine")
    done = voxweft("run", "--plan", "s3://bucket/ink.zarr", "mine.zarr", code=2, **env)
    assert "mine.png is there" in done.stderr
    assert not (tmp_path / "mine.zarr").exists()


def test_an_ink_run_of_a_hub_model_is_repeated(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    (tmp_path / "net.ckpt").rename(repo / "weights.ckpt")
    with hub(repo, "owner/inknet") as (url, _):
        env = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        voxweft("ink", "run", "seg", "a.png", "--model", "owner/inknet", *LAYERS, *NET[2:], *HERE, **env)
        stored = next(p for p in (tmp_path / "parts").glob("*.zarr") if "known" not in p.name)
        voxweft("run", "--plan", stored, "b.zarr", **env)
    one, other = (Image.open(tmp_path / f"{n}.png") for n in "ab")
    with one, other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert json.loads(one.info["voxweft"]) == json.loads(other.info["voxweft"])
        assert json.loads(one.info["voxweft"])["model"] == ["hf://owner/inknet"]


def test_the_last_of_several_parts_tells_the_archive(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    parts = ["ink", "infer", "seg", *LAYERS, *NET, *HERE, "--ro-crate", "--num-parts", 2, "--part-id"]
    voxweft(*parts, 1)
    voxweft(*parts, 0)
    voxweft("ink", "reduce", "--s3-path", "seg", "--model", "net.ckpt", *LAYERS, *HERE, "--ro-crate")
    place = tmp_path / "seg/predictions/prediction_net_00_05-ro-crate-metadata.json"
    assert ROCrate(place).get("#run")["result"].id == "prediction_net_00_05.png"


def test_stages_one_by_one_tell_the_archive(voxweft: Voxweft, volume: Path, tmp_path: Path) -> None:
    flags = ["--model-path", NULL, "--staged", "--ro-crate", "--creator", "The Lab", "--quiet"]
    voxweft("pipeline", "--input", volume, "--output", "o.zarr", *flags)
    crate = ROCrate(tmp_path / "o.zarr")
    assert crate.get("#run")["agent"][0]["name"] == "The Lab"
    assert "SOURCE_DATE_EPOCH" in voxweft("report", "o.zarr", *LICENCE, code=2, SOURCE_DATE_EPOCH="today").stderr


def test_a_picture_says_how_it_was_made(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    run = ["ink", "run", "seg", *LAYERS, *NET, *HERE]
    voxweft(*run[:3], "a.png", *run[3:], "--reverse", "--window", "gaussian", *LICENCE)
    about = json.loads(told(tmp_path / "a.png")["voxweft"])
    plan = json.loads(next((tmp_path / "parts").glob("*.voxweft/plan.json")).read_text())
    assert about["digest"] == [plan["models"][0]["card"]["digest"]]
    assert about["input"] == str(segment)
    how = {name: about[name] for name in ("layers", "direction", "tile", "stride", "window", "tta")}
    assert how == {"layers": "0:5", "direction": "reverse", "tile": 32, "stride": 32, "window": "gaussian-centred",
                    "tta": "none"}  # fmt: skip
    assert "created" not in about
    assert "dpi" not in told(tmp_path / "a.png")  # layers do not say how large a pixel is
    crate = ROCrate(tmp_path / "a-ro-crate-metadata.json")
    assert crate.get("#run")["result"].id == "a.png"
    assert {p.id for p in crate.root_dataset["hasPart"]} == {"a.png", "a-ro-crate/plan.json", "a-ro-crate/report.json"}


def test_a_picture_has_the_resolution_of_its_volume(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "um.zarr"), mode="w", zarr_format=3)
    group.create_array("0", data=waves(5, 130, 150), chunks=(5, 64, 64))
    scale = [{"type": "scale", "scale": [2.4, 2.4, 4.8]}]
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}], "name": ""}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    run = ["ink", "run", "um.zarr"]
    for name in ("a.png", "a.tif"):
        voxweft(*run, name, *LAYERS, *NET, *HERE, "--bits", 16, SOURCE_DATE_EPOCH="1700000000")
    x, y = told(tmp_path / "a.png")["dpi"]
    assert (x, y) == (pytest.approx(25400 / 4.8, rel=1e-4), pytest.approx(25400 / 2.4, rel=1e-4))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        n, of = page.tags["XResolution"].value
        pixels = page.asarray()
    assert n / of == pytest.approx(25400 / 4.8, rel=1e-4)
    title, _, text = page.description.partition("\n")
    assert title == "voxweft ink v1"
    assert json.loads(text) == json.loads(told(tmp_path / "a.png")["voxweft"])
    assert json.loads(text)["created"] == "2023-11-14T22:13:20Z"
    assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / "a.png")))
    voxweft("ink", "run", "seg", "b.png", *LAYERS, *NET, *HERE, PIXEL_RESOLUTION_UM="7.91", SEGMENT_ID="20231201")
    shown = told(tmp_path / "b.png")
    assert shown["dpi"][0] == pytest.approx(25400 / 7.91, rel=1e-4)
    assert json.loads(shown["voxweft"])["segment"] == "20231201"


@pytest.mark.parametrize("names", [["李华"], ["Run", "Volume", "Model 0"], ["Ann B", "Ann  b"]])
def test_people_are_people_whatever_they_are_called(
    voxweft: Voxweft, volume: Path, tmp_path: Path, names: list[str]
) -> None:
    creators = [word for name in names for word in ("--creator", name)]
    voxweft("run", "in.zarr", "o.zarr", "--model", NULL, "--ro-crate", *creators, "--quiet")
    root = ROCrate(tmp_path / "o.zarr").root_dataset
    people = root["creator"] if isinstance(root["creator"], list) else [root["creator"]]
    assert [person["name"] for person in people] == names
    assert {person.type for person in people} == {"Person"}
    assert root["mentions"].type == "CreateAction"


def test_a_picture_of_work_that_is_there_says_what_is_said_now(voxweft: Voxweft, segment: Path, tmp_path: Path) -> None:
    for um, name in ((7.91, "A"), (2.4, "B")):
        say = ("--pixel-resolution-um", um, "--segment-id", name)
        voxweft("ink", "run", "seg", f"{name}.png", *LAYERS, *NET, *HERE, *say, "--quiet")
        record = json.loads(told(tmp_path / f"{name}.png")["voxweft"])
        assert (record["segment"], record["pixel_um"]) == (name, [um, um])
