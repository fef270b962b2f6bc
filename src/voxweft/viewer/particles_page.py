"""Pages of particles: picks drawn on slices, sheets of sub-volumes, counts and scores; curves of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from voxweft.errors import VoxweftError
from voxweft.geometry.box import Box
from voxweft.image.kept import Kept
from voxweft.image.protocols import Volume
from voxweft.ops.metrics import Curve
from voxweft.stores import open_volume
from voxweft.stores.copick import Project
from voxweft.stores.copick_files import PickObject, Picks, PicksName
from voxweft.stores.durable import replace
from voxweft.viewer import pictures
from voxweft.viewer.markup import bar_table, dot, fact_table, figure, page

RUNS_SHOWN, LARGEST, CELLS, CELL = 3, 900, 20, 84
THICK = 2  # planes on both sides that are averaged: single ones are noise
SIDE, ROOM = 320, 40  # of a curve, and of its margin
STYLE = (
    ".sheet{display:flex;flex-wrap:wrap;gap:4px}.sheet figure{width:84px}.two{display:grid;gap:10px;"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}.two img{width:100%}td{padding-right:1em}"
)


def picks_page(report: Any, user: str, session: str) -> str:
    """The page of picks that were found.

    Parameters
    ----------
    report
        A :class:`voxweft.apps.particles.runs.RunsReport` of localize.
    user, session
        Of the picks.
    """
    project = Project(report.project)
    runs = [one.run for one in report.runs if one.status in ("done", "skipped")]
    found = {run: _of_run(project, run, user, session) for run in runs}
    objects = {n: one for n, one in project.particles.items() if any(n in picks for picks in found.values())}
    total = {name: [p[name] for p in found.values() if name in p] for name in objects}
    parts = [
        f"<h1>Picks {escape(user)}/{escape(session)}</h1>",
        fact_table(
            {
                "project": report.project,
                "runs": f"{len(runs)}, {report.n_failed} failed",
                "picks": sum(len(p) for each in total.values() for p in each),
                "time": f"{report.seconds:.1f} s",
            }
        ),
        *(f"<p class=warn>{escape(r.run)}: {escape(r.message)}</p>" for r in report.runs if r.status == "failed"),
        *(f"<p class=note>{escape(n)}</p>" for n in report.notes),
        "<h2>Objects</h2>",
        _legend(objects, total),
    ]
    for run in runs[:RUNS_SHOWN]:
        parts += _run(project, run, found[run], objects)
    parts.append("<h2>Scores</h2><div class=two>")
    parts += [_histogram(name, np.concatenate([p.scores for p in each])) for name, each in total.items() if each]
    parts.append("</div><h2>Picks a run</h2>")
    parts += [bar_table({run: len(found[run].get(name, ())) for run in runs[:50]}, name) for name in objects]
    return page("voxweft particles", parts, STYLE)


def evaluation_page(result: Any) -> str:
    """The page of a comparison.

    Parameters
    ----------
    result
        A :class:`voxweft.apps.particles.evaluate.Evaluation`.
    """
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{c.tp}<td>{c.fp}<td>{c.fn}<td>{c.precision:.3f}<td>{c.recall:.3f}<td>{c.f1:.3f}"
        f"<td>{c.fbeta(result.beta):.3f}<td>{_number(result.curves[name].best[0])}<td>{result.curves[name].best[1]:.3f}"
        for name, c in result.counts.items()
    )
    head = (
        "<tr><th>object<th>right<th>wrong<th>missed<th>precision<th>recall<th>F1"
        f"<th>F{result.beta:g}<th>best threshold<th>F{result.beta:g} there"
    )
    parts = [
        f"<h1>F{result.beta:g} {result.score:.4f}</h1>",
        *(f"<p class=warn>{escape(run)}: {escape(why)}</p>" for run, why in result.failed.items()),
        *(f"<p class=note>{escape(n)}</p>" for n in result.notes),
        f"<div class=scroll><table>{head}{rows}</table></div><h2>Precision over recall</h2>",
        "<p class=small>One to one, over the threshold of the score; the dot is the best one.</p><div class=two>",
        *(_curve(name, curve) for name, curve in result.curves.items()),
        "</div><h2>How far right picks are from the truth</h2><div class=two>",
        *(_distances(name, far) for name, far in result.distances.items()),
        "</div>",
    ]
    return page("voxweft evaluation", parts, STYLE)


def save_page(text: str, path: str) -> str:
    """Write a page; where it lies."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    replace(place, text.encode())
    return str(place)


