"""report.html of a run whose result are objects: how many, how large, how sure, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.plan import VOLUME, Plan
from voxweft.engine.report import REDONE_SHOWN
from voxweft.errors import IncompleteError, VoxweftError
from voxweft.geometry.box import Box
from voxweft.image import colours
from voxweft.image.place import Geometry
from voxweft.image.protocols import Sink, Volume
from voxweft.image.ref import VolumeRef
from voxweft.image.views import Crop
from voxweft.runner.objects import OBJECTS
from voxweft.runner.records import plan_of
from voxweft.stores import open_ref, open_sink
from voxweft.viewer import pictures
from voxweft.viewer.gallery import Gallery
from voxweft.viewer.markup import bar_table, fact_table, page
from voxweft.viewer.scale import Scale, voxel_in_words

WINDOW, SHOWN, MARGIN, SMALLEST = 512, 10, 16, 64


def objects_page(output: Any, gallery: Gallery | None = None) -> str:
    """The page as text; its pictures are added to a gallery.

    Raises
    ------
    IncompleteError
        If the objects are not there yet.
    """
    plan, ledger = plan_of(open_sink(output))
    if not ledger.done(OBJECTS):
        raise IncompleteError(f"{getattr(output, 'url', output)}: objects are missing. Run the same command again.")
    main = next(o.spec for s in plan.stages for o in s.outputs if o.spec and not o.name)
    sink = open_sink(output, layout=main.layout, order=main.order)
    sink.open()
    table, report = ledger.table(OBJECTS, 0), ledger.report()
    image, gallery = _image(plan), gallery or Gallery()
    drawn = _Drawn(sink, image, gallery, main.geometry)
    parts = [
        f"<h1>{escape(sink.url)}</h1>",
        fact_table(_headline(plan, table, report) | {"voxel size": voxel_in_words(main.geometry)}),
        *(f"<p class=warn>{escape(w)}</p>" for w in report.get("warnings", ())),
        *(f"<p class=note>{escape(n)}</p>" for n in (*plan.notes, *report.get("redone", ())[:REDONE_SHOWN])),
        "<h2>Pictures</h2><p>The middle of the volume, an object a colour.</p><div class=grid>",
        *_middle(drawn),
        "</div><h2>Sizes</h2>",
        bar_table(_sizes(table["voxels"]), "objects by voxels"),
        *_stages(plan, ledger),
        *_shown(drawn, table, "The largest", np.argsort(-table["voxels"], kind="stable")),
    ]
    if np.isfinite(table["confidence"]).any():
        least = np.argsort(np.nan_to_num(table["confidence"], nan=2.0), kind="stable")
        parts += _shown(drawn, table, "The least certain", least)
    parts += [
        "<h2>Provenance</h2>",
        fact_table({"command": report.get("command", ""), **report.get("environment", {})}),
    ]
    as_json = escape(plan.to_json().decode())
    parts.append(f"<details><summary>plan {plan.digest[:16]} as JSON</summary><pre>{as_json}</pre></details>")
    return page(f"{sink.url.rpartition('/')[2]} - voxweft report", parts)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What pictures are made of, and where they go."""

    sink: Sink
    image: Volume | None
    gallery: Gallery
    geometry: Geometry

    def figure(self, box: Box, axis: int, name: str, caption: str, only: int = 0) -> str:
        """A plane of a box."""
        rgb = _picture(self.sink, self.image, box, axis, only)
        return self.gallery.add(name, rgb, Scale.of(self.geometry, axis), caption)


def _headline(plan: Plan, table: Mapping[str, NDArray[Any]], report: Mapping[str, Any]) -> dict[str, Any]:
    sure = table["confidence"][np.isfinite(table["confidence"])]
    return {
        "command": plan.request.app,
        "objects": len(table["label"]),
        "voxels of objects": int(table["voxels"].sum()),
        "median size": f"{np.median(table['voxels']):g} voxels" if len(table["voxels"]) else "",
        "mean confidence": f"{sure.mean():.3f}" if len(sure) else "",
        "status": report.get("status", ""),
        "time": f"{report.get('elapsed_s', 0):.1f} s",
        "model": plan.models[0].url if plan.models else "",
        "asked for": ", ".join(f"{name} {value}" for name, value in plan.request.options.items()),
    }


