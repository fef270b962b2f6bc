"""The scroll pipeline as its users run it: commands, parts, S3, kills, faults, bad input."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from conftest import Voxweft
from servers import environment, faulty, hub, serve, upload
from warm import WarmProcess

NET = "fake://blur?patch=16,16,16&normalization=instance_zscore"
FAST = ["--disable-tta", "--runtime", "torch"]


def levels(path: Path | str) -> np.ndarray:
    node = zarr.open(str(path), mode="r")
    return (node["0"] if isinstance(node, zarr.Group) else node)[:]


def digest(folder: Path) -> str:
    """Of all chunk files of an output."""
    found = hashlib.sha256()
    for path in sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("zarr.json", ".zattrs") and p.suffix != ".partial"
    ):
        found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> str:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return str(tmp_path / "in.zarr")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, warm: WarmProcess, image: NDArray[Any]) -> Path:
    """A folder with in.zarr, parts/ (2 of them) and merged.zarr; not to be changed."""
    folder = tmp_path_factory.mktemp("stages")
    zarr.create_array(str(folder / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    lines = [
        ["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "parts", *FAST, "--num_parts", "2", *flags]
        for flags in (["--part_id", "0"], ["--part_id", "1"])
    ]
    for line in [*lines, ["blend", "parts", "merged.zarr"]]:
        warm.run([*line, "--quiet"], folder, os.environ, timeout_s=500).check_returncode()
    return folder


@pytest.fixture
def merged(stages: Path, tmp_path: Path) -> Path:
    """A copy of the stages in the folder where commands run."""
    shutil.copytree(stages, tmp_path, dirs_exist_ok=True)
    return tmp_path


def commands(page: str) -> list[list[str]]:
    """The command lines of the code blocks of a page, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("vesuvius.")]


@pytest.mark.slow
def test_every_command_line_of_the_reference_runs(voxweft: Voxweft, s3: Any, shared: Path, tmp_path: Path) -> None:
    """Program name and paths are replaced, nothing else; the buckets are those of the page."""
    found = commands(next((shared / "seeds").glob("000*")).read_text())
    assert len(found) == 11, found
    env, scroll = environment(s3), shared / "golden/scroll"
    for bucket in ("input-bucket", "output-bucket"):
        s3["client"].create_bucket(Bucket=bucket)
    for path in (scroll / "input/vol48.zarr").rglob("*"):
        if path.is_file():
            key = f"volume.zarr/{path.relative_to(scroll / 'input/vol48.zarr')}"
            s3["client"].upload_file(str(path), "input-bucket", key)
    model = str(scroll / "model_c2_p32")
    paths = {
        "/path/to/model": model,
        "hf://scrollprize/surface_recto": model,
        "/path/to/input": str(scroll / "input/vol48.zarr"),
        "/path/to/output": str(tmp_path / "parts"),
        "/path/to/prediction_parts": str(tmp_path / "parts"),
        "/path/to/output/merged_logits.zarr": str(tmp_path / "merged_logits.zarr"),
        "/path/to/merged_logits.zarr": str(tmp_path / "merged_logits.zarr"),
        "/path/to/final_output.zarr": str(tmp_path / "final_output.zarr"),
        "s3://output-bucket/logits.zarr": "s3://output-bucket/predictions",  # the page blends this folder
    }
    done = list[Any]()
    for line in found:
        name, *arguments = (paths.get(word, word) for word in line)
        if name == "vesuvius.blend_logits" and "s3://output-bucket/predictions" in arguments:
            at = done[-1].index("--part_id") + 1  # "repeat for as many machines as you'd like"
            voxweft(*done[-1][:at], "3", *done[-1][at + 1 :], **env)
        done.append([name.removeprefix("vesuvius."), *arguments])
        voxweft(*done[-1], **env)
    assert not (tmp_path / "merged_logits.zarr").exists()
    assert levels(tmp_path / "final_output.zarr").shape == (48, 48, 48)
    assert set(np.unique(levels(tmp_path / "final_output.zarr"))) == {0, 255}


