"""Picks compared with the truth: octopi's two files, curves over the score, distances.

OUTPUT/average_metrics.yaml, metrics.json   as octopi writes them
OUTPUT/evaluation.json                      curves, best thresholds, distances, beta, how it was counted
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from voxweft.apps.particles.options import EvaluateOptions
from voxweft.apps.particles.runs import runs_of
from voxweft.engine.events import Emit, Event, silent
from voxweft.errors import RequestError, VoxweftError
from voxweft.ops.metrics import Counts, Curve, count_nearest, count_one_to_one, curve_of, pairs_of
from voxweft.stores.copick import Project
from voxweft.stores.copick_files import PickObject, Picks, PicksName
from voxweft.stores.durable import replace as replace_file

METRICS = (
    "precision",
    "recall",
    "f1_score",
    "fbeta_score",
    "accuracy",
    "true_positives",
    "false_positives",
    "false_negatives",
)
Pair = tuple[Picks | None, Picks | None]
"""True picks, and those that are compared with them."""
OF_BOTH = ("f1_score", "accuracy")  # which octopi leaves out where there is no truth, or no guess


@dataclass(frozen=True)
class Evaluation:
    """What a comparison found.

    Attributes
    ----------
    score
        The weighted mean of F-beta over objects.
    counts
        Of every object, summed over runs.
    runs
        Of every run the counts of every object.
    curves
        Of every object.
    distances
        Of every object, of all right picks, Angstrom.
    failed
        Runs whose picks cannot be read, and why.
    notes
        What the user should know.
    output
        The folder.
    """

    score: float
    counts: Mapping[str, Counts]
    runs: Mapping[str, Mapping[str, Counts]]
    curves: Mapping[str, Curve]
    distances: Mapping[str, Sequence[float]]
    beta: float
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    output: str = ""


def evaluate(options: EvaluateOptions, *, emit: Emit = silent) -> Evaluation:
    """Compare the picks of a project with the truth, and write the scores.

    Raises
    ------
    RequestError
        If objects or runs are unknown, radii are missing, or there is no truth at all; nothing was written.
    """
    project = Project(options.config)
    objects, notes = _objects(project, options), list[str]()
    pairs, failed = _pairs(project, options, [*objects], notes)
    count = count_nearest if options.matching == "nearest" else count_one_to_one
    far = {name: float(one.radius or 0) * options.distance_threshold_scale for name, one in objects.items()}
    each = {
        run: {name: count(_centres(guess), _centres(truth), far[name]) for name, (truth, guess) in one.items()}
        for run, one in pairs.items()
    }
    total = {name: sum((one[name] for one in each.values()), Counts()) for name in objects}
    weights = {name: one.weight for name, one in objects.items()}
    sum_of_weights = sum(weights.values())
    score = sum(weights[n] * total[n].fbeta(options.fbeta) for n in objects) / sum_of_weights if sum_of_weights else 0.0
    curves, distances = {}, {}
    for name in objects:
        triples = [
            (_centres(guess), guess.scores if guess else np.zeros(0), _centres(truth))
            for truth, guess in (one[name] for one in pairs.values())
        ]
        curves[name] = curve_of(triples, far[name], options.fbeta)
        distances[name] = [d for picks, _, true in triples for d in _distances(picks, true, far[name])]
    said = tuple(dict.fromkeys(notes))
    for note in said:
        emit(Event("note", note))
    result = Evaluation(score, total, each, curves, distances, options.fbeta, failed, said, options.output)
    both = {run: {name: c for name, c in one.items() if all(pairs[run][name])} for run, one in each.items()}
    _write(options.output, _texts(options, result, both, weights))
    return result


def _pairs(
    project: Project, options: EvaluateOptions, objects: Sequence[str], notes: list[str]
) -> tuple[dict[str, dict[str, Pair]], dict[str, str]]:
    """The true and the other picks of every object in every run, and the runs that cannot be read, with the reason."""
    runs, found, failed = runs_of(project, options.runs), dict[str, dict[str, Pair]](), dict[str, str]()
    truth = (options.ground_truth_user_id, options.ground_truth_session_id)
    guess = (options.predict_user_id, options.predict_session_id)
    for run in runs:
        names = project.picks(run)
        try:
            found[run] = {
                name: (
                    _picks(project, run, names, name, *truth, notes),
                    _picks(project, run, names, name, *guess, notes),
                )
                for name in objects
            }
        except VoxweftError as error:
            failed[run] = str(error)
    if found and not any(true is not None for one in found.values() for true, _ in one.values()):
        have = sorted({f"{n.user}/{n.session}" for run in runs for n in project.picks(run)})
        asked = f"{truth[0]}/{truth[1] or 'any session'}"
        raise RequestError(
            f"no run has picks of {asked} to compare with; there are picks of {', '.join(have) or 'nobody'}"
        )
    return found, failed


def _objects(project: Project, options: EvaluateOptions) -> dict[str, PickObject]:
    """The particles to be compared."""
    particles = project.particles
    if unknown := [name for name in options.objects if name not in particles]:
        have = ", ".join(particles) or "none"
        raise RequestError(f"--object-names {', '.join(unknown)}: no such particle; the project has {have}")
    chosen = {name: one for name, one in particles.items() if name in options.objects or not options.objects}
    if missing := [name for name, one in chosen.items() if not one.radius or not one.radius > 0]:
        raise RequestError(
            f"{', '.join(missing)} has no radius in {options.config}, so nothing says how near is near enough.",
            "Add it in Angstrom, or name other objects by --object-names.",
        )
    if not chosen:
        raise RequestError(f"{options.config} has no particles to compare")
    return chosen


def _picks(
    project: Project,
    run: str,
    names: Sequence[PicksName],
    name: str,
    user: str,
    session: str,
    notes: list[str],
) -> Picks | None:
    """The picks of an object by a user, of the session or of any; None where there are none."""
    fitting = [n for n in names if n.object == name and n.user == user and session in ("", n.session)]
    if len(fitting) > 1:
        others = ", ".join(n.session for n in fitting[1:])
        notes.append(f"{name} of {user}: session {fitting[0].session} is taken, there are also {others}")
    return project.read_picks(run, fitting[0]) if fitting else None


def _centres(picks: Picks | None) -> Any:
    return picks.centres if picks is not None else np.zeros((0, 3))


def _distances(picks: Any, truth: Any, far: float) -> list[float]:
    pairs = pairs_of(picks, truth, far)
    return [float(d) for d in np.linalg.norm(picks[pairs[:, 0]] - truth[pairs[:, 1]], axis=1)]


def _metrics(counts: Counts, beta: float) -> dict[str, float]:
    values = (
        counts.precision,
        counts.recall,
        counts.f1,
        counts.fbeta(beta),
        counts.accuracy,
        counts.tp,
        counts.fp,
        counts.fn,
    )
    return dict(zip(METRICS, values, strict=True))


def _texts(
    options: EvaluateOptions,
    result: Evaluation,
    both: Mapping[str, Mapping[str, Counts]],
    weights: Mapping[str, float],
) -> dict[str, str]:
    """The files; ``both``: counts where there is a truth and a guess, of which octopi's summary is made."""
    about = {
        "copick_config": options.config,
        "ground_truth_user_id": options.ground_truth_user_id,
        "ground_truth_session_id": options.ground_truth_session_id or None,
        "prediction_user_id": options.predict_user_id,
        "predict_session_id": options.predict_session_id or None,
    }
    runs = list(options.runs) or None
    parameters = {"distance_threshold_scale": options.distance_threshold_scale, "runIDs": runs}
    summary = {}
    for name in result.counts:
        rows = [_metrics(one[name], result.beta) for one in both.values() if name in one]
        summary[name] = {metric: _mean_and_std([row[metric] for row in rows]) for metric in METRICS}
    average = {
        "input": about,
        "final_fbeta_score": float(result.score),
        "aggregated_particle_scores": {
            name: {"tp": c.tp, "fp": c.fp, "fn": c.fn, "weight": _plain(weights[name])}
            for name, c in result.counts.items()
        },
        "summary_metrics": summary,
        "parameters": parameters,
    }
    metrics = {
        run: {
            name: {k: v for k, v in _metrics(counts, result.beta).items() if name in both[run] or k not in OF_BOTH}
            for name, counts in one.items()
        }
        for run, one in result.runs.items()
    }
    more = {
        "beta": result.beta,
        "matching": options.matching,
        "final_fbeta_score": result.score,
        "curves": {name: curve.to_dict() for name, curve in result.curves.items()},
        "distances_angstrom": {name: [round(d, 3) for d in far] for name, far in result.distances.items()},
        "failed": dict(result.failed),
        "notes": list(result.notes),
    }
    return {
        "average_metrics.yaml": yaml.safe_dump(average, indent=4, sort_keys=False),
        "metrics.json": json.dumps({"input": about, "metrics": metrics, "parameters": parameters}, indent=4),
        "evaluation.json": json.dumps(more, indent=1),
    }


def _write(output: str, texts: Mapping[str, str]) -> None:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            replace_file(folder / name, text.encode())
    except OSError as error:
        raise RequestError(f"--output {folder} cannot be written: {error.strerror}") from error


def _mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """Of no values nothing."""
    if not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number
