"""The HTTP side: routes, limits, a token; every error is a line of JSON, ``{"error": ...}``.

GET    /api/health             alive, and which devices
GET    /api/info               name, version, the loaded model
POST   /api/model              load one          DELETE /api/model    let it go
POST   /api/infer              an image in, its segmentation out; ``job`` names it
GET    /api/jobs/NAME          progress          DELETE /api/jobs/NAME   cancel
"""

from __future__ import annotations

import asyncio
import hmac
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.serve.desk import ENDINGS, BusyError, CancelledError, Desk
from voxweft.version import __version__

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1", "testserver")
SMALL = 1 << 20  # bytes of a request that holds no image


def make_app(desk: Desk, *, token: str = "", hosts: tuple[str, ...] = LOOPBACK) -> Any:
    """The application, for uvicorn or any other ASGI server.

    Parameters
    ----------
    desk
        What does the work.
    token
        That every request must bear, ``Authorization: Bearer TOKEN``; "": none.
    hosts
        Names that a request may call the server by, against pages that make a browser ask; ("*",) for all.
    """
    app = FastAPI(title="voxweft", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(BodyLimit, most=desk.limits.upload_bytes)

    def failed(status: int, message: str) -> Response:
        return JSONResponse({"error": message}, status_code=status)

    @app.middleware("http")
    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return failed(401, "the token is missing or wrong")
        return await call_next(request)

    @app.exception_handler(VoxweftError)
    async def told(_request: Request, error: VoxweftError) -> Response:
        status = 503 if isinstance(error, BusyError) else 409 if isinstance(error, CancelledError) else 400
        return failed(status if status != 400 or isinstance(error, RequestError) else 500, str(error))

    @app.exception_handler(RequestValidationError)
    async def misshapen(_request: Request, error: RequestValidationError) -> Response:
        return failed(400, f"the request is not as it should be: {first_line(error)}")

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> Response:
        return failed(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def broken(_request: Request, error: Exception) -> Response:
        return failed(500, f"{type(error).__name__}: {first_line(error)}")

    @app.get("/api/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", **_devices()}

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        devices = _devices()
        about = {"cuda_available": devices["cuda_available"], "device_count": devices["cuda_device_count"]}
        return {"name": "voxweft", "version": __version__, "model": desk.model, **about}

    @app.post("/api/model")
    async def load(request: Request) -> Any:
        try:
            asked = await request.json()
        except (ValueError, UnicodeDecodeError):
            return failed(400, "the request is no JSON")
        if not isinstance(asked, dict):
            return failed(400, "the request should be a JSON object")
        return {"status": "ok", "model": await asyncio.to_thread(desk.load, asked)}

    @app.delete("/api/model")
    def unload() -> Any:
        return {"status": "ok"} if desk.unload() else failed(404, "no model is loaded")

    @app.post("/api/infer")
    async def infer(request: Request) -> Any:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return failed(400, "the image should come as multipart/form-data")
        async with request.form(max_files=1, max_fields=16) as form:
            upload = form.get("image")
            if upload is None or isinstance(upload, str):
                return failed(400, "the image is missing: a file in the field 'image'")
            wanted = {name: value for name, value in form.items() if isinstance(value, str)}
            name = (upload.filename or "").lower()
            ending = next((e for e in ENDINGS if name.endswith(e)), "")

            def save(path: Path) -> None:
                with path.open("wb") as file:
                    shutil.copyfileobj(upload.file, file)

            made, ending = await asyncio.to_thread(desk.infer, wanted.get("job", ""), ending, save, wanted)
        headers = {"content-disposition": f'attachment; filename="segmentation{ending}"'}
        return Response(made, media_type="application/octet-stream", headers=headers)

    @app.get("/api/jobs/{name}")
    def progress(name: str) -> Any:
        job = desk.job(name)
        if job is None:
            return failed(404, "there is no such job")
        return {"status": job.state, "done": job.done, "total": job.total, "message": job.message}

    @app.delete("/api/jobs/{name}")
    def cancel(name: str) -> Any:
        return {"status": "ok"} if desk.cancel(name) else failed(404, "there is no such job on its way")

    return app


class BodyLimit:
    """Refuses requests that are longer than they may be: by what they say, and by what they send."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most + SMALL if scope["path"] == "/api/infer" else SMALL
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > most:
            await _too_long(send)
            return
        count = 0

        async def counted() -> Any:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > most:
                raise RequestError(f"the request is longer than {most} bytes")
            return message

        await self._app(scope, counted, send)


async def _too_long(send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"error": "the request is too long"}'})


def _devices() -> dict[str, Any]:
    import torch

    return {"cuda_available": torch.cuda.is_available(), "cuda_device_count": torch.cuda.device_count()}
