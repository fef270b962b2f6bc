"""report.html: one self-contained file about one output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.ledger import Ledger
from voxweft.engine.planning import spacing_notes
from voxweft.engine.report import REDONE_SHOWN
from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import IncompleteError, RequestError, first_line
from voxweft.geometry.box import Box
from voxweft.geometry.sampling import spread_points
from voxweft.image.protocols import Sink, Volume
from voxweft.ops.activate import VALUES
from voxweft.runner.objects import OBJECTS
from voxweft.runner.records import plan_of
from voxweft.stores import open_sink, open_volume
from voxweft.stores.url import parent_and_name, records_at
from voxweft.viewer import pictures, settings
from voxweft.viewer.gallery import Gallery
from voxweft.viewer.legend import class_name, colour_of, legend, score
from voxweft.viewer.markup import bar_table, dot, fact_table, page
from voxweft.viewer.objects_page import objects_page
from voxweft.viewer.places import show_places
from voxweft.viewer.scale import Scale
from voxweft.viewer.seams import Border, SeamCheck, check_seams
from voxweft.viewer.subject import SEEN_VOXELS, WINDOW, Seen, Subject, box_around, class_map

WHOLE = 1600  # pixels of the longer side of a whole surface
OVERVIEW = 900  # of an overview
SEAM_VOXELS = 1 << 26  # of a result in which borders are looked at; beyond that in windows
KEYS = 40  # colours that are named above the pictures
N_WINDOWS, N_SEAMS, SEAM_CROP = 3, 3, 96
DIRECTIONS = (("z", "y down, x right"), ("y", "z down, x right"), ("x", "z down, y right"))


def save_report(output: Any, to: str = "", *, title: str = "", pictures_to: str = "", truth: Any = None) -> str:
    """Write report.html of a complete output and return where it lies.

    Parameters
    ----------
    output
        URL of what a run wrote, or its sink.
    to
        A file to write, a path or s3://; default: ``report.html`` among the records beside the output.
    title
        What the page is about; default: the name of the output.
    pictures_to
        A folder, a path or s3://, for the pictures as PNG files; "": they are in the page alone.
    truth
        Classes of the same voxels, to be shown beside the result: an URL, an array [Z, Y, X] or a volume.

    Raises
    ------
    RequestError
        If voxweft did not write the output, or the truth has other voxels.
    IncompleteError
        If slabs are missing.
    """
    plan, ledger = plan_of(open_sink(output))
    stage, done = plan.main, len(ledger.done(plan.main.name))
    if done < stage.n_units:
        raise IncompleteError(
            f"{output_url(output)}: {stage.n_units - done} of {stage.n_units} {stage.noun} are missing. "
            "Run the same command again to complete it."
        )
    gallery = Gallery()
    if any(stage.name == OBJECTS for stage in plan.stages):
        text, sink = objects_page(output, gallery), open_sink(output)
        return _saved(text, sink, to, gallery, pictures_to)
    subject = Subject.of(plan)
    if subject.finish.output == "merged":
        raise RequestError(
            f"{output_url(output)} holds merged logits; finalize them first, report.html shows finished outputs"
        )
    sink = open_sink(output, layout=subject.spec.layout, order=subject.spec.order)
    sink.open()
    seen = Seen(sink, subject, _truth(truth, subject))
    return _saved(render(seen, ledger, gallery, title), sink, to, gallery, pictures_to)


def _truth(truth: Any, subject: Subject) -> Volume | None:
    if truth is None or (isinstance(truth, str) and not truth):
        return None
    volume = open_volume(truth)
    if volume.info.shape_zyx != subject.spec.shape_zyx:
        raise RequestError(
            f"--truth {volume.info.url} has {volume.info.shape_zyx} voxels (z, y, x), the result "
            f"{subject.spec.shape_zyx}; it must be classes of the same voxels"
        )
    return volume


def _saved(text: str, sink: Sink, to: str, gallery: Gallery, pictures_to: str) -> str:
    """Where a page was written."""
    if pictures_to:
        gallery.save(pictures_to)
    if not to:
        sink.records.put("report.html", text.encode())
        return f"{sink.url}.voxweft/report.html"
    folder, name = parent_and_name(to)
    records_at(folder).put(name, text.encode())
    return to


def output_url(output: Any) -> str:
    """Where an output lies."""
    return str(getattr(output, "url", output))


def render(seen: Seen, ledger: Ledger, gallery: Gallery, title: str = "") -> str:
    """The page as text; a part that cannot be made says why, and the others are there."""
    subject, report, plan = seen.subject, ledger.report(), seen.subject.plan
    is_picture = subject.spec.words.is_picture
    name = (title or seen.sink.url).rstrip("/").rpartition("/")[2]
    urgent = spacing_notes([ref.card for ref in plan.models], subject.sweep.info) if subject.sweep else []
    told = (*plan.notes, *report.get("notes", ()), *report.get("redone", ())[:REDONE_SHOWN])
    quantities = "Sizes" if subject.finish.output in VALUES else "Classes and volumes"
    parts = [
        f"<h1>{escape(name)}</h1>",
        *(f"<p class=warn>{escape(one)}</p>" for one in urgent),
        f"<p class=lead>{escape(title or seen.sink.url)}</p>",
        *_part("", lambda: [fact_table(settings.headline(subject, report))]),
        *(f"<p class=warn>{escape(w)}</p>" for w in report.get("warnings", ())),
        *(f"<p class=note>{escape(n)}</p>" for n in dict.fromkeys(told) if n not in urgent),
        *_part("Pictures", lambda: _surface(seen, gallery) if is_picture else _pictures(seen, gallery)),
        *_part(quantities, lambda: legend(seen, ledger)),
        *(_part("Against the truth", lambda: score(seen)) if seen.truth else ()),
        *(() if is_picture else _part("Worst places", lambda: show_places(seen, gallery, seen.sink.url))),
        *_part("Seam check", lambda: _seams(seen, gallery)),
        *_part("Settings", lambda: _settings(subject, report)),
        *_part("Time and memory", lambda: [fact_table(settings.costs(subject, report)), _times(report)]),
        *_part("Plan", lambda: [fact_table(settings.plan_facts(subject))]),
        *_part("Model", lambda: [fact_table(settings.model_facts(subject))]),
        "<h2>Provenance</h2>",
        fact_table({"command": report.get("command", ""), **report.get("environment", {})}),
        f"<details><summary>plan {plan.digest[:16]} as JSON</summary><pre>"
        f"{escape(plan.to_json().decode())}</pre></details>",
    ]
    return page(f"{name} - voxweft report", parts)


def _part(title: str, make: Callable[[], Iterable[str]]) -> Iterator[str]:
    """A part below its title; where it cannot be made, why: a page never fails a run."""
    if title:
        yield f"<h2>{escape(title)}</h2>"
    made = list[str]()
    try:
        made.extend(make())
    except Exception as error:  # noqa: BLE001 - whatever it was, the result is there and the rest of the page too
        made.append(f"<p class=warn>This could not be shown: {escape(first_line(error))}</p>")
    yield f"<section>{''.join(made)}</section>"


def _key(seen: Seen) -> str:
    """The colours of the overlays, and of the comparison, in a line."""
    finish = seen.subject.finish
    if finish.output in VALUES:
        return ""
    numbers = [number for number in seen.subject.names if number]
    dots = [f"{dot(colour_of(seen, i))}{escape(class_name(seen, i))}" for i in numbers[:KEYS]]
    if seen.truth is not None:
        named = ((pictures.RIGHT, "right"), (pictures.TOO_MUCH, "too much"), (pictures.MISSED, "missed"))
        dots.append("against the truth: " + " ".join(f"{dot(rgb)}{said}" for rgb, said in named))
    return f"<p class=small>{' &ensp; '.join(dots)}</p>"


def _not_shown(seen: Seen) -> Iterator[str]:
    if seen.missing:
        yield f"<p class=note>The image cannot be shown: {escape(seen.missing)}</p>"


def _pictures(seen: Seen, gallery: Gallery) -> Iterator[str]:
    """Along each axis the whole plane, where it is larger, and the middle at full resolution."""
    yield from _not_shown(seen)
    yield _key(seen)
    window = seen.window
    if window != seen.subject.region:
        yield f"<p>Whole planes, coarse; the yellow frame, {escape(str(window))}, is shown at full resolution.</p>"
    data = {"values": seen.sink.read(window), "image": seen.image(window), UNCERTAINTY: seen.uncertainty(window)}
    truth = seen.truth_of(window)
    for axis, (name, order) in enumerate(DIRECTIONS):
        if min(n for k, n in enumerate(seen.subject.spec.shape_zyx) if k != axis) < 2:
            continue
        middle = window.shape[axis] // 2
        place = f"{name} = {window.start[axis] + middle} ({order})"
        yield f"<h3>{escape(place)}</h3><div class=grid>"
        if window != seen.subject.region:
            yield from _overview(seen, gallery, axis, window.start[axis] + middle)
        scale = Scale.of(seen.subject.spec.geometry, axis)
        for what, rgb in _shown(seen, axis, middle, data, truth):
            yield gallery.add(f"{name} {what}", rgb, scale, f"{what}, {name} = {window.start[axis] + middle}")
        yield "</div>"


def _shown(
    seen: Seen, axis: int, middle: int, data: Mapping[str, NDArray[Any] | None], truth: NDArray[Any] | None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What there is of a plane of the window, by what it is called."""
    finish, tints, values = seen.subject.finish, seen.subject.tints, data["values"]
    if values is None:
        return
    result = np.take(values, middle, axis + 1)
    image = None if data["image"] is None else np.take(data["image"], middle, axis)
    if image is not None:
        yield "image", pictures.grey(image)
    yield "prediction", pictures.coloured(result, finish, tints)
    if image is not None:
        yield "overlay", pictures.overlay(image, result, finish, tints)
    if truth is not None:
        wanted = np.take(truth, middle, axis)
        yield "truth", _white(wanted > 0) if pictures.one_foreground(finish) else pictures.tint_of(wanted, tints)
        yield "against the truth", pictures.compared(class_map(result, finish), wanted)
    if (unsure := data[UNCERTAINTY]) is not None:
        yield UNCERTAINTY, pictures.grey(np.take(unsure, middle, axis))


