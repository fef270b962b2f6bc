"""report.html: one self-contained file about one output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.fields import spell_duration
from voxweft.engine.plan import VOLUME, Plan
from voxweft.engine.report import REDONE_SHOWN, trial_in_words
from voxweft.engine.stage import Sweep
from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import IncompleteError, RequestError, VoxweftError, first_line
from voxweft.geometry.box import Box
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Sink
from voxweft.model.card import ModelCard
from voxweft.ops.activate import VALUES, Finish
from voxweft.runner.objects import OBJECTS
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.records import plan_of
from voxweft.stores import open_sink
from voxweft.stores.url import parent_and_name, records_at
from voxweft.viewer import pictures
from voxweft.viewer.markup import CSS, bar_table, fact_table, figure
from voxweft.viewer.objects_page import objects_page
from voxweft.viewer.seams import SeamCheck, check_seams

WINDOW, WHOLE = 256, 1600
HISTOGRAM_VOXELS = 1 << 26
DIRECTIONS = (("z", "y down, x right"), ("y", "z down, x right"), ("x", "z down, y right"))


def save_report(output: Any, to: str = "", title: str = "") -> str:
    """Write report.html of a complete output and return where it lies.

    Parameters
    ----------
    output
        URL of what a run wrote, or its sink.
    to
        A file to write, a path or s3://; default: ``report.html`` among the records beside the output.
    title
        What the page is about; default: the output.

    Raises
    ------
    RequestError
        If voxweft did not write the output.
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
    if any(stage.name == OBJECTS for stage in plan.stages):
        page, sink = objects_page(output), open_sink(output)
        return _saved(page, sink, to)
    subject = Subject.of(plan)
    if subject.finish.output == "merged":
        raise RequestError(
            f"{output_url(output)} holds merged logits; finalize them first, report.html shows finished outputs"
        )
    sink = open_sink(output, layout=subject.spec.layout, order=subject.spec.order)
    sink.open()
    return _saved(render(sink, subject, ledger.report(), title or sink.url), sink, to)


def _saved(page: str, sink: Sink, to: str) -> str:
    """Where a page was written."""
    if not to:
        sink.records.put("report.html", page.encode())
        return f"{sink.url}.voxweft/report.html"
    folder, name = parent_and_name(to)
    records_at(folder).put(name, page.encode())
    return to


