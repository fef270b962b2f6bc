"""What a picture says of itself: how it was made, in its own metadata, and how that is read back."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from voxweft.engine.plan import Plan
from voxweft.engine.stage import Sweep
from voxweft.errors import VolumeError, first_line
from voxweft.image.units import METERS
from voxweft.remote import without_secrets
from voxweft.runner.records import time_of
from voxweft.stores.attributes import attributes_of
from voxweft.stores.picture import any_size
from voxweft.stores.url import local_path
from voxweft.version import __version__

KEYWORD = "voxweft"  # of the text in a PNG
TIFF_TITLE = "voxweft ink v1"  # a first line, so that no reader takes the JSON below for its own
HOW_ONLY = (
    "accept_labels", "batch_size", "bbox", "chunk", "compile_mode", "compressor", "device", "divisor", "fit", "layers",
    "memory", "output", "overlap", "precision", "runtime", "sigma_scale", "skip_empty", "tta", "window",
)  # fmt: skip
"""Options that are told in other words, or that say only how it was computed and stored."""
Sides = tuple[float, float]


def record_of(plan: Plan, pixel_yx_um: Sides | None = None) -> dict[str, Any]:
    """What decides a picture, from the plan of its result: plain JSON values, without times and secrets.

    "created" is there where SOURCE_DATE_EPOCH is set, "pixel_um" where it is known how large a pixel is.
    """
    if not isinstance(plan.main, Sweep):
        return _record_of_blocks(plan, pixel_yx_um)
    stage = plan.sweep
    one, (layers, _, turned) = stage.passes[0], str(plan.request.get("layers", "")).partition(" ")
    scheme, y = one.normalization[0], one.grid.axes[0]
    found = {
        "version": __version__,
        "model": [without_secrets(ref.url) for ref in plan.models],
        "digest": [ref.digest for ref in plan.models],
        "format": [ref.card.format for ref in plan.models],
        "input": without_secrets(_segment_of(plan.inputs[0].ref.url)),
        "fingerprint": stage.info.stamp or plan.inputs[0].fingerprint,
        "layers": layers,
        "direction": "reverse" if turned.startswith("rev") else turned or "forward",
        "tile": one.grid.patch[0],
        "stride": y.step,
        "window": stage.window,
        "sigma": one.grid.patch[0] / stage.sigma_scale if "gaussian" in stage.window else 0,
        "tta": one.tta,
        "scaling": [scheme.scheme, scheme.lower, scheme.upper, scheme.std],
        "skip_empty": stage.skip_empty,
        "roi": plan.request.get("bbox", "") or "",
        "runtime": one.setting.runtime,
        "precision": one.setting.precision,
        "device": one.setting.device,
    }
    more = {n: v for n, v in plan.request.options.items() if n not in HOW_ONLY}
    return found | ({"options": more} if more else {}) | _size_and_time(pixel_yx_um)


def _record_of_blocks(plan: Plan, pixel_yx_um: Sides | None) -> dict[str, Any]:
    """Of a picture that no network made: what it was made from, and how."""
    options = {n: without_secrets(str(v)) if isinstance(v, str) else v for n, v in plan.request.options.items()}
    found = {"version": __version__, "made_by": plan.request.app, "input": without_secrets(plan.inputs[0].ref.url)}
    return found | {"fingerprint": plan.inputs[0].fingerprint, "options": options} | _size_and_time(pixel_yx_um)


def _size_and_time(pixel_yx_um: Sides | None) -> dict[str, Any]:
    created = {"created": time_of(0)} if os.environ.get("SOURCE_DATE_EPOCH", "").strip() else {}
    return ({"pixel_um": [*pixel_yx_um]} if pixel_yx_um else {}) | created


def _segment_of(url: str) -> str:
    """Where the layers lie that were given, also where a surface volume was prepared from them."""
    with suppress(VolumeError):  # one that is gone tells nothing
        said = attributes_of(url).get("voxweft") if url.endswith(".zarr") else None
        return str(said.get("source") or url) if isinstance(said, dict) else url
    return url


def pixel_um_of(plan: Plan) -> Sides | None:
    """Height and width of a pixel of a plan's result in micrometres; None where its unit is no unit of length."""
    spec = next(o.spec for stage in plan.stages for o in stage.outputs if o.spec)
    if spec.geometry.unit not in METERS:
        return None
    y, _, x = (size * METERS[spec.geometry.unit] / METERS["micrometer"] for size in spec.geometry.voxel_size_zyx)
    return y, x


def read_record(url: str) -> dict[str, Any]:
    """The record of a picture (PNG, TIFF; a path) or of an OME-Zarr; empty where there is none.

    Raises
    ------
    VolumeError
        If it cannot be opened.
    """
    if url.rstrip("/").endswith(".zarr"):
        said = attributes_of(url).get("voxweft", {})
        stored = said.get("plan") if isinstance(said, dict) else None
        plan = Plan.from_json(json.dumps(stored).encode()) if stored else None
        return record_of(plan, pixel_um_of(plan)) if plan and plan.request.app == "ink" else {}
    read = _tiff_text if url.endswith((".tif", ".tiff")) else _png_text
    try:
        found = json.loads(read(url) or "{}")
    except ValueError:  # another program's
        return {}
    except (OSError, SyntaxError) as error:
        raise VolumeError(f"{url} cannot be read as a picture: {first_line(error)}") from error
    return found if isinstance(found, dict) else {}


def _tiff_text(url: str) -> str:
    import tifffile

    with tifffile.TiffFile(local_path(url)) as file:
        title, _, text = str(getattr(file.pages[0], "description", "")).partition("\n")
    return text if title == TIFF_TITLE else ""


def _png_text(url: str) -> str:
    from PIL import Image

    with any_size(), Image.open(local_path(url)) as picture:
        return str(picture.info.get(KEYWORD, ""))
