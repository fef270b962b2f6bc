"""Real servers on loopback: S3 and plain HTTP."""

from __future__ import annotations

import http.server
import json
import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import Voxweft
from servers import KEYS, environment, faulty, upload
from voxweft.testing import RecordsContract, SinkContract

FAULTS = int(os.environ.get("VOXWEFT_FAULTS", "0"))
NULL = "fake://null?patch=16,16,16"


@pytest.fixture
def volume(tmp_path: Path, image: np.ndarray) -> Path:
    zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(16, 32, 32), dtype="uint8")[:] = image
    return tmp_path / "in.zarr"


def test_a_server_that_refuses_and_drops_changes_no_bit(
    voxweft: Voxweft, s3: Any, volume: Path, tmp_path: Path
) -> None:
    """VOXWEFT_FAULTS=10000 goes on until so many requests were refused or dropped."""
    upload(s3, volume, "faulted.zarr")
    flags = ["--model", NULL, "--chunk", "8,16,16"]
    voxweft("run", volume, "local.zarr", *flags)
    local = {str(p.relative_to(tmp_path / "local.zarr")): p for p in (tmp_path / "local.zarr/0/c").rglob("*")}
    wanted = {key: p.read_bytes() for key, p in local.items() if p.is_file()}
    n_runs = 0
    with faulty(s3["AWS_ENDPOINT_URL"], refuse=0.15, reset=0.05) as (url, seen):
        env = environment(s3) | {"AWS_ENDPOINT_URL": url}
        while not n_runs or seen["503"] + seen["reset"] < FAULTS:
            place = f"s3://bucket/f{n_runs}.zarr"
            voxweft("run", "s3://bucket/faulted.zarr", place, *flags, **env)
            voxweft("verify", place, **env)
            pages = (
                s3["client"].get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"f{n_runs}.zarr/0/c/")
            )
            keys = [item["Key"] for page in pages for item in page["Contents"]]
            stored = {key.partition("/")[2]: s3["client"].get_object(Bucket="bucket", Key=key) for key in keys}
            assert {key: found["Body"].read() for key, found in stored.items()} == wanted
            n_runs += 1
            logging.getLogger(__name__).info("%s runs, %s", n_runs, dict(seen))
    logging.getLogger(__name__).warning("%s runs, %s", n_runs, dict(seen))


def test_chunks_under_other_names_on_s3_are_no_zeros(voxweft: Voxweft, s3: Any, tmp_path: Path) -> None:
    zarr.create_array(
        str(tmp_path / "a.zarr"),
        data=np.ones((8, 8, 8), "uint8"),
        chunks=(4, 4, 4),
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    upload(s3, tmp_path / "a.zarr", "a.zarr")
    metadata = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    for said, code in (({}, 0), ({"dimension_separator": "."}, 2), ({"dimension_separator": None}, 0)):
        changed = {k: v for k, v in (metadata | said).items() if v is not None}
        s3["client"].put_object(Bucket="bucket", Key="a.zarr/.zarray", Body=json.dumps(changed).encode())
        told = voxweft("info", "s3://bucket/a.zarr", code=code, **environment(s3))
        assert ("none of them would be found" in told.stderr) == bool(code)
    assert "does not say" in " ".join(told.stdout.split())


def test_s3_in_and_out_in_parts_gives_the_bytes_of_a_local_run(
    voxweft: Voxweft, s3: Any, volume: Any, tmp_path: Path
) -> None:
    upload(s3, volume, "data/in.zarr")
    env = environment(s3)
    flags = ["--model", NULL, "--chunk", "16,32,32"]
    voxweft("run", volume, "local.zarr", *flags)
    for part in (1, 0):
        voxweft(
            "run",
            "s3://bucket/data/in.zarr",
            "s3://bucket/out.zarr",
            *flags,
            "--num-parts",
            2,
            "--part-id",
            part,
            **env,
        )
    voxweft("verify", "s3://bucket/out.zarr", **env)
    stored = s3["client"].list_objects_v2(Bucket="bucket", Prefix="out.zarr/0/c/")["Contents"]
    local = {
        str(p.relative_to(tmp_path / "local.zarr")): p for p in (tmp_path / "local.zarr/0/c").rglob("*") if p.is_file()
    }
    assert {o["Key"].removeprefix("out.zarr/") for o in stored} == set(local)
    for key, path in local.items():
        assert s3["client"].get_object(Bucket="bucket", Key=f"out.zarr/{key}")["Body"].read() == path.read_bytes()
    voxweft("report", "s3://bucket/out.zarr", **env)
    again = voxweft(
        "run", "s3://bucket/data/in.zarr", "s3://bucket/out.zarr", *flags, "--overlap", "0.2", code=2, **env
    )
    assert "overlap: stored 0.5" in again.stderr
    voxweft("run", "s3://bucket/data/in.zarr", "s3://bucket/out.zarr", *flags, "--overwrite", **env)


def test_missing_objects_are_named(voxweft: Voxweft, s3: Any) -> None:
    done = voxweft("run", "s3://bucket/nothing.zarr", "o.zarr", "--model", NULL, code=2, **environment(s3))
    assert "s3://bucket/nothing.zarr" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_server_that_is_not_there(voxweft: Voxweft) -> None:
    env = {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = voxweft("info", "s3://bucket/x.zarr", code=2, **env)
    assert "s3://bucket/x.zarr" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_plain_http(voxweft: Voxweft, volume: Any, tmp_path: Path) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            voxweft("run", f"http://127.0.0.1:{server.server_port}/in.zarr", "a.zarr", "--model", NULL)
            voxweft("run", volume, "b.zarr", "--model", NULL)
        finally:
            server.shutdown()
            thread.join()
    one, other = (zarr.open(str(tmp_path / f"{n}.zarr/0"), mode="r")[:] for n in "ab")
    assert np.array_equal(one, other)


class TestS3Sink(SinkContract):
    @pytest.fixture(autouse=True)
    def _server(self, s3: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        for key, value in environment(s3).items():
            monkeypatch.setenv(key, value)
        self.name = f"s3://bucket/sinks/{request.node.name}.zarr"

    def make(self, tmp_path: Path) -> Any:
        from voxweft.stores.ome_zarr import OmeZarrSink

        return OmeZarrSink(self.name)

    def reopen(self, sink: Any, tmp_path: Path) -> Any:
        return self.make(tmp_path)


class TestS3Records(RecordsContract):
    @pytest.fixture(autouse=True)
    def _server(self, s3: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        for key, value in environment(s3).items():
            monkeypatch.setenv(key, value)
        self.name = f"s3://bucket/records/{request.node.name}"

    def make(self, tmp_path: Path) -> Any:
        from voxweft.stores.url import ObjectRecords

        return ObjectRecords(self.name)
