"""What a run was, in words: what was read and made, with which settings, and what it cost against the plan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from voxweft.engine.fields import spell_duration
from voxweft.engine.report import trial_in_words
from voxweft.engine.stage import Sweep
from voxweft.errors import VoxweftError
from voxweft.ops.activate import MODES
from voxweft.runner.forecast import extent_of
from voxweft.runner.opening import Opened
from voxweft.viewer.scale import voxel_in_words
from voxweft.viewer.subject import Subject

SHARES = {0.5: "by half", 0.25: "by a quarter", 0.75: "by three quarters", 0.0: "not at all"}
SCHEMES = {
    "none": "as they are",
    "global_zscore": "to mean 0 and deviation 1 of the whole volume",
    "instance_zscore": "to mean 0 and deviation 1 of each patch",
    "global_minmax": "to 0 ... 1 of the whole volume",
    "instance_minmax": "to 0 ... 1 of each patch",
    "percentile_minmax": "to 0 ... 1 between the 1st and 99th percentile of each patch",
    "robust_mad": "by median and median deviation of each patch",
    "ct": "clipped and scaled by the numbers of the training",
}
OUTPUTS = {
    "probability": "probability, 0 to 255",
    "probability16": "probability, 0 to 65535",
    "probability32": "probability, 0 to 1",
    "mask": "mask, 0 or 255",
    "labels": "labels, a number a class",
}


def headline(subject: Subject, report: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that come first."""
    info, spec = subject.sweep.info if subject.sweep else None, subject.spec
    about = dict(report.get("environment", {}))
    who = [about.get("host", ""), about.get("device", ""), f"voxweft {about['voxweft']}" if "voxweft" in about else ""]
    source = info.url if info else subject.plan.inputs[0].ref.url
    facts = {
        "made": ", ".join(part for part in (_date(report), *who) if part),
        "from": f"{source}{f' ({info.dtype})' if info else ''}",
        "size": extent(subject),
        "voxel size": voxel_in_words(spec.geometry),
        "layers": subject.plan.request.get("layers", ""),
        "model": subject.card.path if subject.card else "",
        "result": f"{OUTPUTS.get(subject.finish.output, subject.finish.output)}, {_kind(subject)}",
        "status": report.get("status", "complete"),
    }
    if report:
        totals = report.get("totals", {})
        facts["time"] = (
            f"{report['elapsed_s']:.1f} s in the last call, {report['voxels_per_s'] / 1e6:.2f} Mvoxel/s"
            if {"elapsed_s", "voxels_per_s"} <= report.keys()
            else ""
        )
        facts["patches"] = (
            f"{totals['n_patches']} computed, {totals['n_skipped']} skipped as empty, in the last call"
            if subject.sweep and "n_patches" in totals
            else ""
        )
    return facts


def _kind(subject: Subject) -> str:
    mode = subject.finish.mode
    return f"{mode}, {subject.spec.dtype}" if mode in MODES else subject.spec.dtype


def _date(report: Mapping[str, Any]) -> str:
    ended = report.get("ended_at")
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(ended))) if ended else ""


def extent(subject: Subject) -> str:
    """How large it is, in the words of its front end."""
    words = subject.spec.words
    sides = {name: n for name, n in zip(words.axes, subject.spec.shape_zyx, strict=True) if name}
    said = f"{by(tuple(sides.values()))} {words.voxels} ({', '.join(sides)})"
    n_channels = subject.sweep.info.n_channels if subject.sweep else 1
    if words.is_picture:
        said = f"{n_channels} {words.channels} of {said}"
    whole = subject.region.shape == subject.spec.shape_zyx
    return said if whole else f"{said}, of which the box {subject.region} was wanted"


def sentences(subject: Subject, report: Mapping[str, Any]) -> Iterator[str]:
    """The settings as a colleague would tell them."""
    stage = subject.sweep
    if stage is None:
        yield f"Voxel by voxel, in {len(subject.plan.stages)} stages: {', '.join(s.name for s in subject.plan.stages)}."
        return
    one = stage.passes[0]
    yield (
        f"Patches of {by(stage.grid.patch)} {subject.spec.words.voxels}, overlapping {_overlap(stage)}, "
        f"{' x '.join(str(axis.count) for axis in stage.grid.axes)} of them, blended with a {stage.window} window."
    )
    schemes = dict.fromkeys(SCHEMES.get(n.scheme, n.scheme) + _numbers(n) for n in one.normalization)
    yield f"Intensities scaled {'; '.join(schemes)}."
    views = f"{stage.n_forwards:g} forward passes a patch" if stage.n_forwards != 1 else "one forward pass a patch"
    augmented = "without test-time augmentation" if one.tta == "none" else f"test-time augmentation {one.tta}"
    n_folds = subject.card.n_folds if subject.card else 1
    yield f"{views[0].upper()}{views[1:]}, {augmented}" + (f", {n_folds} folds." if n_folds > 1 else ".")
    setting = one.setting
    workers = {str(part.get("worker") or part.get("index")) for part in report.get("parts", ())} or {""}
    threads = f", {setting.n_threads} cores a pass" if setting.n_threads > 1 else ""
    yield (
        f"{setting.runtime} in {setting.precision} on {setting.device}, batch {setting.batch_size}{threads}"
        f"{f', {len(workers)} parts' if len(workers) > 1 else ''}."
    )
    if stage.skip_empty:
        yield "Patches whose voxels are all equal were skipped; they are background."
    if stage.mask and (ref := subject.plan.input(stage.mask)):
        yield f"Only inside the mask {ref.ref.url}."


