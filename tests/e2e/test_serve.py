"""The HTTP server with a real client over loopback: what it gives, what it refuses, and what it lives through."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Voxweft

httpx = pytest.importorskip("httpx")
nibabel = pytest.importorskip("nibabel")
pytest.importorskip("fastapi")

MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
TOKEN = "a-token-of-sixteen-or-more"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    def __init__(self, *flags: Any) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}/api"
        command = [sys.executable, "-m", "voxweft", "serve", "--port", str(port), *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=5)
                break
            except httpx.TransportError:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.1)

    def stop(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


@pytest.fixture(scope="module")
def models(shared: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "bone.onnx").write_bytes((shared / "golden/medical/itkit/model/tiny_meta.onnx").read_bytes())
    (folder.parent / "outside.onnx").write_bytes(b"not for clients")
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    found = Server("--models", models, "--max-upload", "2MB")
    yield found
    errors = found.stop()
    assert "Traceback" not in errors, errors


def packed(seed: int = 0, shape: tuple[int, int, int] = (30, 20, 25)) -> bytes:
    voxels = np.random.default_rng(seed).integers(-100, 300, shape).astype(np.int16)
    return nibabel.Nifti1Image(voxels, np.diag([0.8, 0.9, 2.5, 1])).to_bytes()


def infer(server: Server, image: bytes, name: str = "a.nii", **fields: str) -> Any:
    return httpx.post(f"{server.url}/infer", files={"image": (name, image)}, data=fields, timeout=120)


def test_a_viewer_loads_a_model_and_gets_labels_on_the_grid_of_its_image(
    server: Server, voxweft: Voxweft, models: Path, tmp_path: Path
) -> None:
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert infer(server, packed()).json() == {"error": "no model is loaded; POST /api/model first"}
    loaded = httpx.post(f"{server.url}/model", json={"backend_type": "onnx", "model_path": "bone.onnx"})
    assert loaded.status_code == 200, loaded.text
    assert httpx.get(f"{server.url}/info").json()["model"]["name"] == "bone.onnx"
    found = infer(server, packed())
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "application/octet-stream"
    labels = nibabel.Nifti1Image.from_bytes(found.content)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii").write_bytes(packed())
    voxweft("batch", "-i", "in", "-o", "out", "--backend", "onnx", "--onnx", models / "bone.onnx")
    wanted = nibabel.load(tmp_path / "out/a.nii")
    assert (np.asarray(labels.dataobj) == np.asarray(wanted.dataobj)).all()
    assert (labels.affine == wanted.affine).all()


def test_a_window_can_be_given(server: Server) -> None:
    httpx.post(f"{server.url}/model", json={"backend_type": "onnx", "model_path": "bone.onnx"})
    plain, zero = infer(server, packed()), infer(server, packed(), window_level="0", window_width="100")
    assert zero.status_code == 200
    assert plain.content != zero.content
    assert infer(server, packed(), window_level="0").status_code == 400


@pytest.mark.parametrize(
    "path", ["../outside.onnx", "/etc/passwd", "bone.onnx/../../outside.onnx", "a,b", "", "nowhere"]
)
def test_no_path_leads_out_of_the_folder_of_models(server: Server, path: str) -> None:
    answer = httpx.post(f"{server.url}/model", json={"model_path": path})
    assert answer.status_code == 400
    assert "outside" not in answer.json()["error"]


def test_two_hundred_malformed_requests(server: Server) -> None:
    """Each gets a line of JSON and an honest status; the server lives on."""
    httpx.post(f"{server.url}/model", json={"backend_type": "onnx", "model_path": "bone.onnx"})
    rng = np.random.default_rng(3)
    for n in range(200):
        noise = rng.bytes(int(rng.integers(0, 500)))
        match n % 8:
            case 0:
                answer = httpx.post(f"{server.url}/model", content=noise)
            case 1:
                answer = httpx.post(
                    f"{server.url}/infer", content=noise, headers={"content-type": "multipart/form-data"}
                )
            case 2:
                answer = infer(server, noise, "a.nii.gz")
            case 3:
                answer = infer(server, noise + packed()[: int(rng.integers(1, 400))], "a.nii")
            case 4:
                answer = infer(server, packed(), f"../../{n}.exe")
            case 5:
                answer = httpx.post(f"{server.url}/model", json={"model_path": n, "inference_config": [n]})
            case 6:
                answer = httpx.post(f"{server.url}/infer", data={"image": "text"})
            case _:
                answer = httpx.request("PATCH", f"{server.url}/{noise[:9].hex()}")
        assert 400 <= answer.status_code < 500, (n, answer.status_code, answer.text)
        assert set(answer.json()) == {"error"}
        assert answer.json()["error"].count("\n") <= 2
    assert infer(server, packed()).status_code == 200


def test_fifty_at_once_get_their_own_answers(server: Server) -> None:
    httpx.post(f"{server.url}/model", json={"backend_type": "onnx", "model_path": "bone.onnx"})
    alone = [infer(server, packed(n, (20, 18, 17))).content for n in range(5)]
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda n: infer(server, packed(n % 5, (20, 18, 17))), range(50)))
    assert [a.status_code for a in answers] == [200] * 50
    assert all(a.content == alone[n % 5] for n, a in enumerate(answers))


def test_a_long_upload_is_refused(server: Server) -> None:
    answer = infer(server, bytes(4_000_000))
    assert answer.status_code in (400, 413)

    def endless() -> Iterator[bytes]:
        for _ in range(80):
            yield bytes(100_000)

    try:
        streamed = httpx.post(
            f"{server.url}/infer", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert streamed.status_code in (400, 413, 500)
    except httpx.TransportError:
        pass  # it hung up
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_progress_and_cancel(models: Path) -> None:
    server = Server()
    try:
        refused = httpx.post(f"{server.url}/model", json={"model_path": str(models / "bone.onnx")})
        assert refused.status_code == 400
        assert httpx.post(f"{server.url}/model", json={"model_path": "demo"}).status_code == 200
        answers: list[Any] = []
        image = nibabel.Nifti1Image(
            np.random.default_rng(0).integers(0, 255, (260, 260, 200), np.uint8), np.eye(4)
        ).to_bytes()
        client = threading.Thread(target=lambda: answers.append(infer(server, image, job="mine")))
        client.start()
        until = time.monotonic() + 60
        while httpx.get(f"{server.url}/jobs/mine").json().get("total", 0) == 0:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert httpx.delete(f"{server.url}/jobs/mine").json() == {"status": "ok"}
        client.join(90)
        assert answers[0].status_code == 409
        assert httpx.get(f"{server.url}/jobs/mine").json()["status"] == "cancelled"
        assert httpx.delete(f"{server.url}/jobs/mine").status_code == 404
        assert httpx.delete(f"{server.url}/model").json() == {"status": "ok"}
        assert httpx.delete(f"{server.url}/model").status_code == 404
    finally:
        server.stop()


def test_elsewhere_than_on_loopback_there_is_a_token(voxweft: Voxweft) -> None:
    told = voxweft("serve", "--host", "0.0.0.0", "--models", "nowhere", code=2).stderr
    assert "give --token" in told
    assert "no such folder" in told
    server = Server("--token", TOKEN)
    try:
        assert httpx.get(f"{server.url}/info").status_code == 401
        assert httpx.get(f"{server.url}/info", headers={"authorization": "Bearer no"}).status_code == 401
        assert httpx.get(f"{server.url}/info", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        hosted = httpx.get(f"{server.url}/info", headers={"authorization": f"Bearer {TOKEN}", "host": "evil.example"})
        assert hosted.status_code == 400
    finally:
        server.stop()
