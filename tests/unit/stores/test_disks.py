"""Disks and servers as people have them: no hard links, symbolic links, servers that forbid or answer anything."""

from __future__ import annotations

import errno
import http.server
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft
from servers import serve
from voxweft import remote
from voxweft.errors import ReadError, RequestError, VolumeError
from voxweft.stores import durable
from voxweft.stores.durable import create_once
from voxweft.stores.url import remove

VOXELS = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)


@pytest.mark.usefixtures("links")
def test_only_one_is_first_and_none_sees_half(tmp_path: Path) -> None:
    for n in range(20):
        path, contents = tmp_path / str(n), [bytes([i]) * 5000 for i in range(8)]
        with ThreadPoolExecutor(8) as threads:
            first = [*threads.map(lambda data, path=path: create_once(path, data), contents)]
        assert first.count(True) == 1
        assert path.read_bytes() == contents[first.index(True)]
    assert not [*tmp_path.glob("*.tmp")]


def test_a_claim_of_one_who_died_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(durable, "CLAIM_S", 0.2)
    (tmp_path / "plan.json.0.tmp").touch()
    assert create_once(tmp_path / "plan.json", b"mine")
    assert not create_once(tmp_path / "plan.json", b"yours")
    assert (tmp_path / "plan.json").read_bytes() == b"mine"


@pytest.mark.usefixtures("links")
def test_a_run_and_its_repetition(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 200, (40, 24, 24), dtype=np.uint8)
    for _ in range(2):
        assert voxweft.run(image, str(tmp_path / "o.zarr"), "fake://null?patch=16,16,16").status == "complete"


def test_what_a_link_points_to_is_emptied_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "scratch/deep").mkdir(parents=True)
    (tmp_path / "o.zarr").symlink_to(tmp_path / "scratch")
    remove(str(tmp_path / "o.zarr"))
    assert (tmp_path / "o.zarr").is_symlink()
    assert [*(tmp_path / "scratch").iterdir()] == []


def test_a_missing_right_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.create_array(str(tmp_path / "v.zarr"), data=VOXELS)
    volume = voxweft.open_volume(tmp_path / "v.zarr")

    def locked(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(volume.volume, "_read", locked)
    with pytest.raises(ReadError, match="may not be read: Permission denied") as caught:
        volume.read(voxweft.Box.of(VOXELS.shape))
    assert "damaged" not in str(caught.value)


def test_the_home_of_nobody() -> None:
    for call in (voxweft.open_volume, voxweft.load_model):
        with pytest.raises(RequestError, match="~nobodyatall/x"):
            call("~nobodyatall/x")


@pytest.mark.parametrize(
    ("url", "endpoint", "says"),
    [
        ("s3://lab/v.zarr", "localhost:9000", "AWS_ENDPOINT_URL 'localhost:9000' is no URL"),
        ("s3://la b/v.zarr", "", "'la b'"),
        ("s3:///v.zarr", "", "''"),
    ],
)
def test_buckets_and_endpoints_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, url: str, endpoint: str, says: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(RequestError, match=says):
        voxweft.open_volume(url)


def test_a_profile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    for name in (*remote.OWN, *remote.FILES, *remote.ENDPOINTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    remote._provider.cache_clear()
    assert remote._provider() is None
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = KEY\naws_secret_access_key = SECRET\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    remote._provider.cache_clear()
    assert remote._provider()()["access_key_id"] == "KEY"
    monkeypatch.setenv("AWS_PROFILE", "other")
    remote._provider.cache_clear()
    with pytest.raises(RequestError, match="other"):
        remote._provider()
    remote._provider.cache_clear()


@contextmanager
def serving(folder: Path, absent: int, page: bytes = b"") -> Iterator[str]:
    """A folder over http on loopback that answers with this code, and page, for what is not there."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *more: Any) -> None:
            super().__init__(*more, directory=str(folder))

        def send_head(self) -> Any:
            if Path(self.translate_path(self.path)).is_file():
                return super().send_head()
            self.send_response(absent)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(page)
            return None

        def log_message(self, *_: Any) -> None: ...

    with serve(Handler) as url:
        yield url


def test_a_bucket_that_forbids_what_is_not_there(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "v.zarr"), shape=(4, 5, 6), chunks=(2, 5, 6), dtype="uint8", fill_value=7)
    array[:2] = VOXELS[:2]
    with serving(tmp_path, 403) as url:
        found = voxweft.open_volume(f"{url}/v.zarr").read(voxweft.Box.of(VOXELS.shape))[0]
        assert np.array_equal(found[:2], VOXELS[:2])
        assert (found[2:] == 7).all()
        with pytest.raises(VolumeError, match="the server forbids it"):
            voxweft.open_volume(f"{url}/other.zarr")


def test_a_server_that_answers_anything_with_its_front_page(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with serving(tmp_path, 200, b"<html>Welcome</html>") as url, pytest.raises(VolumeError, match="no zarr array"):
        voxweft.open_volume(f"{url}/v.zarr")
    assert not [w for w in recwarn if "zarr" in str(w.category)]


def test_a_plan_knows_where_its_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("v.zarr", data=np.random.default_rng(0).integers(1, 200, (20, 20, 20), dtype=np.uint8))
    zarr.create_array("mask.zarr", data=np.ones((20, 20, 20), np.uint8))
    options = voxweft.RunOptions(mask="mask.zarr")
    for _ in range(2):  # the same words name the same files
        voxweft.run("v.zarr", "o.zarr", "fake://null?patch=16,16,16", options)
    plan = json.loads(Path("o.zarr.voxweft/plan.json").read_text())
    assert [one["ref"]["url"] for one in plan["inputs"]] == [str(tmp_path / n) for n in ("v.zarr", "mask.zarr")]