@pytest.mark.slow
def test_parts_on_s3_through_a_faulty_proxy_give_the_bits_of_one_local_run(
    voxweft: Voxweft, s3: Any, volume: Any, tmp_path: Path
) -> None:
    upload(s3, Path(volume), "in.zarr")
    voxweft("pipeline", "--input", volume, "--output", "fused.zarr", "--model", NET, *FAST)
    voxweft("pipeline", "--input", volume, "--output", "local.zarr", "--model", NET, *FAST, "--staged")
    with faulty(s3["AWS_ENDPOINT_URL"], refuse=0.05, reset=0.01) as (url, seen):
        env = environment(s3) | {"AWS_ENDPOINT_URL": url}
        for part in (1, 0):
            flags = ["--num_parts", 2, "--part_id", part]
            where = ["--input_dir", "s3://bucket/in.zarr", "--output_dir", "s3://bucket/parts"]
            voxweft("predict", "--model_path", NET, *where, *FAST, *flags, **env)
        for part in (1, 0):
            flags = ["--num_parts", 2, "--part_id", part]
            voxweft("blend", "s3://bucket/parts", "s3://bucket/merged.zarr", *flags, **env)
        voxweft("finalize", "s3://bucket/merged.zarr", "s3://bucket/final.zarr", "--chunk-size", "128,128,128", **env)
        voxweft("verify", "s3://bucket/final.zarr", **env)
        voxweft(
            "pipeline", "--input", "s3://bucket/in.zarr", "--output", "s3://bucket/p.zarr", "--model", NET, *FAST, **env
        )
    assert seen["503"] >= 5
    assert seen["reset"] >= 1
    download(s3, "final.zarr", tmp_path / "final")
    download(s3, "p.zarr", tmp_path / "p")
    assert np.array_equal(levels(tmp_path / "final"), levels(tmp_path / "local.zarr"))
    assert np.array_equal(levels(tmp_path / "p"), levels(tmp_path / "fused.zarr"))
    off = np.abs(levels(tmp_path / "p").astype(int) - levels(tmp_path / "final"))
    assert off.max() <= 1


