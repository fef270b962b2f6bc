"""What the server of voxweft view refuses, and what it serves."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import Voxweft
from voxweft.errors import RequestError
from voxweft.viewer.as_zarr import AsZarr
from voxweft.viewer.layers import contrast, layers_of
from voxweft.viewer.window import Window
from warm import WarmProcess

pytest.importorskip("neuroglancer", reason="the extra 'view' is not installed")


def ome(path: Path, arrays: list[np.ndarray], size: float = 10.0, **more: Any) -> str:
    """An OME-Zarr with these levels."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    scales = []
    for n, array in enumerate(arrays):
        group.create_array(str(n), data=array, chunks=(32, 32, 32))
        moved = size * (2**n - 1) / 2
        steps = [{"type": "scale", "scale": [size * 2**n] * 3}, {"type": "translation", "translation": [moved] * 3}]
        scales.append({"path": str(n), "coordinateTransformations": steps})
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    group.attrs.update({"ome": dict[str, Any](version="0.5", multiscales=[{"axes": axes, "datasets": scales}], **more)})
    return str(path)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    folder = tmp_path_factory.mktemp("shown")
    labels = np.zeros((40, 50, 60), np.uint8)
    labels[10:20, 10:20, 10:20] = 3
    about = {
        "properties": [{"label-value": 3, "name": "nucleus <b>"}],
        "colors": [{"label-value": 3, "rgba": [1, 2, 3, 255]}],
    }
    url = ome(folder / "cells.zarr", [labels, labels[::2, ::2, ::2]], **{"image-label": about})
    (folder / "secret").write_text("secret")
    (folder / "cells.zarr/link").symlink_to(folder / "secret")
    stored = folder / "cells.zarr/0/c/0/0/0"
    stored.rename(folder / "chunk")
    stored.symlink_to(folder / "chunk")
    (folder / "cells.zarr.voxweft").mkdir()
    (folder / "cells.zarr.voxweft/report.html").write_text('<a class="place" data-at="1,2,3">worst</a>')
    with Window(layers_of(url)) as opened:
        yield opened


def ask(window: Window, path: str, host: str = "127.0.0.1") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", window.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", f"{host}:{window.port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_a_layer_is_served_with_its_levels_names_and_values(window: Window) -> None:
    base = f"/data/{window.token}/0"
    group = json.loads(ask(window, f"{base}/zarr.json")[1])
    (scale,) = group["attributes"]["ome"]["multiscales"]
    assert [axis.get("unit") for axis in scale["axes"]] == ["meter"] * 3
    steps = scale["datasets"][1]["coordinateTransformations"]
    assert np.allclose(steps[0]["scale"], 20e-9)
    assert np.allclose(steps[1]["translation"], 5e-9)
    about = json.loads(ask(window, f"{base}/1/zarr.json")[1])
    assert about["shape"] == [20, 25, 30]
    chunk = about["chunk_grid"]["configuration"]["chunk_shape"]
    assert chunk == [20, 25, 30]
    values = np.frombuffer(ask(window, f"{base}/1/c/0/0/0")[1], np.uint8).reshape(chunk)
    assert (values[5:10, 5:10, 5:10] == 3).all()
    assert values.sum() == 3 * 5**3
    names = json.loads(ask(window, f"/names/{window.token}/0/info")[1])["inline"]
    assert names["ids"] == ["3"]
    assert names["properties"][0]["values"] == ["nucleus <b>"]
    assert window.shown.layers[0].colours == {3: "#010203"}


@pytest.mark.parametrize(
    "key",
    [
        "../secret", "%2e%2e/secret", "..%2fsecret", "%2e%2e%2fsecret", "..\\secret", "link", "0/c/0/0/9", "0/secret",
        "/etc/passwd", "//etc/passwd", "0/../../secret", "0/zarr.json/../../../secret", "0/c/-1/0/0",
        "7/zarr.json", "7/c/0/0/0", "", "0/c/0/0/99999999999999999999", "0", "0/",
        "zarr.json%00", "./zarr.json",
    ],
)  # fmt: skip
def test_nothing_but_the_layers_is_served(window: Window, key: str) -> None:
    status, body, _ = ask(window, f"/data/{window.token}/0/{key}")
    assert status == 404
    assert b"secret" not in body


