"""A picture of what a viewer shows, on a machine without a display.

Headless Chromium draws the window itself where it is installed; else the three planes through the place are drawn here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.colours import of_objects
from voxweft.viewer.shown import IMAGE, LABELS, PROBABILITY, Layer, Shown
from voxweft.viewer.window import Window

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
SIZE = (1280, 960)
PANEL, GAP = 480, 8  # pixels
OPACITY = {PROBABILITY: 0.6, LABELS: 0.45}


def chromium() -> str:
    """Where Chromium is installed; "" for nowhere."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), "")


def photograph(window: Window, browser: str, timeout_s: float = 60.0, *more: str) -> bytes | None:
    """What a browser without a display shows of a window, PNG; None where it shows nothing in time.

    Parameters
    ----------
    window
        What is served.
    browser
        Chromium.
    timeout_s
        Until all is loaded and drawn.
    more
        Further flags.
    """
    as_root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="voxweft-view-", ignore_cleanup_errors=True) as folder:
        command = [browser, *FLAGS, *as_root, f"--user-data-dir={folder}", f"--window-size={SIZE[0]},{SIZE[1]}", *more]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            process = subprocess.Popen([*command, window.url], start_new_session=True, **quiet)
        except OSError:
            return None
        try:
            return window.picture(SIZE, timeout_s)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a browser and all that it started."""
    for word in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, word)
            process.wait(5)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def save(shown: Shown, path: str, at: tuple[float, float, float]) -> str:
    """Write a PNG of what is shown at a voxel, and say how it was made.

    Raises
    ------
    RequestError
        If the place cannot be written to.
    """
    from PIL import Image

    target = Path(path)
    if target.suffix.lower() != ".png" or not target.absolute().parent.is_dir():
        raise RequestError(f"--screenshot {path}: give a name that ends in .png, in a folder that is there")
    browser, why, data = chromium(), "no Chromium is installed", None
    if browser:
        try:
            with Window(shown, at=at) as window:
                data = photograph(window, browser)
            why = "Chromium did not draw it in time"
        except RequestError as error:
            why = str(error)
    if data is None:
        Image.fromarray(planes(shown, at)).save(target)
        return f"three planes ({why})"
    target.write_bytes(data)
    return "neuroglancer in Chromium"


def planes(shown: Shown, at: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The planes through a voxel, as RGB uint8 [Y, X, 3], in true proportions.

    x y | z y         what neuroglancer shows, without the fourth panel
    x z |
    """
    size = np.array(shown.geometry.voxel_size_zyx)
    extent = size * shown.shape_zyx
    per_pixel = float(extent.max()) / PANEL
    n = [max(1, round(float(e) / per_pixel)) for e in extent]
    xy = _plane(shown, at, 0, (n[1], n[2]))
    xz = _plane(shown, at, 1, (n[0], n[2]))
    zy = np.swapaxes(_plane(shown, at, 2, (n[0], n[1])), 0, 1)
    page = np.full((n[1] + GAP + n[0], n[2] + GAP + n[0], 3), 255, np.uint8)
    page[: n[1], : n[2]], page[n[1] + GAP :, : n[2]], page[: n[1], n[2] + GAP :] = xy, xz, zy
    return page


def _plane(shown: Shown, at: tuple[float, float, float], axis: int, n: tuple[int, int]) -> NDArray[np.uint8]:
    """The plane across an axis, all visible layers on each other, with so many pixels."""
    seen = np.zeros((*n, 3), np.float32)
    for layer in shown.layers:
        if layer.visible:
            values = _values(layer, shown, at, axis, n)
            if values is not None:
                rgb, alpha = _painted(layer, values)
                seen = seen * (1 - alpha) + rgb * alpha
    return seen.astype(np.uint8)


def _values(
    layer: Layer, shown: Shown, at: tuple[float, float, float], axis: int, n: tuple[int, int]
) -> NDArray[Any] | None:
    """Values of a layer at the pixels of a plane, from the coarsest level that has enough; None where it is not."""
    size, across = np.array(shown.geometry.voxel_size_zyx), [a for a in range(3) if a != axis]
    fine = [
        k for k, v in enumerate(layer.levels) if all(v.info.shape_zyx[a] >= m for a, m in zip(across, n, strict=True))
    ]
    level = max(fine, default=0)
    own, origin = (np.array(three) for three in layer.place(level, shown.geometry))
    shape = np.array(layer.levels[level].info.shape_zyx)
    plane = round(float((at[axis] * size[axis] - origin[axis]) / own[axis]))
    if not 0 <= plane < shape[axis]:
        return None
    wanted = []
    for a, m in zip(across, n, strict=True):
        middles = ((np.arange(m) + 0.5) * shown.shape_zyx[a] / m - 0.5) * size[a]
        wanted.append(np.rint((middles - origin[a]) / own[a]).astype(np.int64))
    inside = [(w >= 0) & (w < shape[a]) for a, w in zip(across, wanted, strict=True)]
    if not all(i.any() for i in inside):
        return None
    start, stop = [plane] * 3, [plane + 1] * 3
    for a, w, i in zip(across, wanted, inside, strict=True):
        start[a], stop[a] = int(w[i].min()), int(w[i].max()) + 1
    values = layer.read(Box(tuple(start), tuple(stop)), level).take(0, axis=axis)  # type: ignore[arg-type]
    y, x = (np.clip(w - start[a], 0, stop[a] - start[a] - 1) for a, w in zip(across, wanted, strict=True))
    return np.where(inside[0][:, None] & inside[1], values[y][:, x], 0)


def _painted(layer: Layer, values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours [Y, X, 3] and how much they hide [Y, X, 1]."""
    share = np.clip((values.astype(np.float32) - layer.low) / max(layer.high - layer.low, 1e-9), 0, 1)[..., None]
    if layer.kind == IMAGE:
        return np.repeat(share * 255, 3, axis=2), np.ones_like(share)
    alpha = np.float32(OPACITY.get(layer.kind, 0.6))
    if layer.kind != LABELS:
        return np.broadcast_to(_rgb(layer.colour), (*values.shape, 3)), share * alpha
    rgb = of_objects(values.astype(np.int64)).astype(np.float32)
    for value in np.unique(values)[: 1 + len(layer.colours)]:
        if int(value) in layer.colours:
            rgb[values == value] = _rgb(layer.colours[int(value)])
    return rgb, (values > 0)[..., None] * alpha


def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array([*bytes.fromhex(colour.removeprefix("#"))], np.float32)
