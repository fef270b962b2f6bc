"""The command that starts the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxweft.cli.front_end import FrontEnd
from voxweft.cli.show import Verbose, say
from voxweft.engine.fields import parse_bytes
from voxweft.errors import RequestError
from voxweft.installed import install_line

app = typer.Typer()
ON_LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST = 16  # characters of a token


@app.command("serve")
def serve(
    models: Annotated[str, typer.Option("--models", help="Folder below which clients may load models.")] = "",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8000,
    token: Annotated[str, typer.Option("--token", envvar="VOXWEFT_TOKEN", help="That every request must bear.")] = "",
    max_upload: Annotated[str, typer.Option("--max-upload", help="Longest image, for example 4GB.")] = "4GB",
    verbose: Verbose = False,
) -> None:
    """Serve segmentations over HTTP, for example to 3D Slicer."""
    size, problems = parse_bytes(max_upload), []
    if size is None:
        problems.append(f"--max-upload {max_upload!r} is no amount; write for example 4GB")
    if models and not Path(models).is_dir():
        problems.append(f"--models {models}: there is no such folder")
    if host not in ON_LOOPBACK and len(token) < LEAST:
        problems.append(f"--host {host} can be reached by others: give --token, {LEAST} characters or more")
    if problems:
        raise RequestError(*problems)
    try:
        import uvicorn

        from voxweft.serve import Desk, Limits, make_app
    except ImportError as error:
        raise RequestError(f"the server needs the extra 'serve': {install_line('serve')}") from error
    desk = Desk(Limits(Path(models).resolve() if models else None, size or 0))
    own = make_app(desk, token=token) if host in ON_LOOPBACK else make_app(desk, token=token, hosts=("*",))
    say(f"voxweft listens on http://{host}:{port}/api/ (Ctrl-C ends it)")
    uvicorn.run(own, host=host, port=port, log_level="info" if verbose else "warning", access_log=verbose)


FRONT_END = FrontEnd(
    app,
    examples={
        "serve": "voxweft serve --models models --port 8000",
    },
)
