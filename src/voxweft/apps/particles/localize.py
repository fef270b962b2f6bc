"""From segmentations to picks: every run a plan of blocks and gathers, all runs one batch. torch is not imported."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from voxweft.apps.particles.find import (
    AT_ONCE,
    FIND,
    LABELS,
    PICKS,
    PROBABILITY,
    Wanted,
    centres_of,
    stages_of,
)
from voxweft.apps.particles.options import LocalizeOptions, Work, thresholds
from voxweft.apps.particles.runs import (
    DONE,
    Book,
    RunsReport,
    carry_out,
    request_digest,
    runs_of,
    stamp_of,
)
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import decisive
from voxweft.engine.gather import Gathered
from voxweft.engine.ledger import Ledger
from voxweft.engine.op import Made, Op, gather_op, joined
from voxweft.engine.plan import InputRef, Plan, Request
from voxweft.engine.report import Report
from voxweft.engine.stage import Gather
from voxweft.engine.totals import n_cores
from voxweft.errors import RequestError, VolumeError, VoxweftError
from voxweft.image.protocols import Volume
from voxweft.image.ref import volume_ref
from voxweft.ops.components import require_components
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume
from voxweft.stores.copick import Project, picks_key
from voxweft.stores.copick_files import Picks, PicksName, fit_name
from voxweft.stores.url import records_at

LARGE_VOXELS = 1 << 27  # of all runs; for fewer, starting processes would take longer than the work
PEAK_LABELS = "Segment with --save-probabilities, or use --method watershed."


def localize(options: LocalizeOptions, *, work: Work | None = None, emit: Emit = silent) -> RunsReport:
    """Find the particles in the segmentations of a project, and write picks.

    Parameters
    ----------
    options, work
        What is found; where.
    emit
        Told of every event.

    Returns
    -------
    RunsReport
        Also of the runs that failed; they are no exception. A run without particles gets empty picks.

    Raises
    ------
    RequestError
        If the whole request is wrong; nothing was written.
    """
    require_components()
    work, began = work or Work(), time.perf_counter()
    project = Project(options.config)
    runs = runs_of(project, options.runs)
    labels, notes = labels_of(project, options)
    wanted, more = _wanted(project, options, labels)
    notes += more
    places = {run: project.segmentation(run, options.segmentation, options.voxel_size) for run in runs}
    if not any(places.values()):
        raise RequestError(_nothing(project, options, runs[0]))
    for note in notes:
        emit(Event("note", note))
    request = request_digest(decisive(options), labels, [asdict(one) for one in wanted])
    job = Job(project.path, tuple(wanted), options, request, work.command)
    book = job.book(project)
    results, said = carry_out(runs, job, book, work, lambda left: (job, _workers(places, left, work)), emit)
    if any(result.status == DONE for result in results):
        project.write_log(f"localize-{job.user}_{job.session}.yaml", _log(options))
    return RunsReport(
        options.config, f"{job.user}/{job.session}", results, time.perf_counter() - began, (*notes, *said)
    )


def localize_array(
    labels: NDArray[Any],
    objects: Sequence[Wanted],
    *,
    method: str = "watershed",
    probabilities: NDArray[Any] | None = None,
    filter_size: int = 10,
    block: int = 0,
) -> dict[str, Any]:
    """Find particles in an array.

    Parameters
    ----------
    labels
        Integers [Z, Y, X].
    objects
        What is looked for, lengths in voxels.
    method, filter_size
        As for :class:`~voxweft.apps.particles.options.LocalizeOptions`.
    block
        Voxels along a side of the blocks that are done one after the other; 0: all at once.
    probabilities
        [C, Z, Y, X], a channel a label; integers are shares of the largest that they can be. Needed for peaks; else
        scores are made of them.

    Returns
    -------
    dict
        Of every object its name, and "centre" z y x in voxels float64 [n, 3], "score" [n] and "voxels" [n], the best
        first.

    Examples
    --------
    >>> labels = np.zeros((24, 24, 24), np.uint8)
    >>> labels[8:15, 9:16, 10:17] = 1
    >>> found = localize_array(labels, [Wanted("cube", 1, radius=5, smallest=2.5, largest=5)], method="com")
    >>> found["cube"]["centre"].tolist()
    [[11.0, 12.0, 13.0]]
    """
    volumes = {LABELS: open_volume(labels)}
    if probabilities is not None:
        volumes[PROBABILITY] = open_volume(probabilities)
    plan = _plan(volumes, objects, method, (block, filter_size), ())
    sink = open_sink("memory://")
    run_plan(Opened(plan, volumes), Place.of(sink), Workers("serial", 1, 1, ("cpu",)), Execution(), silent)
    ledger = Ledger(sink.records)
    rows = joined([table for unit in sorted(ledger.done(FIND)) if (table := ledger.table(FIND, unit))])
    return dict(centres_of(rows, objects, volumes[LABELS].info.shape_zyx, method))


@dataclass(frozen=True, slots=True)
class Job:
    """What all runs share; called by a worker for one of them."""

    config: str
    wanted: tuple[Wanted, ...]
    options: LocalizeOptions
    request: str
    command: str

    def __call__(self, run: str, _share: tuple[int, int], workers: Workers) -> Report:
        """Do a run, and continue what was begun."""
        project, options = Project(self.config), self.options
        volumes = self._volumes(project, run)
        shape = next(iter(volumes.values())).info.shape_zyx
        about = {
            "config": self.config,
            "run": run,
            "user": self.user,
            "session": self.session,
            "wanted": [asdict(one) for one in self.wanted],
            "shape": list(shape),
            "voxel_size": options.voxel_size,
            "method": options.method,
        }
        writing = Gather(PICKS, Op.of(write_picks, about=about), (FIND,))
        at_once = math.prod(shape) <= AT_ONCE
        sizes = (0 if at_once else options.block, options.filter_size)
        plan = _plan(volumes, self.wanted, options.method, sizes, (writing,), decisive(options))
        url = self.book(project).work_of(run, self.stamp(project, run))
        place = Place(url, records_at(f"{url}.voxweft"))
        execution = Execution("serial", command=self.command)
        return run_plan(Opened(plan, volumes), place, workers, execution, silent)

    @property
    def user(self) -> str:
        """Of the picks."""
        return fit_name(self.options.pick_user_id)

    @property
    def session(self) -> str:
        """Of the picks."""
        return fit_name(self.options.pick_session_id)

    def book(self, project: Project) -> Book:
        """Where it is kept which runs are done."""
        return Book(project, f"localize {self.user}/{self.session}", self.request)

    def stamp(self, project: Project, run: str) -> Any:
        """That of the segmentation, and of its probabilities."""
        labels, probabilities = self._urls(project, run)
        if labels is None:
            raise VolumeError(_nothing(project, self.options, run))
        return [stamp_of(url) for url in (labels, probabilities) if url]

    def keys(self, _project: Project, run: str) -> list[str]:
        """The files of picks."""
        return [picks_key(run, PicksName(one.name, self.user, self.session)) for one in self.wanted]

    def marks(self, key: str) -> list[str]:
        """The file itself."""
        return [key]

    def finish(self, project: Project, run: str, stamp: Any) -> Mapping[str, Any]:
        """Take away the tables of blocks; picks of every object."""
        records_at(f"{self.book(project).work_of(run, stamp)}.voxweft").clear()
        names = [PicksName(one.name, self.user, self.session) for one in self.wanted]
        return {name.object: _facts(project.read_picks(run, name)) for name in names}

    def _urls(self, project: Project, run: str) -> tuple[str | None, str | None]:
        name, size = self.options.segmentation, self.options.voxel_size
        return project.segmentation(run, name, size), project.features(run, size, name.feature("probability"))

    def _volumes(self, project: Project, run: str) -> dict[str, Volume]:
        """Labels, and the probabilities that belong to them, where they are there."""
        labels, probabilities = self._urls(project, run)
        if labels is None:
            raise VolumeError(_nothing(project, self.options, run))
        try:
            volumes: dict[str, Volume] = {LABELS: open_volume(labels)}
        except VoxweftError as error:
            raise VolumeError(f"{run}: {self.options.segmentation} is half-written or damaged: {error}") from error
        info = volumes[LABELS].info
        if np.dtype(info.dtype).kind not in "iu" or info.n_channels != 1:
            found = f"{info.dtype} in {info.n_channels} channels"
            raise VolumeError(f"{run}: {self.options.segmentation} holds {found}; labels are integers in one")
        most = max((one.label for one in self.wanted), default=0)
        if probabilities:
            maps = open_volume(probabilities)
            if maps.info.shape_zyx == info.shape_zyx and maps.info.n_channels > most:
                volumes[PROBABILITY] = maps
        if self.options.method == "peaks" and PROBABILITY not in volumes:
            raise VolumeError(
                f"{run} has no probabilities of {self.options.segmentation}, whose peaks could be found.", PEAK_LABELS
            )
        return volumes


@gather_op
def write_picks(gathered: Gathered, *, about: Mapping[str, Any]) -> Made:
    """Write the picks of all objects of a run; of an object without any an empty file."""
    rows = joined([table for _, table in gathered.tables(FIND) if table])
    wanted = [Wanted(**one) for one in about["wanted"]]
    project = Project(about["config"])
    for name, found in centres_of(rows, wanted, tuple(about["shape"]), about["method"]).items():
        picks = Picks(found["centre"][:, ::-1] * about["voxel_size"], found["score"])
        project.write_picks(about["run"], PicksName(name, about["user"], about["session"]), picks)
    return Made()


def labels_of(project: Project, options: LocalizeOptions) -> tuple[dict[str, int], list[str]]:
    """The label of every object in a segmentation, and what to note of it.

    Raises
    ------
    RequestError
        If the log of the segmentation is damaged.
    """
    if options.label:
        return dict.fromkeys(project.particles, options.label), []
    name = options.segmentation
    if (data := project.log(log := name.log)) is None:
        labels = {one.name: one.label for one in project.objects if one.label}
        return labels, [f"no logs/{log} says the labels of {name}, so those of the config are taken"]
    try:
        labels = yaml.safe_load(data)["labels"]
        return {str(key): int(value) for key, value in labels.items()}, []
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"logs/{log} is damaged: it has no labels.", "Mend it, or give --label N.") from error


def _wanted(project: Project, options: LocalizeOptions, labels: Mapping[str, int]) -> tuple[list[Wanted], list[str]]:
    """What is looked for, with its lengths in voxels."""
    particles, problems, notes = project.particles, [], []
    for name in options.objects:
        if name not in particles:
            problems.append(f"--pick-objects {name!r} is no particle; the project has {', '.join(particles) or 'none'}")
        elif name not in labels:
            problems.append(
                f"--pick-objects {name!r}: {options.segmentation} has no label for it, only {', '.join(labels)}"
            )
    names = options.objects or [name for name in particles if name in labels]
    left = [name for name in particles if name not in labels]
    if left and not options.objects:
        notes.append(f"{', '.join(left)}: no label of {options.segmentation}, so not looked for")
    least, found = thresholds(options.threshold), []
    problems += [f"--threshold {n!r} is no particle of the project" for n in least if n and n not in particles]
    for name in names if not problems else ():
        radius = particles[name].radius
        if not radius or not radius > 0:
            problems.append(
                f"{name} has no radius in {options.config}; add it in Angstrom, or name others by --pick-objects"
            )
            continue
        r = radius / options.voxel_size
        found.append(
            Wanted(
                name,
                labels[name],
                r,
                r * options.radius_min_scale,
                r * options.radius_max_scale,
                least.get(name, least[""]),
                r * options.separation,
            )
        )
    if not problems and not found:
        problems.append(f"{options.config} has no particle with a label in {options.segmentation}")
    if problems:
        raise RequestError(*problems[:3])
    return found, notes


def _plan(
    volumes: Mapping[str, Volume],
    wanted: Sequence[Wanted],
    method: str,
    sizes: tuple[int, int],
    more: Sequence[Gather],
    asked: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a run; ``sizes``: of blocks, and of the filter."""
    shape = next(iter(volumes.values())).info.shape_zyx
    block, filter_size = sizes
    stages = stages_of(method, wanted, shape, block, filter_size, PROBABILITY in volumes)
    inputs = tuple(InputRef(name, volume_ref(volume)) for name, volume in volumes.items())
    return Plan(Request("particles localize", asked or {}), inputs, (), (*stages, *more))