def test_a_chunk_that_is_a_link_out_of_the_store_is_not_read(window: Window, tmp_path: Path) -> None:
    assert ask(window, f"/data/{window.token}/0/0/c/0/0/0")[0] == 403
    assert "links out of the store" in window.shown.notes[0]
    url = ome(tmp_path / "real.zarr", [np.ones((8, 8, 8), np.uint8)])
    (tmp_path / "named.zarr").symlink_to(url)  # the store itself may be one
    layer = layers_of(str(tmp_path / "named.zarr")).layers[0]
    assert AsZarr(layer, layer.levels[0].info.geometry).get("0/c/0/0/0")


def test_another_token_layer_or_name_of_the_server_is_refused(window: Window) -> None:
    token, wrong = window.token, "0" * len(window.token)
    for path in ("/data/{}/0/zarr.json", "/names/{}/0/info", "/at/{}/1,2,3", "/report/{}", "/v/{}/", "/events/{}?c=1"):
        assert ask(window, path.format(wrong))[0] == 404, path
        for host in ("evil.example", "localhost", "127.0.0.1.evil.example", "0.0.0.0"):
            assert ask(window, path.format(token), host)[0] == 403, (path, host)
    assert ask(window, f"/data/{token}/9/zarr.json")[0] == 404
    assert ask(window, f"/v/{token}/")[0] == 200
    assert ask(window, f"/credentials/{token}")[0] in (404, 405)


def test_places_of_the_report_open_the_viewer_there(window: Window) -> None:
    status, body, headers = ask(window, f"/report/{window.token}")
    assert status == 200
    assert f'"/at/{window.token}/"'.encode() in body
    assert "script-src 'nonce-" in headers["Content-Security-Policy"]
    status, _, headers = ask(window, f"/at/{window.token}/1,2,3")
    assert (status, headers["Location"]) == (302, f"/v/{window.token}/")
    with window._viewer.txn() as state:
        assert [*state.position] == [3, 2, 1]
    assert ask(window, f"/at/{window.token}/1,2,300")[0] == 404


def test_a_report_that_is_a_link_out_of_the_records_is_not_shown(window: Window, tmp_path: Path) -> None:
    path, kept = Path(window.shown.report), tmp_path / "report.html"
    path.rename(kept)
    path.symlink_to("/etc/hostname")
    try:
        assert ask(window, f"/report/{window.token}")[0] == 404
        assert layers_of(window.shown.title).report == ""
    finally:
        path.unlink()
        kept.rename(path)
    assert layers_of(window.shown.title).report


def test_contrast_and_what_is_missing_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(1000, 50, (40, 40, 40)).astype(np.float32)
    image[0, 0, 0] = 1e9
    url = ome(tmp_path / "image.zarr", [image])
    low, high = layers_of(url).layers[0].low, layers_of(url).layers[0].high
    assert 850 < low < 900
    assert 1100 < high < 1160
    assert contrast(layers_of(url).layers[0].levels) == (low, high)
    with pytest.raises(RequestError, match="10,2,300 is outside"):
        layers_of(url).place("10,2,300")
    with pytest.raises(RequestError, match="write z,y,x"):
        layers_of(url).place("10,2")
    with pytest.raises(RequestError, match="none of the layers: image"):
        layers_of(url).only("labels")