def output_url(output: Any) -> str:
    """Where an output lies."""
    return str(getattr(output, "url", output))


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about: the main output of a plan, and the sweep that made it, if one did."""

    plan: Plan
    spec: OutputSpec
    finish: Finish
    region: Box
    sweep: Sweep | None

    @classmethod
    def of(cls, plan: Plan) -> Subject:
        """That of a plan.

        Raises
        ------
        RequestError
            If it writes no array.
        """
        stage = plan.main
        spec = next((output.spec for output in stage.outputs if output.spec), None)
        if spec is None or stage.kind == "gather":
            raise RequestError(f"stage {stage.name} writes no array that could be shown")
        if stage.kind == "sweep":
            return cls(plan, spec, stage.finish, stage.region, stage)
        arguments = stage.op.arguments
        arguments = arguments["heads"][0] if "heads" in arguments else arguments
        if {"mode", "output", "n_classes"} <= arguments.keys():
            return cls(plan, spec, Finish(**arguments), stage.region, None)
        labels = spec.is_label or spec.n_channels > 1
        return cls(
            plan,
            spec,
            Finish(
                "multiclass" if labels else "binary",
                "labels" if spec.is_label else "probability",
                max(spec.n_channels, 1),
                "none",
            ),
            stage.region,
            None,
        )

    @property
    def card(self) -> ModelCard | None:
        """The first model."""
        return self.plan.models[0].card if self.plan.models else None


def render(sink: Sink, subject: Subject, report: Mapping[str, Any], title: str) -> str:
    """The page as text."""
    plan, seen = subject.plan, _look(sink, subject)
    parts = [
        f"<h1>{escape(title)}</h1>",
        fact_table(_headline(subject, report)),
        *(f"<p class=warn>{escape(w)}</p>" for w in report.get("warnings", ())),
        *(
            f"<p class=note>{escape(n)}</p>"
            for n in dict.fromkeys((*plan.notes, *report.get("notes", ()), *report.get("redone", ())[:REDONE_SHOWN]))
        ),
        "<h2>Pictures</h2>",
        *(_surface(sink, seen, subject) if subject.spec.words.is_picture else _pictures(seen, subject)),
        f"<h2>{'Label sizes' if subject.finish.output == 'labels' else 'Histogram'}</h2>",
        _histogram(sink, subject),
        "<h2>Seam check</h2>",
        _seams(seen.seams, subject.spec.words.axes),
        "<h2>Where the time went</h2>",
        _times(report),
        "<h2>Plan</h2>",
        fact_table(_plan_facts(subject)),
        "<h2>Model</h2>",
        fact_table(_model_facts(subject)),
        "<h2>Provenance</h2>",
        fact_table({"command": report.get("command", ""), **report.get("environment", {})}),
        f"<details><summary>plan {plan.digest[:16]} as JSON</summary><pre>"
        f"{escape(plan.to_json().decode())}</pre></details>",
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>voxweft report</title><style>{CSS}</style>"
        + "".join(parts)
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A window of the result [C, Z, Y, X], of the image and of the uncertainty [Z, Y, X], None where there is none."""

    window: Box
    values: NDArray[Any]
    image: NDArray[Any] | None
    seams: SeamCheck | None
    missing: str
    uncertainty: NDArray[Any] | None = None


def _look(sink: Sink, subject: Subject) -> _Seen:
    window = _middle(subject.region)
    values, image, missing = sink.read(window), None, ""
    try:
        shown = subject.plan.image
        voxels = Opened(subject.plan).volume(shown.name if shown else VOLUME).read(window)
        if voxels.shape[1:] != window.shape or subject.sweep is None:
            raise RequestError("what it was made from is no image")
        image = voxels.mean(axis=0) if subject.spec.words.is_picture else voxels[0]
    except VoxweftError as error:
        missing = first_line(error)
    grid = subject.sweep.grid if subject.sweep else None
    seams = check_seams(pictures.foreground(values, subject.finish), window, grid) if grid else None
    return _Seen(window, values, image, seams, missing, _uncertainty(sink, subject, window))


def _uncertainty(sink: Sink, subject: Subject, window: Box) -> NDArray[Any] | None:
    """Of a window [Z, Y, X]; None where it was not asked for, or is not there any more."""
    for output in subject.plan.main.outputs:
        if output.name == UNCERTAINTY:
            with suppress(VoxweftError):
                beside = Place.of(sink).sink_of(output)
                beside.open()
                return np.asarray(beside.read(window)[0])
    return None


def _surface(sink: Sink, seen: _Seen, subject: Subject) -> Iterator[str]:
    """The whole surface, and its middle at full resolution; both lie in the plane of the axes that have names."""
    words = subject.spec.words
    flat = words.axes.index("")
    down = next(axis for axis, name in enumerate(words.axes) if name)
    level = next((k for k in range(sink.n_levels()) if max(sink.shape(k)) <= WHOLE), sink.n_levels() - 1)
    whole = sink.read(Box.of(sink.shape(level)), level).take(0, flat + 1)
    yield figure(pictures.coloured(whole, subject.finish), f"prediction, whole surface, resolution level {level}")
    yield from _not_shown(seen)
    yield "<div class=grid>"
    values = seen.values.take(0, flat + 1)
    place = f"{words.axes[down]} {seen.window.start[down]} on, full resolution"
    if seen.image is not None:
        yield figure(pictures.grey(seen.image.take(0, flat)), f"mean of the {words.channels}, {place}")
    yield figure(pictures.coloured(values, subject.finish), f"prediction, {place}")
    if seen.image is not None:
        yield figure(pictures.overlay(seen.image.take(0, flat), values, subject.finish), f"overlay, {place}")
    yield "</div>"


