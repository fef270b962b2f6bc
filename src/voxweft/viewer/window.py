"""The window in a browser: neuroglancer on loopback, offline, under a token.

    /v/TOKEN/              neuroglancer's own client, from its package
    /at/TOKEN/Z,Y,X        the same, moved to a voxel
    /report/TOKEN          report.html, whose places lead there
    /data/TOKEN/N/...      layer N, see :mod:`voxweft.viewer.as_zarr`
    /names/TOKEN/N/info    names of its labels

A request with another token gets 404, one that calls the server by another name than 127.0.0.1 gets 403: a page
elsewhere that has its own name lead to this machine reads nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.image.units import METERS
from voxweft.installed import install_line
from voxweft.viewer.as_zarr import AsZarr, LinkedError
from voxweft.viewer.layers import is_own_file
from voxweft.viewer.shown import IMAGE, LABELS, PROBABILITY, Layer, Points, Shown

HOST = "127.0.0.1"
PIXELS = 420  # of a panel, along which the longest side is to fit
OBLIQUE = [-0.33, 0.4, 0.13, 0.84]  # a quaternion: the volume from a corner
FINE = 2048  # voxels of a side that may be shown at once of a volume without coarser levels
GREY = "#uicontrol invlerp normalized\nvoid main() {{ emitGrayscale(normalized()); }}\n"
TINTED = (
    '#uicontrol vec3 colour color(default="{colour}")\n#uicontrol invlerp normalized\n'
    "void main() {{ emitRGBA(vec4(colour, normalized())); }}\n"
)
HEAT = (
    "#uicontrol invlerp normalized\n"
    "void main() {{ float v = normalized(); emitRGBA(vec4(colormapJet(v), min(1.0, 2.0 * v))); }}\n"
)
SHADERS = {IMAGE: GREY, PROBABILITY: TINTED}
LINKS = """<script nonce="{nonce}">
for (const place of document.querySelectorAll("a.place[data-at]")) {{
  place.href = "/at/{token}/" + encodeURIComponent(place.dataset.at); place.target = "voxweft-view";
}}
</script>"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{}'"


class Window:
    """Serves what is shown until it is closed.

    Parameters
    ----------
    shown
        What there is to see.
    port
        To listen on; 0: a free one.
    at
        Voxel z y x to begin with.

    Raises
    ------
    RequestError
        If the extra is not installed, the port is taken, or a window is open already.
    """

    def __init__(self, shown: Shown, port: int = 0, at: tuple[float, float, float] | None = None) -> None:
        try:
            import neuroglancer
        except ImportError as error:
            raise RequestError(f"voxweft view needs the extra 'view': {install_line('view')}") from error
        self.shown, self.token = shown, secrets.token_hex(20)
        if neuroglancer.server.is_server_running():
            raise RequestError("neuroglancer serves something else in this process; one window at a time")
        neuroglancer.set_server_bind_address(HOST, port)
        try:
            neuroglancer.server.start()
        except (OSError, OverflowError) as error:
            raise RequestError(f"--port {port} cannot be listened on: {first_line(error)}") from error
        server = neuroglancer.server.global_server
        self.port: int = server.port
        server.app.add_handlers(r"(?!127\.0\.0\.1$).*", [(r".*", _refusing())])
        server.app.add_handlers(r"127\.0\.0\.1", _routes(self, server.executor))
        self._viewer = neuroglancer.Viewer(token=self.token, allow_credentials=False)
        with self._viewer.txn() as state:
            _fill(state, self)
        self.go(at or shown.place(""))

    def __enter__(self) -> Window:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The link that opens it."""
        return f"http://{HOST}:{self.port}/v/{self.token}/"

    @property
    def report_url(self) -> str:
        """The link to report.html; "" where there is none."""
        return f"http://{HOST}:{self.port}/report/{self.token}" if self.shown.report else ""

    def link(self, at: str) -> str:
        """The link that opens it at a place "z,y,x"."""
        return f"http://{HOST}:{self.port}/at/{self.token}/{at}"

    def go(self, at: tuple[float, float, float]) -> None:
        """Move to a voxel."""
        with self._viewer.txn() as state:
            state.position = [*reversed(at)]

    def picture(self, size: tuple[int, int], timeout_s: float) -> bytes | None:
        """What a browser that has the window open shows once all of it is loaded, PNG; None where none answers."""
        with self._viewer.config_state.txn() as config:
            config.show_ui_controls = False
            config.viewer_size = size
        replies: queue.Queue[Any] = queue.Queue()
        self._viewer.async_screenshot(replies.put)
        try:
            return bytes(replies.get(timeout=timeout_s).screenshot.image)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop serving."""
        import neuroglancer

        neuroglancer.stop()