def test_picks_lie_where_their_file_says(tmp_path: Path) -> None:
    url = ome(tmp_path / "tomogram.zarr", [np.ones((40, 40, 40), np.uint8)], size=1.0)  # nm
    (tmp_path / "picks.csv").write_text("id,experiment,particle_type,x,y,z\n0,a,ribosome,50,60,70\n1,a,b,5000,60,70\n")
    shown = layers_of(url, points=[str(tmp_path / "picks.csv")])
    (found,) = [p for p in shown.points if len(p.centres)]
    assert found.name == "ribosome"
    assert np.allclose(found.centres, [[7, 6, 5]])  # z y x in voxels of 10 Angstrom
    assert "1 of 2 points lie outside" in shown.notes[0]
    (tmp_path / "Picks").mkdir()
    point = {"location": {"x": 30, "y": 20, "z": 10}, "transformation_": np.eye(4).tolist(), "instance_id": 0}
    text = json.dumps({"pickable_object_name": "apoferritin", "points": [point]})
    (tmp_path / "Picks/ada_1_apoferritin.json").write_text(text)
    (tmp_path / "Picks/bob_1_apoferritin.json").write_text(text)
    beside = ome(tmp_path / "Segmentations/10.000_ada_1_net.zarr", [np.ones((8, 8, 8), np.uint8)], size=1.0)
    ome(tmp_path / "VoxelSpacing10.000/wbp.zarr", [np.ones((8, 8, 8), np.uint8)], size=1.0)
    (found,) = layers_of(beside).points
    assert [layer.kind for layer in layers_of(beside).layers] == ["image", "labels"]
    assert found.name == "apoferritin"
    assert np.allclose(found.centres, [[1, 2, 3]])


def test_what_its_plan_names_is_shown_below_it_and_its_absence_is_told(
    voxweft: Voxweft, tmp_path: Path, image: np.ndarray
) -> None:
    ome(tmp_path / "image.zarr", [image])
    voxweft(
        "run",
        "image.zarr",
        "labels.zarr",
        "--model",
        "demo",
        "--output",
        "labels",
        "--uncertainty",
        "entropy",
        "-q",
    )
    shown = layers_of(str(tmp_path / "labels.zarr"))
    assert [(layer.name, layer.kind, layer.visible) for layer in shown.layers] == [
        ("image", "image", True),
        ("labels", "labels", True),
        ("uncertainty", "uncertainty", False),
    ]
    assert shown.layers[1].names == {1: "membrane"}
    done = voxweft("view", "labels.zarr", "--screenshot", "p.png", "--layers", "image,unc", PATH="")
    assert "three planes (no Chromium is installed)" in done.stdout
    assert picture(tmp_path / "p.png").std() > 10
    (tmp_path / "image.zarr").rename(tmp_path / "moved.zarr")
    gone = layers_of(str(tmp_path / "labels.zarr"))
    assert [layer.name for layer in gone.layers] == ["labels", "uncertainty"]
    assert "give it with --image" in gone.notes[0]
    given = layers_of(str(tmp_path / "labels.zarr"), str(tmp_path / "moved.zarr"))
    assert given.layers[0].name == "image"


def picture(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_a_wrong_request_is_told_in_a_line(voxweft: Voxweft, tmp_path: Path) -> None:
    ome(tmp_path / "a.zarr", [np.ones((8, 8, 8), np.uint8)])
    for words, told in (
        (["nowhere.zarr"], "nothing lies there"),
        (["a.zarr", "--at", "1,2"], "--at '1,2' is no place"),
        (["a.zarr", "--as", "mesh"], "--as 'mesh' is unknown"),
        (["a.zarr", "--screenshot", "a.jpg"], "ends in .png"),
        (["a.zarr", "--napari"], "napari is not installed"),
        (["a.zarr", "--points", "none.csv"], "no list of particles"),
    ):
        done = voxweft("view", *words, code=2)
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    with pytest.raises(RequestError, match=r"the extra .view.: .* install .*\[view\]"):
        Window(window.shown)


def test_the_command_serves_until_it_is_interrupted(warm: WarmProcess, tmp_path: Path) -> None:
    ome(tmp_path / "a.zarr", [np.ones((8, 8, 8), np.uint8)])
    with (tmp_path / "out").open("wb") as out:
        run = warm.start(["view", "a.zarr", "--at", "1,2,3", "--no-browser"], tmp_path, os.environ, out=out.fileno())
    until = time.monotonic() + 60
    while "Ctrl-C" not in (told := (tmp_path / "out").read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    link = re.search(r"http://127\.0\.0\.1:\d+/at/\w+/1,2,3", told)
    assert link, told
    with urllib.request.urlopen(link[0]) as page:
        assert b"neuroglancer" in page.read()
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(20) == 0


def test_a_port_that_is_taken_is_told(window: Window, voxweft: Voxweft) -> None:
    done = voxweft("view", window.shown.title, "--no-browser", "--port", window.port, code=2)
    assert f"--port {window.port} cannot be listened on" in done.stderr