def _nothing(project: Project, options: LocalizeOptions, run: str) -> str:
    """That a run has no such segmentation, and which it has."""
    have = ", ".join(name.removesuffix(".zarr") for name in project.segmentation_files(run)[:4]) or "none"
    return f"{run} has no segmentation {options.segmentation} at {options.voxel_size:g} A; it has {have}"


def _workers(places: Mapping[str, str | None], runs: Sequence[str], work: Work) -> Workers:
    """Processes where there is enough to do, or as many as were asked for."""
    n = work.workers
    if not n and runs and work.executor == "auto" and not work.scheduler:
        first = places[runs[0]]
        try:
            voxels = len(runs) * int(np.prod(open_volume(first).info.shape_zyx)) if first else 0
        except VoxweftError:
            voxels = 0
        n = n_cores() if voxels > LARGE_VOXELS else 1
    kind = work.kind(max(1, n))
    n = 1 if kind == "serial" else max(1, n)
    return Workers(kind, n, n, ("cpu",), work.scheduler)


def _facts(picks: Picks) -> dict[str, Any]:
    """How many picks, and how sure they are."""
    scores = np.sort(picks.scores)
    return {"picks": len(picks), "median_score": round(float(np.median(scores)), 4) if len(scores) else None}


def _log(options: LocalizeOptions) -> bytes:
    """The log that octopi leaves, too."""
    name = options.segmentation
    content = {
        "input": {
            "config": options.config,
            "seg_name": name.name,
            "seg_user_id": name.user,
            "seg_session_id": name.session,
            "voxel_size": options.voxel_size,
        },
        "output": {"pick_session_id": options.pick_session_id, "pick_user_id": options.pick_user_id},
        "parameters": {
            "method": options.method,
            "radius_min_scale": options.radius_min_scale,
            "radius_max_scale": options.radius_max_scale,
            "filter_size": options.filter_size,
        },
    }
    return str(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)).encode()