def _of_run(project: Project, run: str, user: str, session: str) -> dict[str, Picks]:
    names = [PicksName(n.object, user, session) for n in project.picks(run) if (n.user, n.session) == (user, session)]
    return {name.object: project.read_picks(run, name) for name in names}


def _legend(objects: Mapping[str, PickObject], total: Mapping[str, Sequence[Picks]]) -> str:
    rows = ""
    for name, one in objects.items():
        scores = np.concatenate([p.scores for p in total[name]])
        known = f"{np.median(scores):.3f}<td>{scores.min():.3f} to {scores.max():.3f}" if len(scores) else "<td>"
        rows += f"<tr><td>{dot(one.color)}{escape(name)}<td>{len(scores)}<td>{one.radius or ''}<td>{known}"
    head = "<tr><th>object<th>picks<th>radius, A<th>median score<th>scores"
    return f"<div class=scroll><table>{head}{rows}</table></div>"


def _run(project: Project, run: str, picks: Mapping[str, Picks], objects: Mapping[str, PickObject]) -> Iterator[str]:
    """A run: two slices with its picks, and a sheet of sub-volumes an object."""
    yield f"<h2>{escape(run)}</h2>"
    named = _tomogram(project, run)
    if named is None:
        yield "<p class=note>There is no tomogram to draw on.</p>"
        return
    spacing, volume = named
    try:
        yield "<div class=two>"
        for z in _planes(picks, objects, spacing, volume.info.shape_zyx[0]):
            yield figure(_drawn(volume, z, picks, objects, spacing), f"{run}, z {z}")
        yield "</div>"
        for name, one in objects.items():
            if len(picks.get(name, ())):
                yield f"<h3>{escape(name)}: the surest, and the least sure</h3><div class=sheet>"
                yield from _sheet(volume, picks[name], (one.radius or 100.0) / spacing, spacing)
                yield "</div>"
    except VoxweftError as error:
        yield f"</div><p class=warn>{escape(str(error))}</p>"


def _tomogram(project: Project, run: str) -> tuple[float, Volume] | None:
    """The tomogram that the newest log of a segmentation names, else the coarsest that there is."""
    found = project.tomograms(run)
    kinds = set()
    for log in project.overlay.names("logs"):
        if log.startswith("segment-") and (data := project.log(log)):
            try:
                inputs = yaml.safe_load(data)["inputs"]
                kinds.add((str(inputs["tomo_alg"]), float(inputs["voxel_size"])))
            except (yaml.YAMLError, KeyError, TypeError, ValueError):
                continue
    order = sorted(found, key=lambda n: ((n.kind, n.spacing) not in kinds, -n.spacing, n.kind))
    try:
        return (order[0].spacing, Kept(open_volume(found[order[0]]))) if order else None
    except VoxweftError:
        return None


def _planes(picks: Mapping[str, Picks], objects: Mapping[str, PickObject], spacing: float, depth: int) -> list[int]:
    """The plane that meets most particles, and the one that meets most of those that it does not."""
    places = [
        (p.centres[:, 2] / spacing, np.full(len(p), (objects[n].radius or 100.0) / spacing))
        for n, p in picks.items()
        if n in objects
    ]
    z, r = (
        (np.concatenate(parts) if parts else np.zeros(0) for parts in zip(*places, strict=True))
        if places
        else (np.zeros(0),) * 2
    )
    chosen = []
    for _ in range(2):
        if not len(z):
            break
        met = [int((np.abs(z - plane) <= r / 2).sum()) for plane in range(depth)]
        best = int(np.argmax(met))
        chosen.append(best)
        left = np.abs(z - best) > r
        z, r = z[left], r[left]
    return chosen or [depth // 2]


def _mean_plane(volume: Volume, z: int, box: Box, thick: int) -> NDArray[np.float32]:
    """The mean of some planes around one, in y and x of a box."""
    depth = volume.info.shape_zyx[0]
    lo, hi = max(0, min(z - thick, depth - 1)), min(depth, max(z + thick, 0) + 1)
    planes = volume.read(Box((lo, *box.start[1:]), (hi, *box.stop[1:])))[0]
    return np.asarray(planes.astype(np.float32).mean(axis=0))


def _drawn(
    volume: Volume, z: int, picks: Mapping[str, Picks], objects: Mapping[str, PickObject], spacing: float
) -> NDArray[np.uint8]:
    """A plane with a circle for every particle that it meets."""
    _, height, width = volume.info.shape_zyx
    grey = pictures.grey(_mean_plane(volume, z, Box.of(volume.info.shape_zyx), THICK))
    scale = min(4.0, LARGEST / max(height, width))
    picture = Image.fromarray(grey).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for name, found in picks.items():
        radius = (objects[name].radius or 100.0) / spacing if name in objects else 0
        for x, y, depth in found.centres / spacing:
            if abs(depth - z) < radius:
                r = scale * math.sqrt(radius**2 - (depth - z) ** 2)
                cx, cy = (x + 0.5) * scale, (y + 0.5) * scale
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=_bright(objects[name].color), width=2)
    return np.asarray(picture)


