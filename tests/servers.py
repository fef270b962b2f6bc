"""Real servers on loopback that tests talk to: S3, a proxy that loses requests, a model hub."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 server: environment variables for a client, and a client of the test's own with the bucket "bucket"."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    yield {**KEYS, "AWS_ENDPOINT_URL": endpoint, "client": client}
    client.close()
    server.stop()


def environment(s3: Any) -> dict[str, str]:
    return {k: v for k, v in s3.items() if k != "client"}


def upload(s3: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3["client"].upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(folder)}")


@contextmanager
def serve(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a handler on a free port of loopback; its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def faulty(endpoint: str, refuse: float, reset: float, seed: int = 0) -> Iterator[tuple[str, Counter[str]]]:
    """A proxy before an S3 server: answers a share of the requests with 503, resets another (half of those after the
    server has done its work). Its URL and a count of what it did."""
    host, port = endpoint.removeprefix("http://").split(":")
    chance, seen = random.Random(seed), Counter[str]()

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            body = self._body()
            fate = chance.random()
            if fate < refuse:
                seen["503"] += 1
                self._answer(503, {}, b"")
            elif fate < refuse + reset / 2:
                seen["reset"] += 1
                self._reset()
            else:
                upstream = http.client.HTTPConnection(host, int(port))
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                reply = upstream.getresponse()
                data = reply.read()
                upstream.close()
                if fate < refuse + reset:
                    seen["reset"] += 1
                    self._reset()
                else:
                    seen["passed"] += 1
                    self._answer(reply.status, dict(reply.getheaders()), data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay  # noqa: N815

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # the connection was reset here, or by the client
                self.close_connection = True

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None: ...

    with serve(Proxy) as url:
        yield url, seen


@contextmanager
def hub(folder: Path, repo: str, token: str = "") -> Iterator[tuple[str, Counter[str]]]:
    """A model hub with one repository, as huggingface_hub asks for it; its URL and a count of the paths asked for."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    commit, seen = hashlib.sha1(repo.encode()).hexdigest(), Counter[str]()

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            seen[path] += 1
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                self._send(401, b"{}")
            elif path.startswith(f"/api/models/{repo}/tree"):
                tree = [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": hashlib.sha1(n.encode()).hexdigest()}
                    for n, p in files.items()
                ]
                self._send(200, json.dumps(tree).encode())
            elif path.startswith(f"/api/models/{repo}"):
                siblings = [{"rfilename": name} for name in files]
                self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())
            elif (name := path.removeprefix(f"/{repo}/resolve/{commit}/")) in files:
                data = files[name].read_bytes()
                tag = hashlib.sha256(data).hexdigest()
                self._send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})
            else:
                self._send(404, b"{}")

        do_GET = do_HEAD = answer  # noqa: N815

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with serve(Hub) as url:
        yield url, seen


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """A plain file server over http; its URL."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None: ...

    with serve(Files) as url:
        yield url