def download(s3: Any, prefix: str, folder: Path) -> None:
    for item in s3["client"].list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/")["Contents"]:
        target = folder / item["Key"].removeprefix(f"{prefix}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        s3["client"].download_file("bucket", item["Key"], str(target))


def test_a_server_that_refuses_for_good_is_an_error_with_the_name_of_the_object(
    voxweft: Voxweft, s3: Any, volume: Any
) -> None:
    upload(s3, Path(volume), "again.zarr")
    with faulty(s3["AWS_ENDPOINT_URL"], refuse=1.0, reset=0.0) as (url, _):
        env = environment(s3) | {"AWS_ENDPOINT_URL": url}
        flags = ["--model", NET, "--output", "o.zarr", *FAST]
        done = voxweft("pipeline", "--input", "s3://bucket/again.zarr", *flags, code=2, **env)
    assert "again.zarr" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.slow
def test_each_stage_killed_and_started_again_gives_the_same_bits(
    voxweft: Voxweft, warm: WarmProcess, volume: Any, tmp_path: Path
) -> None:
    deep = np.tile(levels(volume), (4, 1, 1))
    zarr.create_array(str(tmp_path / "deep.zarr"), shape=deep.shape, chunks=(16, 32, 32), dtype="uint8")[:] = deep
    stages = {
        "parts": ["predict", "--model_path", NET, "--input_dir", "deep.zarr", "--output_dir", "{}", *FAST],
        "merged.zarr": ["blend", "{}parts", "{}", "--num_workers", "1"],
        "final.zarr": ["finalize", "{}merged.zarr", "{}", "--num_workers", "1"],
    }
    chance = random.Random(1)
    for prefix in ("calm-", "killed-"):
        for name, words in stages.items():
            output = f"{prefix}{name}"
            command = [word.format(prefix if word != "{}" else output) for word in words]
            records = tmp_path / (
                f"{output}/voxweft-records/done/sweep" if name == "parts" else f"{output}.voxweft/done/sweep"
            )
            for kill in range(3 if prefix == "killed-" else 0):
                process = warm.start([*command, "--quiet"], tmp_path, os.environ)
                while process.poll() is None and len(list(records.glob("*"))) <= 2 * kill:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
                process.wait()
            voxweft(*command)
    for name in stages:
        one, other = (digest(tmp_path / f"{prefix}{name}") for prefix in ("calm-", "killed-"))
        assert one == other or name == "parts"
    one, other = (digest(tmp_path / f"{prefix}parts" / "logits_part_0.zarr") for prefix in ("calm-", "killed-"))
    assert one == other


def test_resume_computes_nothing_twice(voxweft: Voxweft, merged: Any) -> None:
    times = {p: p.stat().st_mtime_ns for p in (merged / "parts").rglob("*.0.0.0.0")}
    flags = ["--num_parts", 2, "--part_id", 1]
    voxweft("predict", "--model_path", NET, "--input_dir", "in.zarr", "--output_dir", "parts", *FAST, *flags)
    assert times == {p: p.stat().st_mtime_ns for p in (merged / "parts").rglob("*.0.0.0.0")}


def test_multiclass_ids_are_ids(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    model = "fake://null?patch=16,16,16&classes=4"
    flags = ["--model", model, "--input", volume, *FAST, "--mode", "multiclass"]
    voxweft("pipeline", *flags, "--output", "all.zarr")
    voxweft("pipeline", *flags, "--output", "ids.zarr", "--threshold")
    voxweft("pipeline", *flags, "--output", "staged.zarr", "--staged")
    every, ids = levels(tmp_path / "all.zarr"), levels(tmp_path / "ids.zarr")
    assert every.shape == (5, 50, 61, 72)
    assert np.array_equal(every[4], ids)
    assert ids.max() <= 3
    assert np.abs(every[:4].astype(int) - levels(tmp_path / "staged.zarr")[:4]).max() <= 1


def test_bbox_and_support_volume(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    """Both keep the patches where they are; no positive lies outside the support, in any stage."""
    support = zarr.create_array(str(tmp_path / "support.zarr"), shape=(25, 31, 36), chunks=(8, 8, 8), dtype="uint8")
    support[5:20, 5:20] = 1
    common = ["--model", NET, "--input", volume, *FAST]
    voxweft("pipeline", *common, "--output", "whole.zarr")
    voxweft("pipeline", *common, "--output", "box.zarr", "--bbox", "10:40,:30,20:")
    voxweft("pipeline", *common, "--output", "boxs.zarr", "--bbox", "10:40,:30,20:", "--staged")
    voxweft("pipeline", *common, "--output", "mask.zarr", "--support-volume", "support.zarr")
    voxweft("pipeline", *common, "--output", "masks.zarr", "--mask", "support.zarr", "--staged")
    whole, box, boxs, mask, masks = (levels(tmp_path / f"{n}.zarr") for n in ("whole", "box", "boxs", "mask", "masks"))
    inside = (slice(10, 40), slice(0, 30), slice(20, None))
    assert np.array_equal(box[inside], whole[inside])
    assert np.abs(boxs[inside].astype(int) - whole[inside]).max() <= 1
    kept = np.repeat(np.repeat(np.repeat(support[:], 2, 0), 2, 1), 2, 2)[:50, :61, :72] > 0
    for found in (mask, masks):
        assert not found[~kept].any()
        assert found[kept].any()


def test_settings_are_recorded_and_intermediates_deleted_after_a_look(voxweft: Voxweft, merged: Any) -> None:
    voxweft("finalize", "merged.zarr", "final.zarr", "--delete-intermediates")
    assert not (merged / "merged.zarr").exists()
    assert not (merged / "merged.zarr.voxweft").exists()
    attributes = dict(zarr.open_group(str(merged / "final.zarr"), mode="r").attrs)
    assert attributes["tta_type"] == "none"
    assert attributes["patch_size"] == [16, 16, 16]
    assert attributes["overlap"] == 0.5
    assert attributes["model"] == NET
    assert attributes["processing_mode"] == "binary"
    voxweft("verify", "final.zarr")


def test_finalize_visits_chunks_with_data_only(merged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxweft.apps.scroll import finalize
    from voxweft.stores.zarr import ZarrVolume

    shutil.rmtree(merged / "merged.zarr.voxweft")
    stored = {tuple(map(int, p.name.split("."))) for p in (merged / "merged.zarr").glob("?.*")}
    for index in stored:
        if index[1:] != (1, 1, 1):
            (merged / "merged.zarr" / ".".join(map(str, index))).unlink()
    boxes = []
    read = ZarrVolume.read
    monkeypatch.setattr(ZarrVolume, "read", lambda self, box: boxes.append(box) or read(self, box))
    finalize(str(merged / "merged.zarr"), str(merged / "final.zarr"))
    assert [box.start for box in boxes] == [(16, 16, 16)]
    found = levels(merged / "final.zarr")
    found[16:32, 16:32, 16:32] = 0
    assert not found.any()


def test_estimate_writes_nothing(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    told = voxweft("predict", "--model_path", NET, "--input_dir", volume, "--estimate", *FAST).stdout
    assert "memory" in told
    assert "time" in told
    voxweft("pipeline", "--model", NET, "--input", volume, "--estimate", *FAST)
    assert set(tmp_path.iterdir()) == before


def test_a_normalization_that_contradicts_the_plans_is_told(voxweft: Voxweft, shared: Path) -> None:
    scroll = shared / "golden/scroll"
    model, source = scroll / "model_c2_p32", scroll / "input/vol48.zarr"
    common = ["predict", "--model_path", model, "--input_dir", source, *FAST]
    quiet = voxweft(*common, "--output_dir", "own").stderr
    assert "warning" not in quiet
    told = voxweft(*common, "--output_dir", "other", "--normalization", "percentile_minmax").stderr
    assert "warning: --normalization percentile_minmax differs from the model's training, instance_zscore" in told


def test_a_volume_is_found_in_a_table(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(
        f'[[volume]]\nscroll = "9"\nenergy = 54\nresolution = 7.91\nurl = "{volume}"\n'
    )
    common = ["predict", "--model_path", NET, "--output_dir", "parts", *FAST, "--input_format", "volume"]
    table = ["--volumes", "table.toml"]
    told = voxweft(*common, *table, "--scroll_id", "8", code=2).stderr
    assert "scroll 9 energy 54 resolution 7.91" in told
    voxweft(*common, *table, "--scroll_id", "9", "--energy", "54", "--resolution", "7.91")
    assert "--scroll-id" in voxweft(*common, code=2).stderr
    assert "scroll 1 energy 54 resolution 7.91" in voxweft(*common, "--scroll_id", "77", code=2).stderr


def test_models_from_a_hub_and_from_s3(voxweft: Voxweft, s3: Any, shared: Path, tmp_path: Path) -> None:
    scroll = shared / "golden/scroll"
    common = ["--input_dir", scroll / "input/vol48.zarr", *FAST]
    voxweft("predict", "--model_path", scroll / "model_c2_p32", "--output_dir", "own", *common)
    with hub(scroll / "model_c2_p32", "lab/surface", token="hf_secret") as (url, seen):
        env = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        flags = ["--model_path", "hf://lab/surface", *common]
        refused = voxweft("predict", *flags, "--output_dir", "none", code=2, **env).stderr
        assert "hf://lab/surface" in refused
        assert not (tmp_path / "none").exists()
        voxweft("predict", *flags, "--output_dir", "hub", "--hf_token", "hf_secret", **env)
        asked = sum(n for path, n in seen.items() if "/resolve/" in path)
        voxweft("predict", *flags, "--output_dir", "hub2", "--hf_token", "hf_secret", **env)
        assert sum(n for path, n in seen.items() if "/resolve/" in path) == asked, "the cache was not used"
    voxweft("predict", *flags, "--output_dir", "offline", HF_HUB_OFFLINE="1", **env)
    upload(s3, scroll / "model_c2_p32", "models/surface")
    cache = {"VOXWEFT_CACHE": str(tmp_path / "cache")}
    voxweft(
        "predict",
        "--model_path",
        "s3://bucket/models/surface",
        *common,
        "--output_dir",
        "s3",
        **environment(s3),
        **cache,
    )
    missing = ["--model_path", "s3://bucket/models/none", *common, "--output_dir", "none"]
    assert "nothing lies there" in voxweft("predict", *missing, code=2, **environment(s3), **cache).stderr
    digests = {digest(tmp_path / name / "logits_part_0.zarr") for name in ("own", "hub", "hub2", "offline", "s3")}
    assert len(digests) == 1


def fill(folder: str, bound: int, seed: int) -> int:
    """Put many entries in a shared cache; the most bytes that were ever seen in it."""
    from voxweft.disk_cache import DiskCache

    cache, chance, most = DiskCache(folder, bound), random.Random(seed), 0
    for number in range(60):
        cache.put(f"{seed}-{number}", os.urandom(chance.randrange(1, 4000)))
        most = max(most, sum(map(size_of, Path(folder).glob("??/*"))))
    return most


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process made room
        return 0


def test_the_cache_keeps_its_bound_across_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        most = pool.starmap(fill, [(str(tmp_path / "cache"), 30_000, seed) for seed in range(3)])
    assert 20_000 < max(most) <= 30_000


def test_what_is_cached_is_not_fetched_again(voxweft: Voxweft, s3: Any, volume: Any, tmp_path: Path) -> None:
    upload(s3, Path(volume), "cached.zarr")
    counts = []
    with faulty(s3["AWS_ENDPOINT_URL"], refuse=0.0, reset=0.0) as (url, seen):
        env = environment(s3) | {"AWS_ENDPOINT_URL": url}
        for run in range(2):
            before = seen["passed"]
            flags = ["--output", f"o{run}.zarr", "--model", NET, *FAST, "--cache-dir", "cache", "--cache-size", "50MB"]
            voxweft("pipeline", "--input", "s3://bucket/cached.zarr", *flags, **env)
            counts.append(seen["passed"] - before)
    n_chunks = len(list(Path(volume).rglob("c/*/*/*")))
    assert counts[0] >= n_chunks > 0
    assert counts[1] <= counts[0] - n_chunks
    assert digest(tmp_path / "o0.zarr") == digest(tmp_path / "o1.zarr")


BAD = {
    "part id": (["blend", "parts", "o.zarr", "--num_parts", "2", "--part_id", "2"], ["0 to 1"]),
    "part id of predict": (["predict", "--part_id", "1"], ["--part-id 1", "0 to 0"]),
    "no model": (["predict", "--input_dir", "in.zarr", "--output_dir", "p"], ["--model-path"]),
    "no parts": (["blend", "in.zarr", "o.zarr"], ["logits_part"]),
    "unknown compat": (["blend", "parts", "o.zarr", "--compat", "v1"], ["vesuvius-0.2.4"]),
    "chunk": (["blend", "parts", "o.zarr", "--chunk_size", "1,2"], ["1,2"]),
    "compressor": (
        ["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "p", "--zarr-compressor", "brotli"],
        ["brotli", "zstd"],
    ),
    "tta": (["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "p", "--tta_type", "x"], ["rotation"]),
    "cubic": (
        ["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "p", "--patch_size", "16,16,8"],
        ["cubic"],
    ),
    "another number of parts": (
        ["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "parts", *FAST, "--num_parts", "3"],
        ["num_parts: stored 2, asked for 3"],
    ),
    "mode": (["finalize", "merged.zarr", "o.zarr", "--mode", "ternary"], ["ternary", "multiclass"]),
    "not logits": (["finalize", "gone.zarr", "o.zarr"], ["gone.zarr"]),
    "another file": (["blend", "parts", "merged.txt"], [".zarr"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(voxweft: Voxweft, merged: Any, case: Any) -> None:
    arguments, words = BAD[case]
    before = {p.name for p in merged.iterdir()}
    told = voxweft(*arguments, code=2).stderr
    assert all(word in told for word in words), told
    assert len(told.splitlines()) <= 3
    assert {p.name for p in merged.iterdir()} == before


def set_attribute(store: Path, **values: object) -> None:
    zarr.open_array(str(store), mode="r+").attrs.update(values)


def truncate(parts: Path) -> None:
    chunk = max((parts / "logits_part_1.zarr").glob("?.0.0.0.0"))
    chunk.write_bytes(chunk.read_bytes()[:-7])


def move(parts: Path) -> None:
    zarr.open_array(str(parts / "coordinates_part_1.zarr"), mode="r+")[0] = (3, 5, 7)


def lose(parts: Path) -> None:
    shutil.rmtree(parts / "logits_part_1.zarr")
    shutil.rmtree(parts / "coordinates_part_1.zarr")
    shutil.rmtree(parts / "voxweft-records")


DAMAGE = {
    "a part is missing": (lose, "run part 1 first"),
    "half a part": (lambda p: shutil.rmtree(p / "coordinates_part_1.zarr"), "part 1 has only one of"),
    "another plan": (lambda p: set_attribute(p / "logits_part_1.zarr", plan_digest="x"), "plan_digest"),
    "another volume": (
        lambda p: set_attribute(p / "logits_part_1.zarr", original_volume_shape=[9] * 3),
        "volume_shape",
    ),
    "another patch": (lambda p: set_attribute(p / "logits_part_1.zarr", patch_size=[8, 8, 8]), "patch"),
    "a truncated chunk": (truncate, "cut short"),
    "coordinates": (move, "do not fit a volume of (50, 61, 72)"),
    "an unfinished part": (lambda p: (p / "voxweft-records/parts/1-of-2.json").unlink(), "not finished of 2 parts: 1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_parts_that_do_not_fit_are_refused(voxweft: Voxweft, merged: Any, case: Any) -> None:
    damage, word = DAMAGE[case]
    damage(merged / "parts")
    told = voxweft("blend", "parts", "o.zarr", code=2).stderr
    assert word in told
    assert len(told.splitlines()) <= 3
    assert not (merged / "o.zarr").exists()


def test_a_blend_that_is_not_finished_is_not_finalized(voxweft: Voxweft, merged: Any) -> None:
    (merged / "merged.zarr.voxweft/done/sweep/000001.json").unlink()
    told = voxweft("finalize", "merged.zarr", "o.zarr", code=2).stderr
    assert "slab 1 of column 0" in told
    assert not (merged / "o.zarr").exists()


def test_weights_for_another_number_of_classes(voxweft: Voxweft, volume: Any, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "golden/scroll/model_c2_p32", tmp_path / "model")
    dataset = json.loads((tmp_path / "model/dataset.json").read_text())
    dataset["labels"]["third"] = 2
    (tmp_path / "model/dataset.json").write_text(json.dumps(dataset))
    told = voxweft("predict", "-m", "model", "--input_dir", volume, "--output_dir", "p", *FAST, code=2).stderr
    assert "does not fit its plans" in told
    assert not (tmp_path / "p").exists()


def test_a_server_of_the_wrong_kind(voxweft: Voxweft) -> None:
    import http.server

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with serve(Nothing) as url:
        told = voxweft("predict", "-m", NET, "--input_dir", f"{url}/v.zarr", "--output_dir", "p", *FAST, code=2).stderr
    assert f"{url}/v.zarr" in told


def test_staged_runs_leave_alone_what_is_not_theirs(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("mine")
    common = ["pipeline", "--input", volume, "--model", NET, *FAST, "--staged"]
    for flags in ([], ["--overwrite"]):
        voxweft(*common, "--output", "o.zarr", "--workdir", "home", *flags)
        assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.txt"]
    voxweft(*common, "--output", "k.zarr", "--keep-intermediates")
    voxweft(*common, "--output", "k.zarr", "--keep-intermediates", "--skip-predict", "--overwrite")
    assert (tmp_path / "k_work/parts/logits_part_0.zarr").exists()
    voxweft(*common, "--output", "thing.tif")
    assert (tmp_path / "thing.tif").exists()
    assert not (tmp_path / "thing_work").exists()


def test_a_staged_run_that_is_complete_is_not_run_again(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    command = ["pipeline", "--input", volume, "--model", NET, *FAST, "--staged", "--output", "o.zarr"]
    voxweft(*command)
    before = digest(tmp_path / "o.zarr")
    voxweft(*command, "--log-json", "log.jsonl")
    assert '"layer"' not in (tmp_path / "log.jsonl").read_text()
    assert digest(tmp_path / "o.zarr") == before
    assert "hard: stored False, asked for True" in voxweft(*command, "--threshold", code=2).stderr


def test_overwrite_deletes_parts_only_for_a_sound_request(voxweft: Voxweft, merged: Any, shared: Path) -> None:
    flags = ["--output_dir", "parts", *FAST, "--overwrite"]
    voxweft("predict", "-m", NET, "--input_dir", "nope.zarr", *flags, code=2)
    assert (merged / "parts/logits_part_1.zarr").exists()
    shutil.copytree(shared / "golden/scroll/syn_c2/parts", merged / "theirs")
    theirs = ["--output_dir", "theirs", *FAST, "--overwrite"]
    told = voxweft("predict", "-m", NET, "--input_dir", "in.zarr", *theirs, code=2).stderr
    assert "another program wrote" in told
    assert (merged / "theirs/logits_part_0.zarr").exists()


@pytest.mark.parametrize(
    "line",
    [
        ["finalize", "merged.zarr", "merged.zarr", "--overwrite"],
        ["finalize", "merged.zarr", "merged.zarr/x.zarr"],
        ["predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "in.zarr", *FAST],
        ["pipeline", "-m", NET, "--input", "in.zarr", "--output", "in.zarr", *FAST, "--overwrite"],
    ],
)
def test_nothing_is_written_over_what_is_read(voxweft: Voxweft, merged: Any, line: Any) -> None:
    before = digest(merged)
    voxweft(*line, code=2)
    assert digest(merged) == before


@pytest.mark.parametrize("how", ["3-D", "sharded"])
def test_logits_in_other_layouts_are_finalized_whole(voxweft: Voxweft, tmp_path: Path, how: Any) -> None:
    shape = (40, 33, 21)
    if how == "3-D":
        array = zarr.create_array(str(tmp_path / "m.zarr"), shape=shape, chunks=(16,) * 3, dtype="float16")
    else:
        array = zarr.create_array(
            str(tmp_path / "m.zarr"), shape=(1, *shape), chunks=(1, 8, 8, 8), shards=(1, 16, 16, 16), dtype="float16"
        )
    array[...] = 3.0
    voxweft("finalize", "m.zarr", "o.zarr")
    assert (levels(tmp_path / "o.zarr") == int(255 / (1 + np.exp(-3.0)))).all()


def test_an_image_is_no_array_of_logits(voxweft: Voxweft, merged: Any) -> None:
    told = voxweft("finalize", "in.zarr", "o.zarr", code=2).stderr
    assert "uint8" in told
    assert "logits" in told


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_logits_that_were_lost_are_named_and_predicted_again(voxweft: Voxweft, merged: Any, damage: Any) -> None:
    voxweft("blend", "parts", "whole.zarr")
    chunk = merged / "parts/logits_part_1.zarr/3.0.0.0.0"
    chunk.unlink() if damage == "lost" else chunk.write_bytes(chunk.read_bytes()[:-9])
    told = voxweft("blend", "parts", "o.zarr", code=2).stderr
    assert "patch 3" in told or "3.0.0.0.0" in told
    assert "--part_id 1 again" in told
    flags = ["--num_parts", 2, "--part_id", 1]
    voxweft("predict", "-m", NET, "--input_dir", "in.zarr", "--output_dir", "parts", *FAST, *flags)
    voxweft("blend", "parts", "o.zarr")
    assert np.array_equal(levels(merged / "o.zarr"), levels(merged / "whole.zarr"))


def test_a_patch_in_two_parts_is_refused(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    for number, case in enumerate(("c2_vol48_rot", "c2_vol48_notta")):
        for kind in ("logits", "coordinates"):
            source = shared / f"golden/scroll/{case}/parts/{kind}_part_0.zarr"
            shutil.copytree(source, tmp_path / f"mixed/{kind}_part_{number}.zarr")
    assert "part 1 says it is part 0 of 1" in voxweft("blend", "mixed", "o.zarr", code=2).stderr
    for kind in ("logits", "coordinates"):
        for number in (0, 1):
            set_attribute(tmp_path / f"mixed/{kind}_part_{number}.zarr", part_id=number, num_parts=2)
    assert "8 patches are in two of the 2 parts" in voxweft("blend", "mixed", "o.zarr", code=2).stderr


def test_logits_that_were_replaced_are_another_input(voxweft: Voxweft, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden/scroll"
    shutil.copytree(golden / "c2_vol48_rot/parts", tmp_path / "p")
    voxweft("blend", "p", "o.zarr")
    voxweft("blend", "p", "o.zarr")
    shutil.rmtree(tmp_path / "p")
    shutil.copytree(golden / "c2_vol48_mirror/parts", tmp_path / "p", copy_function=shutil.copy)
    assert "voxels differ" in voxweft("blend", "p", "o.zarr", code=2).stderr


def test_the_support_of_predict_reaches_finalize(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    support = zarr.create_array(str(tmp_path / "support.zarr"), shape=(25, 31, 36), chunks=(8, 8, 8), dtype="uint8")
    support[5:20, 5:20] = 1
    flags = ["--output_dir", "parts", *FAST, "--mask", "support.zarr"]
    voxweft("predict", "-m", NET, "--input_dir", volume, *flags)
    report = json.loads((tmp_path / "parts/voxweft-records/parts/0-of-1.json").read_text())
    assert report["totals"]["n_skipped"] > 0
    voxweft("blend", "parts", "merged.zarr")
    voxweft("finalize", "merged.zarr", "final.zarr")
    voxweft("pipeline", "-m", NET, "--input", volume, "--output", "fused.zarr", *FAST, "--mask", "support.zarr")
    staged, fused = levels(tmp_path / "final.zarr"), levels(tmp_path / "fused.zarr")
    assert np.array_equal(staged > 0, fused > 0)
    zarr.create_array(str(tmp_path / "odd.zarr"), shape=(11, 12, 9), chunks=(8, 8, 8), dtype="uint8")
    told = voxweft(
        "predict", "-m", NET, "--input_dir", volume, "--output_dir", "p", *FAST, "--mask", "odd.zarr", code=2
    )
    assert "whole factor" in told.stderr


@pytest.mark.parametrize(
    "line",
    [
        ["pipeline", "-m", NET, "--input", "in.zarr", "--output", "o.zarr", "--bbox", ":9,:9,:9"],
        ["finalize", "merged.zarr", "o.zarr", "--mask", "in.zarr"],
        ["finalize", "merged.zarr", "o.zarr", "--threshold", "--threshold-value", "0.9"],
    ],
)
def test_compat_refuses_what_that_release_did_not_know(voxweft: Voxweft, merged: Any, line: Any) -> None:
    told = voxweft(*line, "--compat", "vesuvius-0.2.4", code=2).stderr
    assert "--compat vesuvius-0.2.4 knows" in told


def test_no_secret_is_written(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    for flag in (["--hf-token", "hf_SECRET"], ["--hf_token=hf_SECRET"]):
        voxweft("pipeline", "-m", NET, "--input", volume, "--output", "my result.zarr", *FAST, *flag, "--overwrite")
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"hf_SECRET" not in path.read_bytes(), path
    command = zarr.open_group(str(tmp_path / "my result.zarr"), mode="r").attrs["voxweft"]["command"]
    assert "'my result.zarr'" in command


def test_a_fused_run_in_parts_on_several_machines(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    common = ["pipeline", "-m", NET, "--input", volume, *FAST, "--chunk-size", "16,32,32"]
    voxweft(*common, "--output", "one.zarr")
    for part in (2, 0, 1):
        voxweft(*common, "--output", "three.zarr", "--num_parts", 3, "--part_id", part)
    assert np.array_equal(levels(tmp_path / "one.zarr"), levels(tmp_path / "three.zarr"))


def test_two_runs_of_one_part_do_not_harm_each_other(
    voxweft: Voxweft, warm: WarmProcess, volume: Any, tmp_path: Path
) -> None:
    command = ["predict", "-m", NET, "--input_dir", volume, "--output_dir", "parts", *FAST, "--quiet"]
    runs = [warm.start(command, tmp_path, os.environ) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    voxweft("blend", "parts", "merged.zarr")
    voxweft(*command, "--output_dir", "calm")
    assert digest(tmp_path / "parts/logits_part_0.zarr") == digest(tmp_path / "calm/logits_part_0.zarr")


def test_every_kind_of_output_can_be_verified(voxweft: Voxweft, merged: Any) -> None:
    assert "complete: 2 parts, 336 patches" in voxweft("verify", "parts").stdout
    assert "complete" in voxweft("verify", "merged.zarr").stdout
    assert "finalize them first" in voxweft("report", "merged.zarr", code=2).stderr
    voxweft("finalize", "merged.zarr", "old.zarr", "--compat", "vesuvius-0.2.4")
    assert "complete" in voxweft("verify", "old.zarr").stdout
    voxweft("report", "old.zarr")
    truncate(merged / "parts")
    assert "cut short" in voxweft("verify", "parts", code=2).stderr