def _sheet(volume: Volume, picks: Picks, radius: float, spacing: float) -> Iterator[str]:
    """The middles of sub-volumes: half of them the surest, half the least sure."""
    order = np.argsort(-picks.scores, kind="stable")
    if len(order) > CELLS:
        order = np.concatenate([order[: CELLS // 2], order[-CELLS // 2 :]])
    half = max(3, math.ceil(1.3 * radius))
    _, height, width = volume.info.shape_zyx
    for n in order:
        x, y, z = (round(float(v)) for v in picks.centres[n] / spacing)
        box = Box((0, max(0, y - half), max(0, x - half)), (1, min(height, y + half + 1), min(width, x + half + 1)))
        if not box.n_voxels:
            continue
        plane = pictures.grey(_mean_plane(volume, z, box, max(1, round(radius / 4))))
        cell = Image.new("RGB", (2 * half + 1, 2 * half + 1), "black")
        cell.paste(Image.fromarray(plane), (box.start[2] - (x - half), box.start[1] - (y - half)))
        yield figure(np.asarray(cell.resize((CELL, CELL), Image.Resampling.BILINEAR)), f"{picks.scores[n]:.3f}")


def _bright(colour: Sequence[int]) -> tuple[int, int, int]:
    """A colour that can be seen on grey."""
    r, g, b = colour[:3]
    most = max(r, g, b, 1)
    return tuple(round(min(255, 60 + 195 * c / most)) for c in (r, g, b)) if most < 160 else (r, g, b)  # type: ignore[return-value]


def _histogram(name: str, scores: NDArray[np.float64]) -> str:
    """How many picks have which score."""
    counts, edges = np.histogram(
        scores, bins=10, range=(min(0.0, scores.min(initial=0)), max(1.0, scores.max(initial=1)))
    )
    return bar_table({f"{a:.2f} to {b:.2f}": int(n) for n, a, b in zip(counts, edges, edges[1:], strict=False)}, name)


def _distances(name: str, far: Sequence[float]) -> str:
    if not far:
        return f"<p class=small>{escape(name)}: none is right</p>"
    counts, edges = np.histogram(far, bins=8)
    return bar_table(
        {f"{a:.0f} to {b:.0f} A": int(n) for n, a, b in zip(counts, edges, edges[1:], strict=False)},
        f"{name}: median {np.median(far):.1f} A",
    )


def _curve(name: str, curve: Curve) -> str:
    """Precision over recall as a drawing."""
    size = SIDE + 2 * ROOM

    def place(recall: float, precision: float) -> str:
        return f"{ROOM + SIDE * recall:.1f},{ROOM + SIDE * (1 - precision):.1f}"

    line = " ".join(place(r, p) for r, p in zip(curve.recall, curve.precision, strict=True))
    dot = ""
    if len(curve.fbeta):
        at = int(curve.fbeta.argmax())
        x, y = place(curve.recall[at], curve.precision[at]).split(",")
        dot = f'<circle cx="{x}" cy="{y}" r="5" fill="#ff7a1a"/>'
    ticks = "".join(
        f'<text x="{ROOM + SIDE * v:.0f}" y="{size - ROOM + 16}" text-anchor="middle">{v:g}</text>'
        f'<text x="{ROOM - 6}" y="{ROOM + SIDE * (1 - v) + 4:.0f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    )
    threshold, best = curve.best
    said = f"{name}: average precision {curve.average_precision:.3f}, best at {_number(threshold)} ({best:.3f})"
    return (
        f'<figure><svg viewBox="0 0 {size} {size}" width="{size}" font-size="12" fill="currentColor">'
        f'<rect x="{ROOM}" y="{ROOM}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"/>{dot}{ticks}'
        f'<text x="{size / 2:.0f}" y="{size - 4}" text-anchor="middle">recall</text>'
        f'<text x="12" y="{ROOM - 12}">precision</text></svg><figcaption>{escape(said)}</figcaption></figure>'
    )


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