def _image(plan: Plan) -> Volume | None:
    """The grey values on the grid of the result; None where there are none any more."""
    found = plan.input(VOLUME)
    if found is None or not plan.models or not isinstance(found.ref, VolumeRef):
        return None
    try:
        return open_ref(replace(found.ref, views=tuple(v for v in found.ref.views if isinstance(v, Crop))))
    except VoxweftError:
        return None


def _middle(drawn: _Drawn) -> Iterator[str]:
    """Planes through the middle, along all three axes."""
    shape = drawn.sink.shape()
    for axis, name in enumerate("zyx"):
        middle = shape[axis] // 2
        start = [max(0, (n - WINDOW) // 2) for n in shape]
        stop = [min(n, a + WINDOW) for n, a in zip(shape, start, strict=True)]
        start[axis], stop[axis] = middle, middle + 1
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        if min(n for k, n in enumerate(box.shape) if k != axis) > 1:
            yield drawn.figure(box, axis, name, f"{name} {middle}")


def _picture(sink: Sink, image: Volume | None, box: Box, axis: int, only: int = 0) -> NDArray[np.uint8]:
    """A plane with its objects in colours, or one of them."""
    labels = sink.read(box)[0].take(0, axis).astype(np.int64)
    labels = np.where(labels == only, labels, 0) if only else labels
    tint = colours.of_objects(labels)
    if image is None:
        return tint
    try:
        base = pictures.grey(image.read(box)[0].take(0, axis)).astype(np.float32)
    except VoxweftError:
        return tint
    alpha = 0.45 * (labels > 0)[..., None]
    return np.asarray((base * (1 - alpha) + tint * alpha).astype(np.uint8))


def _sizes(voxels: NDArray[Any]) -> dict[str, float]:
    """Objects by powers of two of their voxels."""
    if not len(voxels):
        return {}
    power = np.floor(np.log2(voxels)).astype(int)
    return {f"{2**p} to {2 ** (p + 1) - 1}": int((power == p).sum()) for p in range(power.min(), power.max() + 1)}


def _stages(plan: Plan, ledger: Any) -> Iterator[str]:
    """How many objects each plane had, and the consensus of them."""
    counts = {}
    for stage in plan.stages:
        if stage.kind == "gather" and (stage.name.startswith("match-") or stage.name == "agree"):
            found = ledger.table(stage.name, 0)
            named = "consensus" if stage.name == "agree" else stage.name.removeprefix("match-")
            pairs = np.stack([found["class"], found["object"]]) if len(found.get("object", ())) else np.zeros((2, 0))
            counts[named] = int(np.unique(pairs[:, pairs[1] > 0], axis=1).shape[1])
    if counts:
        yield "<h2>Planes</h2>"
        yield bar_table(counts, "objects")


def _shown(drawn: _Drawn, table: Mapping[str, NDArray[Any]], title: str, order: NDArray[Any]) -> Iterator[str]:
    """Some objects, each where it has most of its voxels: the plane of its centre."""
    yield f"<h2>{title}</h2><div class=grid>"
    shape = drawn.sink.shape()
    for row in order[:SHOWN]:
        start, stop = table["start"][row], table["stop"][row]
        centre = table["sum"][row] // max(1, table["voxels"][row])
        lo = [max(0, min(a - MARGIN, c - SMALLEST // 2)) for a, c in zip(start, centre, strict=True)]
        hi = [min(n, max(b + MARGIN, c + SMALLEST // 2)) for n, b, c in zip(shape, stop, centre, strict=True)]
        hi = [min(b, a + WINDOW) for a, b in zip(lo, hi, strict=True)]
        lo[0], hi[0] = int(centre[0]), int(centre[0]) + 1
        label = int(table["label"][row])
        box = Box((int(lo[0]), int(lo[1]), int(lo[2])), (int(hi[0]), int(hi[1]), int(hi[2])))
        sure = table["confidence"][row]
        said = f"{label}: {int(table['voxels'][row])} voxels, z {box.start[0]}"
        said += f", {sure:.2f}" if np.isfinite(sure) else ""
        yield drawn.figure(box, 0, f"{title} {label}", said, label)
    yield "</div>"
