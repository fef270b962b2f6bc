"""voxweft view in a real browser without a display."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

from conftest import Voxweft
from voxweft.viewer.layers import layers_of
from voxweft.viewer.screenshot import chromium, photograph, planes
from voxweft.viewer.window import Window

pytest.importorskip("neuroglancer", reason="the extra 'view' is not installed")
KINDS = ("TCP_CONNECT_ATTEMPT", "URL_REQUEST_START_JOB")
needs_browser = pytest.mark.skipif(not chromium(), reason="no Chromium is installed")


def asked_for(log: Path) -> tuple[set[str], set[str]]:
    """Of Chromium's log of its network: what pages asked for, and where a connection was made to."""
    text = log.read_text()
    connects, requests = (int(re.search(rf'"{name}":(\d+)', text)[1]) for name in KINDS)
    urls, addresses = set(), set()
    for line in text.splitlines()[1:]:
        event = json.loads(line[:-1]) if line.endswith("},") and '"type"' in line else {"type": -1}
        told = event.get("params", {})
        if event["type"] == connects and "address" in told:
            addresses.add(told["address"].rpartition(":")[0])
        if event["type"] == requests and told.get("initiator", "").startswith("http"):
            urls.add(urlsplit(told["url"]).hostname)
    return urls, addresses


@needs_browser
def test_image_and_labels_are_drawn_and_nothing_is_asked_of_others(tmp_path: Path) -> None:
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [4.0, 1.0, 1.0]}, {"type": "translation", "translation": [0.0] * 3}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    _, y, x = np.meshgrid(*(np.arange(n) for n in (16, 64, 64)), indexing="ij")
    image = (100 + 60 * np.sin(x / 4) + 60 * np.cos(y / 5)).astype(np.int16)
    labels = np.where((y > 10) & (y < 30) & (x > 10) & (x < 30), 2, 0).astype(np.uint8)
    about = {"image-label": {"colors": [{"label-value": 2, "rgba": [0, 255, 0, 255]}]}}
    for name, values, more in (("image", image, {}), ("labels", labels, about)):
        group = zarr.open_group(tmp_path / f"{name}.zarr", mode="w", zarr_format=3)
        group.create_array("0", data=values, chunks=(8, 32, 32))
        group.attrs.update({"ome": dict[str, Any](version="0.5", multiscales=scales, **more)})
    shown = layers_of(str(tmp_path / "labels.zarr"), str(tmp_path / "image.zarr"))
    with Window(shown) as window:
        data = photograph(window, chromium(), 90, f"--log-net-log={tmp_path / 'net.json'}")
    assert data is not None
    (tmp_path / "seen.png").write_bytes(data)
    seen = pixels(tmp_path / "seen.png")[: 960 // 2, : 1280 // 2]  # the panel x y
    green = (seen[..., 1] > seen[..., 0] + 40) & (seen[..., 1] > seen[..., 2] + 40)
    rows, columns = np.flatnonzero(green.sum(axis=1) > 20), np.flatnonzero(green.sum(axis=0) > 20)
    assert 0.85 < len(rows) / len(columns) < 1.15
    assert 0.2 < len(rows) / 420 < 0.4  # 19 of 64 voxels
    grey = seen[~green]
    assert len(np.unique(grey)) > 60
    own = planes(shown, shown.place("")).astype(int)  # drawn without a browser
    assert own.shape == (480 + 8 + 480, 480 + 8 + 480, 3)  # 16 planes of 4 micrometers are as high as 64 of 1
    tinted = (own[:480, :480, 1] > own[:480, :480, 0] + 40).mean()
    assert abs(tinted - (19 / 64) ** 2) < 0.01
    assert asked_for(tmp_path / "net.json") == ({"127.0.0.1"}, {"127.0.0.1"})


@needs_browser
def test_the_command_takes_a_picture_of_a_remote_result(
    voxweft: Voxweft, tmp_path: Path, s3: dict[str, object]
) -> None:
    from servers import environment, upload

    group = zarr.open_group(tmp_path / "remote.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.random.default_rng(0).integers(0, 255, (20, 40, 40), np.uint8), chunks=(20, 20, 20))
    axes = [{"name": n, "type": "space"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [1.0] * 3}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group.attrs.update({"ome": dict[str, Any](version="0.5", multiscales=scales)})
    upload(s3, tmp_path / "remote.zarr", "view/remote.zarr")
    done = voxweft("view", "s3://bucket/view/remote.zarr", "--screenshot", "r.png", **environment(s3))
    assert "neuroglancer in Chromium" in done.stdout
    assert pixels(tmp_path / "r.png")[:480, :640].std() > 25


def pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)