def _white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.repeat((255 * mask).astype(np.uint8)[..., None], 3, axis=2)


def _overview(seen: Seen, gallery: Gallery, axis: int, plane: int) -> Iterator[str]:
    """A whole plane of the result from a coarse level, laid over the image where that can be had cheaply."""
    sink, region = seen.sink, seen.subject.region
    sides = [k for k in range(3) if k != axis]
    levels = range(sink.n_levels())
    level = next((k for k in levels if max(sink.shape(k)[a] for a in sides) <= OVERVIEW), sink.n_levels() - 1)
    shape, factor = sink.shape(level), seen.factor(level)
    at = min(int(plane // factor[axis]), shape[axis] - 1)
    start = [int(a // f) for a, f in zip(region.start, factor, strict=True)]
    stop = [min(n, -(-b // int(f))) for n, b, f in zip(shape, region.stop, factor, strict=True)]
    start[axis], stop[axis] = at, at + 1
    box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
    if box.n_voxels > SEEN_VOXELS:
        yield "<p class=note>The whole plane has no coarse level and is too large to be read.</p>"
        return
    values = sink.read(box, level).take(0, axis + 1)
    finish, tints = seen.subject.finish, seen.subject.tints
    rgb = pictures.coloured(values, finish, tints)
    fine = Box(
        tuple(plane if k == axis else a for k, a in enumerate(region.start)),  # type: ignore[arg-type]
        tuple(plane + 1 if k == axis else b for k, b in enumerate(region.stop)),  # type: ignore[arg-type]
    )
    what = "prediction"
    if 0 < seen.plane_costs(fine) <= 4 * SEEN_VOXELS and (image := seen.image(fine)) is not None:
        steps = tuple(int(factor[k]) for k in sides)
        coarse = image.take(0, axis)[:: steps[0], :: steps[1]][: values.shape[1], : values.shape[2]]
        if coarse.shape == values.shape[1:]:
            rgb, what = pictures.overlay(coarse, values, finish, tints), "overlay"
    window = seen.window
    frame = (
        [int((window.start[k] - region.start[k]) / factor[k]) for k in sides],
        [int((window.stop[k] - region.start[k]) / factor[k]) for k in sides],
    )
    name, caption = DIRECTIONS[axis][0], f"{what}, whole plane, resolution level {level}"
    around = (frame[0][0], frame[1][0], frame[0][1], frame[1][1])
    yield gallery.add(f"{name} overview", rgb, Scale.of(seen.subject.spec.geometry, axis, factor), caption, box=around)


def _surface(seen: Seen, gallery: Gallery) -> Iterator[str]:
    """The whole surface, and its middle at full resolution; both lie in the plane of the axes that have names."""
    sink, subject, words = seen.sink, seen.subject, seen.subject.spec.words
    flat = words.axes.index("")
    down = next(axis for axis, name in enumerate(words.axes) if name)
    level = next((k for k in range(sink.n_levels()) if max(sink.shape(k)) <= WHOLE), sink.n_levels() - 1)
    whole = sink.read(Box.of(sink.shape(level)), level).take(0, flat + 1)
    caption = f"prediction, whole surface, resolution level {level}"
    scale = Scale.of(subject.spec.geometry, flat, seen.factor(level))
    yield gallery.add("surface", pictures.coloured(whole, subject.finish, subject.tints), scale, caption)
    yield from _not_shown(seen)
    yield "<div class=grid>"
    values, image = seen.sink.read(seen.window).take(0, flat + 1), seen.image(seen.window)
    place, scale = (
        f"{words.axes[down]} {seen.window.start[down]} on, full resolution",
        Scale.of(subject.spec.geometry, flat),
    )
    if image is not None:
        grey = pictures.grey(image.take(0, flat))
        yield gallery.add("middle image", grey, scale, f"mean of the {words.channels}, {place}")
    rgb = pictures.coloured(values, subject.finish, subject.tints)
    yield gallery.add("middle prediction", rgb, scale, f"prediction, {place}")
    if image is not None:
        laid = pictures.overlay(image.take(0, flat), values, subject.finish, subject.tints)
        yield gallery.add("middle overlay", laid, scale, f"overlay, {place}")
    yield "</div>"


def seam_check(seen: Seen) -> tuple[SeamCheck, str]:
    """Of the whole result, or of windows of a large one; and where was looked."""
    subject = seen.subject
    grid = subject.sweep.grid if subject.sweep else None
    if grid is None:
        return SeamCheck(), ""
    if subject.region.n_voxels * subject.spec.n_channels <= SEAM_VOXELS:
        boxes, said = [subject.region], "the whole result"
    else:
        points = spread_points(subject.region, N_WINDOWS)
        side = WINDOW if subject.spec.n_channels <= 4 else WINDOW // 2
        boxes = [box_around(p, subject.region, (side, side, side)) for p in points]
        boxes, said = (
            [*dict.fromkeys((seen.window, *boxes))],
            f"the middle and {N_WINDOWS} windows spread over the volume",
        )
    labels = subject.finish.output in ("labels", "mask")
    checks = []
    for box in boxes:
        values = seen.sink.read(box)
        if not labels and subject.finish.output not in ("probability", "probability16"):
            values = pictures.foreground(values, subject.finish)
        image = None if subject.spec.words.is_picture else seen.image(box)  # many layers stand behind a picture
        checks.append(check_seams(values, box, grid, image=image, labels=labels))
    return SeamCheck.joined(checks), said


def _seams(seen: Seen, gallery: Gallery) -> Iterator[str]:
    if seen.subject.sweep is None:
        yield "<p class=note>Voxel by voxel, without patches: there can be no seams.</p>"
        return
    found, where = seam_check(seen)
    names = tuple(word or axis for word, axis in zip(seen.subject.spec.words.axes, "zyx", strict=True))
    yield f"<p class={'warn' if found.seams else 'note'}><b>{escape(found.verdict(names))}</b></p>"
    yield (
        f"<p class=small>Looked at: {where}. Of each plane where patches begin, end or hand over to the next: the jump "
        "from one plane to the next that a twentieth of its voxels reach, against planes beside it, where the image is "
        "quiet.</p>"
    )
    yield fact_table({f"along {names[axis]}": _axis_in_words(found.strongest(axis), axis) for axis in range(3)})
    if not found.seams:
        return
    for line in causes(found.seams, seen.subject):
        yield f"<p>{escape(line)}</p>"
    yield "<div class=grid>"
    for n, border in enumerate(found.seams[:N_SEAMS], 1):
        yield _seam_picture(seen, gallery, border, n, names)
    yield "</div>"


def _axis_in_words(border: Border | None, _axis: int) -> str:
    if border is None:
        return "no border here"
    where = " where the image is empty" if border.in_empty else ""
    return (
        f"worst at {border.position}: {border.strength:.2f} times the planes beside it{where} "
        f"(shifted planes: up to {border.usual:.2f}){'; a seam' if border.is_seam else ''}"
    )


def causes(seams: tuple[Border, ...], subject: Subject) -> Iterator[str]:
    """Why there are seams, as far as it can be told, and what to do."""
    schemes = {n.scheme for n in subject.sweep.passes[0].normalization} if subject.sweep else set()
    by_patch = schemes & {"instance_zscore", "instance_minmax", "percentile_minmax", "robust_mad"}
    if any(border.in_empty for border in seams):
        yield (
            "They lie where the image is empty. There a network has little to go by but its padding and its own "
            "normalisation; the likely cause: with InstanceNorm or GroupNorm every patch is scaled by its own, and "
            "a patch of little object and much background is scaled otherwise than its neighbour, so that the same "
            "empty voxels get another answer in each. A larger --overlap makes the steps smaller, not none."
        )
        yield (
            "What may help: --mask with where the object is, so that nothing is claimed outside; voxels as large as at "
            "training (--resample), or perhaps a larger --patch-size, so that a patch sees more of the object."
        )
    if by_patch:
        yield (
            f"Intensities are scaled patch by patch ({', '.join(sorted(by_patch))}), so neighbours may be scaled "
            "otherwise. Try --normalization global_zscore (of the whole volume) where the training allows it."
        )
    if any(not border.in_empty for border in seams):
        yield (
            "Neighbouring patches disagree inside the object, or the image itself has an edge just there: look at the "
            "picture. A larger --overlap, --tta mirroring or a larger --patch-size makes patches agree more."
        )


def _seam_picture(seen: Seen, gallery: Gallery, border: Border, n: int, names: tuple[str, ...]) -> str:
    """The surroundings of a seam in a plane that it crosses; marks at the edge show where it runs."""
    across = 0 if border.axis else 1
    sides = [1 if axis == across else SEAM_CROP for axis in range(3)]
    box = box_around(border.at, seen.subject.region, (sides[0], sides[1], sides[2]))
    values, image = seen.sink.read(box).take(0, across + 1), seen.image(box)
    rgb = pictures.coloured(values, seen.subject.finish, seen.subject.tints)
    if seen.subject.finish.output not in ("labels", "mask"):  # classes would hide steps of probability
        rgb = pictures.grey(pictures.foreground(values, seen.subject.finish))
    if image is not None and border.axis == (1 if across == 0 else 0):
        gap = np.full((rgb.shape[0], 2, 3), 255, np.uint8)
        rgb = np.concatenate([rgb, gap, pictures.grey(image.take(0, across))], axis=1)
    way = "down" if border.axis == next(axis for axis in range(3) if axis != across) else "across"
    caption = (
        f"{n}. along {names[border.axis]} at {border.position} (between the yellow marks), {names[across]} = "
        f"{box.start[across]}: {border.strength:.1f} times"
        f"{'; beside it the image' if rgb.shape[1] > values.shape[2] else ''}"
    )
    marks = (way, border.position - box.start[border.axis])
    return gallery.add(f"seam {n}", rgb, Scale.of(seen.subject.spec.geometry, across), caption, marks=marks)


def _settings(subject: Subject, report: Mapping[str, Any]) -> Iterator[str]:
    yield f"<ul>{''.join(f'<li>{escape(line)}' for line in settings.sentences(subject, report))}</ul>"
    asked = ", ".join(f"{name} {value}" for name, value in subject.plan.request.options.items())
    if asked:
        yield f"<p class=small>Asked for at other than its default: {escape(asked)}</p>"


def _times(report: Mapping[str, Any]) -> str:
    seconds = report.get("totals", {}).get("seconds", {})
    return bar_table({k: round(v, 2) for k, v in seconds.items()}, "seconds, summed over workers")