def _numbers(scheme: Any) -> str:
    return f" ({scheme.mean:.4g}, {scheme.std:.4g})" if scheme.mean is not None and scheme.std is not None else ""


def _overlap(stage: Sweep) -> str:
    shares = {round(1 - axis.step / axis.size, 3) for axis in stage.grid.axes if axis.count > 1} or {0.0}
    if len(shares) == 1:
        share = shares.pop()
        return SHARES.get(share, f"by {share:.0%}")
    return "by " + ", ".join(f"{1 - axis.step / axis.size:.0%}" for axis in stage.grid.axes) + " (z, y, x)"


def costs(subject: Subject, report: Mapping[str, Any]) -> dict[str, Any]:
    """Time and memory against what the plan expected."""
    stage, totals = subject.sweep, report.get("totals", {})
    facts = dict[str, Any]()
    busy = totals.get("seconds", {}).get("wait for network")
    if stage is not None and (patch_s := _patch_s(subject)) and totals.get("n_patches"):
        lanes = max(1, stage.passes[0].setting.n_lanes)
        foreseen = patch_s * totals["n_patches"] / lanes
        facts["network, foreseen"] = (
            f"{spell_duration(foreseen)}: {totals['n_patches']} patches of {1000 * patch_s:.3g} ms"
        )
        facts["network, measured"] = f"{spell_duration(busy)} of waiting for it, summed over workers" if busy else ""
    if "elapsed_s" in report:
        facts["whole call"] = spell_duration(report["elapsed_s"])
    if stage is not None and not stage.sparse:
        with suppress(VoxweftError):
            facts["memory, foreseen"] = (
                f"{extent_of(Opened(subject.plan), stage)[4] / 1e9:.2f} GB of buffers; programs and network come on top"
            )
    if "peak_memory_bytes" in report:
        facts["memory, measured"] = f"{report['peak_memory_bytes'] / 1e9:.2f} GB at most in one process"
    return facts


def _patch_s(subject: Subject) -> float | None:
    """Seconds of a patch as the calibration found them for what was chosen."""
    setting = subject.sweep.passes[0].setting if subject.sweep else None
    names = ("runtime", "precision", "batch_size", "n_threads")
    for trial in subject.plan.measured.get("runtimes", ()):
        if setting and trial.get("patch_s") and all(trial.get(n, 1) == getattr(setting, n) for n in names):
            return float(trial["patch_s"])
    return None


def plan_facts(subject: Subject) -> dict[str, Any]:
    """The plan in its own words."""
    spec, stage = subject.spec, subject.sweep
    stored = f"chunks {by(spec.chunk_zyx)} in shards {by(spec.shard_zyx)}, {spec.compressor}"
    if stage is None:
        return {"stages": ", ".join(one.name for one in subject.plan.stages), "output": stored}
    one, measured = stage.passes[0], subject.plan.measured
    trials = "; ".join(trial_in_words(trial) for trial in measured.get("runtimes", ()))
    probe, choices = measured.get("tiling"), measured.get("choices", {})
    compared = [row for row in choices.get("rows", ()) if row["flips"] is not None]
    return {
        "grid": f"{' x '.join(str(a.count) for a in stage.grid.axes)} patches of {by(stage.grid.patch)}",
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


def model_facts(subject: Subject) -> dict[str, Any]:
    """The network."""
    card = subject.card
    if card is None:
        return {}
    return {
        "path": card.path,
        "format": card.format,
        "weights": f"sha256 {card.digest}",
        "patch": by(card.patch_zyx) if card.patch_zyx else "any",
        "voxel size at training": f"{by(card.spacing_zyx)} {card.spacing_unit}".strip() if card.spacing_zyx else "",
        "classes": ", ".join(card.class_names) or card.n_classes,
        "folds": card.n_folds,
    }


def by(size: tuple[float, ...]) -> str:
    """Sizes with a times between them."""
    return " x ".join(f"{n:g}" if isinstance(n, float) else str(n) for n in size)