def _not_shown(seen: _Seen) -> Iterator[str]:
    if seen.missing:
        yield f"<p class=note>The image cannot be shown: {escape(seen.missing)}</p>"


def _pictures(seen: _Seen, subject: Subject) -> Iterator[str]:
    yield f"<p>Middle planes of {seen.window}, full resolution.</p>"
    yield from _not_shown(seen)
    yield "<div class=grid>"
    for axis, (name, order) in enumerate(DIRECTIONS):
        middle = seen.window.shape[axis] // 2
        result = np.take(seen.values, middle, axis + 1)
        place = f"{name} = {seen.window.start[axis] + middle} ({order})"
        shown = {"prediction": pictures.coloured(result, subject.finish)}
        if seen.image is not None:
            image = np.take(seen.image, middle, axis)
            shown = {"image": pictures.grey(image), **shown, "overlay": pictures.overlay(image, result, subject.finish)}
        if seen.uncertainty is not None:
            shown[UNCERTAINTY] = pictures.grey(np.take(seen.uncertainty, middle, axis))
        for what, rgb in shown.items():
            yield figure(rgb, f"{what}, {place}")
    yield "</div>"


def _histogram(sink: Sink, subject: Subject) -> str:
    """Counts over the finest level of at most 2^26 voxels (or its middle)."""
    level = next((k for k in range(sink.n_levels()) if np.prod(sink.shape(k)) <= HISTOGRAM_VOXELS), sink.n_levels() - 1)
    box = subject.region if level == 0 else Box.of(sink.shape(level))
    values = sink.read(box if box.n_voxels <= HISTOGRAM_VOXELS else _middle(box), level)
    finish = subject.finish
    index = pictures.classes(values, finish)
    if index is not None or finish.output == "labels":
        counts = np.bincount((index if index is not None else values[0]).ravel().astype(np.intp))
        bars = {_class_name(subject, i): int(n) for i, n in enumerate(counts) if n}
        return bar_table(bars, "voxels") + f"<p class=small>resolution level {level}</p>"
    counts, _ = np.histogram(pictures.foreground(values, finish), bins=20, range=(0, 1))
    bars = {f"{i / 20:.2f} to {(i + 1) / 20:.2f}": int(n) for i, n in enumerate(counts)}
    what = "size, as a share of the largest" if finish.output in VALUES else "probability of the foreground"
    return bar_table(bars, f"voxels by {what}") + f"<p class=small>resolution level {level}</p>"


