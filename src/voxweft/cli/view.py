"""The command that shows a result."""

from __future__ import annotations

import signal
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from voxweft.cli.front_end import FrontEnd
from voxweft.cli.show import Verbose, say
from voxweft.viewer.layers import layers_of
from voxweft.viewer.shown import Shown

app = typer.Typer()


@app.command("view")
def view(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="What voxweft wrote, or any volume; also s3://.")],
    image: Annotated[str, typer.Option(help="What it was made from; default: as its plan says.")] = "",
    at: Annotated[str, typer.Option(help="Place to open, z,y,x in voxels of OUTPUT; default: the middle.")] = "",
    points: Annotated[
        list[str] | None,
        typer.Option(help="Picks to show, .csv, .star or .json of copick; may be given several times."),
    ] = None,
    shows: Annotated[
        str, typer.Option("--as", help="What OUTPUT holds: image, probability, labels or uncertainty.")
    ] = "",
    layers: Annotated[
        str, typer.Option(help="Names of layers to switch on, the others off; default: all but some.")
    ] = "",
    screenshot: Annotated[str, typer.Option(help="Write a picture (.png) and end; needs no display.")] = "",
    napari: Annotated[
        bool, typer.Option("--napari", help="Open it in napari instead, where that is installed.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the link.")] = True,
    verbose: Verbose = False,
) -> None:
    """Look at a result over its image, in a browser or in napari."""
    shown = layers_of(output, image, points or (), shows).only(layers)
    place = shown.place(at)
    if screenshot:
        from voxweft.viewer.screenshot import save

        made = save(shown, screenshot, place)
        _told(shown)
        say(f"picture: {screenshot} ({made})")
    elif napari:
        from voxweft.viewer.in_napari import open_napari

        open_napari(shown, place)
    else:
        _serve(shown, port, at, place, browser)


def _serve(shown: Shown, port: int, at: str, place: tuple[float, float, float], browser: bool) -> None:
    from voxweft.viewer.window import Window

    ended = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: ended.set())  # nothing is left undone, so this is an ordinary end
    with Window(shown, port, place) as window:
        link = window.link(at.replace(" ", "")) if at else window.url
        _told(shown)
        if window.report_url:
            say(f"report: {window.report_url}")
        say(f"view:   {link}\n(Ctrl-C ends it)")
        sys.stdout.flush()
        if browser:
            webbrowser.open(link)
        ended.wait()


def _told(shown: Shown) -> None:
    """What there is to see, and what is not."""
    for note in shown.notes:
        say(f"note: {note}", file=sys.stderr)
    hidden = [layer.name for layer in shown.layers if not layer.visible]
    names = [f"{layer.name} ({layer.kind})" for layer in shown.layers if layer.visible]
    names += [f"{len(points.centres)} points of {points.name}" for points in shown.points]
    say(f"layers: {', '.join(names)}" + (f"; switched off: {', '.join(hidden)}" if hidden else ""))


FRONT_END = FrontEnd(
    app,
    examples={
        "view": "voxweft view mask.zarr",
    },
)