def _fill(state: Any, window: Window) -> None:
    """The state of neuroglancer: layers, voxel size, what fits on the screen."""
    import neuroglancer as ng

    shown, size = window.shown, np.array(window.shown.geometry.voxel_size_zyx)
    meters = METERS.get(shown.geometry.unit)
    scales = [float(v) * (meters or 1) for v in size[::-1]]
    state.title = f"{shown.title} - voxweft"
    state.dimensions = ng.CoordinateSpace(names=[*"xyz"], units="m" if meters else "", scales=scales)
    for n, layer in enumerate(shown.layers):
        state.layers.append(name=_free(state, layer.name), layer=_neuro(layer, window, n), visible=layer.visible)
    for points in shown.points:
        state.layers.append(name=_free(state, points.name), layer=_marked(points, state.dimensions))
    extent = size / size.min() * shown.shape_zyx
    whole = float(extent.max()) * 1.05
    shallow = all(len(layer.levels) == 1 for layer in shown.layers)
    state.cross_section_scale = min(whole, FINE if shallow else whole) / PIXELS
    state.projection_scale = whole * 1.8
    state.projection_orientation, state.hide_cross_section_background_3d = OBLIQUE, True
    flat = [n for n, extent in zip("zyx", shown.shape_zyx, strict=True) if extent == 1]
    state.layout = {"z": "xy", "y": "xz", "x": "yz"}[flat[0]] if flat else "4panel"
    state.selected_layer.layer, state.selected_layer.visible = "", False


def _free(state: Any, name: str) -> str:
    """A name that no layer has yet."""
    taken = {layer.name for layer in state.layers}
    return next(tried for k in range(1, len(taken) + 2) if (tried := f"{name} {k}" if k > 1 else name) not in taken)


def _neuro(layer: Layer, window: Window, n: int) -> Any:
    import neuroglancer as ng

    base = f"http://{HOST}:{window.port}"
    source = [f"zarr3://{base}/data/{window.token}/{n}/"]
    if layer.kind != LABELS:
        return ng.ImageLayer(
            source=source,
            shader=SHADERS.get(layer.kind, HEAT).format(colour=layer.colour),
            shader_controls={"normalized": {"range": [layer.low, layer.high]}},
            opacity=1.0 if layer.kind == IMAGE else 0.6,
            blend="default",
        )
    if layer.names:
        source.append(f"precomputed://{base}/names/{window.token}/{n}/")
    return ng.SegmentationLayer(
        source=source, segment_colors=dict(layer.colours), selected_alpha=0.45, hide_segment_zero=True, segments=[]
    )


def _marked(points: Points, dimensions: Any) -> Any:
    import neuroglancer as ng

    marks = [ng.PointAnnotation(id=str(n), point=[*map(float, zyx[::-1])]) for n, zyx in enumerate(points.centres)]
    return ng.LocalAnnotationLayer(dimensions=dimensions, annotations=marks, annotation_color=points.colour)


def _refusing() -> type:
    """Refuses all."""
    import tornado.web

    class Refusing(tornado.web.RequestHandler):
        def prepare(self) -> None:
            self.set_status(403)
            self.finish(f"this server is called {HOST}\n")

    return Refusing


def _routes(window: Window, executor: Any) -> list[Any]:
    """What is served beside neuroglancer itself."""
    import tornado.web

    files = [AsZarr(layer, window.shown.geometry) for layer in window.shown.layers]

    class Guarded(tornado.web.RequestHandler):
        def prepare(self) -> None:
            if not hmac.compare_digest(self.path_args[0].encode(), window.token.encode()):
                raise tornado.web.HTTPError(404)
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Content-Type-Options", "nosniff")
            self.set_header("Referrer-Policy", "no-referrer")

        def log_exception(self, *_: Any) -> None:
            """Say nothing: a chunk that is not there is no error."""

        def send(self, data: bytes | None, kind: str) -> None:
            if data is None:
                raise tornado.web.HTTPError(404)
            self.set_header("Content-Type", kind)
            self.finish(data)

    class Data(Guarded):
        async def get(self, _token: str, n: str, key: str) -> None:
            if int(n) >= len(files):
                raise tornado.web.HTTPError(404)
            try:
                found = await asyncio.wrap_future(executor.submit(files[int(n)].get, key))
            except LinkedError as error:
                raise tornado.web.HTTPError(403) from error
            except (VoxweftError, OSError) as error:
                raise tornado.web.HTTPError(500) from error
            self.send(found, "application/octet-stream")

    class Names(Guarded):
        def get(self, _token: str, n: str) -> None:
            layer = window.shown.layers[int(n)] if int(n) < len(files) else None
            self.send(_properties(layer) if layer else None, "application/json")

    class Place(Guarded):
        def get(self, _token: str, at: str) -> None:
            try:
                window.go(window.shown.place(at))
            except RequestError as error:
                raise tornado.web.HTTPError(404) from error
            self.redirect(f"/v/{window.token}/")

    class Report(Guarded):
        def get(self, _token: str) -> None:
            nonce, path = secrets.token_hex(8), Path(window.shown.report)
            if not is_own_file(path):
                raise tornado.web.HTTPError(404)
            page = path.read_text(encoding="utf-8")
            self.set_header("Content-Security-Policy", POLICY.format(nonce))
            self.send((page + LINKS.format(nonce=nonce, token=window.token)).encode(), "text/html; charset=utf-8")

    made = [
        (r"/data/(\w+)/(\d{1,3})/(.*)", Data),
        (r"/names/(\w+)/(\d{1,3})/info", Names),
        (r"/at/(\w+)/([^/]+)", Place),
    ]
    return made + ([(r"/report/(\w+)", Report)] if window.shown.report else [])


def _properties(layer: Layer) -> bytes:
    """The names of labels, as neuroglancer reads them."""
    label = {"id": "name", "type": "label", "values": [*layer.names.values()]}
    inline = {"ids": [str(value) for value in layer.names], "properties": [label]}
    return json.dumps({"@type": "neuroglancer_segment_properties", "inline": inline}).encode()