def _middle(box: Box) -> Box:
    sides = [min(WINDOW, n) for n in box.shape]
    start = tuple(a + (n - s) // 2 for a, n, s in zip(box.start, box.shape, sides, strict=True))
    return Box(start, tuple(a + s for a, s in zip(start, sides, strict=True)))  # type: ignore[arg-type]


def _class_name(subject: Subject, index: int) -> str:
    names = subject.card.class_names if subject.card else ()
    return f"{index} {names[index]}" if index < len(names) else str(index)


def _seams(seams: SeamCheck | None, names: tuple[str, ...]) -> str:
    if seams is None:
        return "<p class=note>Voxel by voxel, without patches: there can be no seams.</p>"
    rows = {
        f"along {name}": "no border here" if r is None else f"{r:.3f}"
        for name, r in zip(names, seams.ratio_zyx, strict=True)
        if name
    }
    text = "Mean step between voxels across patch borders, divided by that up to four voxels beside them."
    return f"<p><b>{escape(seams.verdict)}</b></p><p>{text}</p>" + fact_table(rows)


def _times(report: Mapping[str, Any]) -> str:
    seconds = report.get("totals", {}).get("seconds", {})
    return bar_table({k: round(v, 2) for k, v in seconds.items()}, "seconds, summed over workers")


def _headline(subject: Subject, report: Mapping[str, Any]) -> dict[str, Any]:
    totals, plan = report.get("totals", {}), subject.plan
    info = subject.sweep.info if subject.sweep else None
    facts = {
        "volume": f"{_extent(subject)}, {info.dtype}, {info.url}" if info else plan.inputs[0].ref.url,
        "layers": plan.request.get("layers", ""),
        "result": f"{subject.finish.output}, {subject.finish.mode}, {subject.spec.dtype}",
        "status": report.get("status", "complete"),
    }
    if report:
        facts |= {
            "time": f"{report['elapsed_s']:.1f} s in the last call, {report['voxels_per_s'] / 1e6:.2f} Mvoxel/s",
            "peak memory": f"{report['peak_memory_bytes'] / 1e9:.2f} GB in one process",
            "patches": f"{totals['n_patches']} computed, {totals['n_skipped']} skipped as empty, in the last call"
            if subject.sweep
            else "",
        }
    return facts


def _extent(subject: Subject) -> str:
    words = subject.spec.words
    sides = {name: n for name, n in zip(words.axes, subject.spec.shape_zyx, strict=True) if name}
    extent = f"{_zyx(tuple(sides.values()))} {words.voxels} ({', '.join(sides)})"
    n_channels = subject.sweep.info.n_channels if subject.sweep else 1
    return f"{n_channels} {words.channels} of {extent}" if words.is_picture else extent


def _plan_facts(subject: Subject) -> dict[str, Any]:
    spec, stage = subject.spec, subject.sweep
    stored = f"chunks {_zyx(spec.chunk_zyx)} in shards {_zyx(spec.shard_zyx)}, {spec.compressor}"
    if stage is None:
        return {"stages": ", ".join(one.name for one in subject.plan.stages), "output": stored}
    one, measured = stage.passes[0], subject.plan.measured
    trials = "; ".join(trial_in_words(trial) for trial in measured.get("runtimes", ()))
    probe, choices = measured.get("tiling"), measured.get("choices", {})
    compared = [row for row in choices.get("rows", ()) if row["flips"] is not None]
    return {
        "grid": f"{' x '.join(str(a.count) for a in stage.grid.axes)} patches of {_zyx(stage.grid.patch)}",
        "window": f"{stage.window}, sigma = patch / {stage.sigma_scale:g}",
        "test-time augmentation": f"{one.tta} ({stage.n_forwards:g} forward passes a patch)",
        "columns": f"{stage.columns.n_columns}, slabs: {stage.columns.n_slabs} of {stage.columns.slab_z} planes",
        "waste": f"{stage.waste:.3f} (patches computed / patches of the grid)",
        "runtime": f"{one.setting.runtime} on {one.setting.device}, {one.setting.precision}, "
        f"batch {one.setting.batch_size}",
        "candidates": trials,
        "choices": "; ".join(
            f"{row['name']}{' (taken)' if row['is_chosen'] else ''}: {spell_duration(row['seconds'])}, "
            f"{row['flips']:.3%} of labels flip"
            for row in compared
        ),
        "tiling probe": f"a window shifted by a quarter changes probabilities by {probe['mean']:.3f} on average, "
        f"{probe['max']:.2f} at most"
        if probe
        else "",
        "output": stored,
    }


def _model_facts(subject: Subject) -> dict[str, Any]:
    card = subject.card
    if card is None:
        return {}
    schemes = ", ".join(
        n.scheme + (f" (mean {n.mean:.4g}, std {n.std:.4g})" if n.mean is not None and n.std is not None else "")
        for n in (subject.sweep.passes[0].normalization if subject.sweep else card.normalization)
    )
    return {
        "path": card.path,
        "format": card.format,
        "weights": f"sha256 {card.digest}",
        "patch": _zyx(card.patch_zyx) if card.patch_zyx else "any",
        "classes": ", ".join(card.class_names) or card.n_classes,
        "folds": card.n_folds,
        "normalisation": schemes,
    }


def _zyx(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
