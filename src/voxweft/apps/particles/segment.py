"""Segmentations of tomograms: every run a plan of its own, all runs one batch.

tomogram --z-score of the whole--> Sweep(models x views) --> labels [, probabilities, variance] --> Gather(OME-Zarr)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from voxweft.apps.particles.options import OctopiRun, SegmentOptions, Work
from voxweft.apps.particles.runs import (
    DONE,
    Book,
    RunsReport,
    carry_out,
    request_digest,
    runs_of,
    stamp_of,
)
from voxweft.backends import load_model
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, Op, gather_op
from voxweft.engine.options import RuntimeOptions
from voxweft.engine.planning import Target
from voxweft.engine.report import Report
from voxweft.engine.stage import Gather, Output, Stage, Sweep
from voxweft.errors import ModelError, VolumeError, VoxweftError
from voxweft.foreign import local
from voxweft.geometry.box import Box
from voxweft.model.protocols import ForwardSetting
from voxweft.model.ref import ModelRef
from voxweft.runner.batch import loaded_once
from voxweft.runner.devices import devices_of, n_gpus
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.parts import absolute_model
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume
from voxweft.stores.copick import Project
from voxweft.stores.copick_files import SegmentationName
from voxweft.stores.ngff04 import write_group
from voxweft.version import __version__

ALIASES = {"tomogram-boundary": "hf://biohub/octopi/tomogram-boundary"}
LABELS, PROBABILITY, VARIANCE = "labels", "probability16", "variance"


def segment(options: SegmentOptions, *, work: Work | None = None, emit: Emit = silent) -> RunsReport:
    """Segment the tomograms of a project.

    Parameters
    ----------
    options, work
        What is computed; where.
    emit
        Told of every event.

    Returns
    -------
    RunsReport
        Also of the runs that failed; they are no exception. A run that is done, by the same models and settings on the
        same tomogram, is left as it is.

    Raises
    ------
    RequestError
        If the whole request is wrong; nothing was written.
    """
    work, began = work or Work(), time.perf_counter()
    project = Project(options.config)
    runs = runs_of(project, options.runs)
    refs, labels = _models(options)
    if not any(options.tomogram in project.tomograms(run) for run in runs):
        project.tomogram(runs[0], options.tomogram)  # says what there is instead
    known = {one.name for one in project.objects}
    notes = [f"{name} is no object of the project" for name in labels if name not in known]
    for note in notes:
        emit(Event("note", note))
    more = [options.mask, options.average, options.save_probabilities, options.uncertainty]
    decided = [(ref.digest, ref.card.patch_zyx, ref.card.class_names) for ref in refs]
    request = request_digest(options_of(options).request(), str(options.tomogram), more, decided)
    job = Job(project.path, tuple(absolute_model(ref) for ref in refs), labels, options, request, work.command)

    def prepare(left: list[str]) -> tuple[Job, Workers]:
        workers = _workers(options, work)
        ready = replace(job, n_runs=len(left))
        device = workers.devices[0]
        return replace(ready, settings=book.settings(device, lambda: _decided(ready, project, left, workers))), workers

    book = job.book(project)
    results, said = carry_out(runs, job, book, work, prepare, emit)
    if any(result.status == DONE for result in results):
        project.write_log(options.segmentation.log, _log(options, labels))
    return RunsReport(options.config, str(options.segmentation), results, time.perf_counter() - began, (*notes, *said))


def segment_array(
    tomogram: NDArray[Any], models: Sequence[Any], options: SegmentOptions, *, probabilities: bool = False
) -> NDArray[Any]:
    """Segment an array, as a tomogram of a project is segmented.

    Parameters
    ----------
    tomogram
        Grey values [Z, Y, X].
    models
        Loaded by :func:`voxweft.load_model`; several are an ensemble.
    options
        Overlap, views and the like; the project and the weights must be given, but are not looked at: "-".
    probabilities
        Give probabilities instead of labels.

    Returns
    -------
    ndarray
        Labels uint8 [Z, Y, X], or probabilities uint16 [C, Z, Y, X], of which 65535 is 1.

    Examples
    --------
    >>> import voxweft
    >>> model = voxweft.load_model("fake://null?patch=16,16,16&classes=3")
    >>> tomogram = np.zeros((20, 20, 20), np.float32); tomogram[5:9] = 200
    >>> options = SegmentOptions(config="-", model_weights="-", ntta=2)
    >>> np.unique(segment_array(tomogram, [model], options)).tolist()
    [0, 2]
    """
    cards = tuple(model.card for model in models)
    run = options_of(options, tuple(ModelRef(card) for card in cards))
    volume = open_volume(np.asarray(tomogram))
    app = AppRequest("particles segment", target=Target(also=(PROBABILITY,) * probabilities, average=options.average))  # type: ignore[arg-type]
    opened = plan_run(volume, models, run, app=app)
    place = Place.of(open_sink("memory://"))
    workers = Workers("serial", 1, 1, tuple(devices_of(options.device)))
    run_plan(opened, place, workers, Execution(), silent)
    output = opened.plan.sweep.outputs[int(probabilities)]
    found = place.sink_of(output).read(Box.of(volume.info.shape_zyx))
    return found if probabilities else found[0]


@dataclass(frozen=True, slots=True)
class Job:
    """What all runs of a batch share; called by a worker for one of them."""

    config: str
    refs: tuple[ModelRef, ...]
    labels: Mapping[str, int]
    options: SegmentOptions
    request: str
    command: str
    settings: tuple[ForwardSetting, ...] = ()
    n_runs: int = 1

    def __call__(self, run: str, _share: tuple[int, int], workers: Workers) -> Report:
        """Do a run, and continue what was begun."""
        project = Project(self.config)
        opened = self.opened(project, run, workers)
        work = self.book(project).work_of(run, self.stamp(project, run))
        place = Place.of(open_sink(work), self._files(project, run))
        try:
            return run_plan(opened, place, workers, Execution("serial", command=self.command), silent)
        except VoxweftError:  # a tomogram that is mended is another one: nothing of this is of use then
            place.remove(opened.plan)
            raise

    def opened(self, project: Project, run: str, workers: Workers) -> Opened:
        """The plan of a run, with all that it needs opened."""
        options = self.options
        volume = open_volume(project.tomogram(run, options.tomogram))
        if volume.info.n_channels != 1:
            raise VolumeError(f"{run}: {options.tomogram} has {volume.info.n_channels} channels; a tomogram has one")
        mask_url = _mask(project, run, options)
        mask = open_volume(mask_url) if mask_url else None
        models, networks = loaded_once(self.refs)
        also = [PROBABILITY] * options.save_probabilities + [VARIANCE] * options.uncertainty
        about = {
            "outputs": [LABELS, *also],
            "voxel_size": options.tomogram.spacing,
            "attributes": {
                "voxweft": {"version": __version__, "request": self.request, "command": self.command},
                "labels": dict(self.labels),
            },
        }
        files = self._files(project, run)
        app = AppRequest(
            "particles segment",
            then=lambda sweep: [_writing(sweep, about, files)],
            settings=self.settings,
            networks=networks,
            target=Target(also=tuple(also), average=options.average),  # type: ignore[arg-type]
            n_alike=self.n_runs,
        )
        records = open_sink(self.book(project).work_of(run, self.stamp(project, run))).records
        return plan_run(
            volume,
            models,
            options_of(options, self.refs, mask_url),
            app=app,
            mask=mask,
            records=records,
            n_workers=workers.n_sharing,
        )

    def book(self, project: Project) -> Book:
        """Where it is kept which runs are done."""
        options = self.options
        return Book(project, f"segment {options.segmentation} {options.tomogram.spacing:.3f}", self.request)

    def stamp(self, project: Project, run: str) -> Any:
        """That of the tomogram, and of the mask."""
        mask = _mask(project, run, self.options)
        return [stamp_of(url) for url in (project.tomogram(run, self.options.tomogram), mask) if url]

    def keys(self, project: Project, run: str) -> list[str]:
        """The segmentation; features belong to it."""
        url = project.segmentation_place(run, self.options.segmentation, self.options.tomogram.spacing)
        return [url.removeprefix(f"{project.overlay.url}/")]

    def marks(self, key: str) -> list[str]:
        """Its metadata."""
        return [f"{key}/.zattrs", f"{key}/0/.zarray"]

    def finish(self, project: Project, run: str, stamp: Any) -> Mapping[str, Any]:
        """Take away the arrays that were swept; voxels of every label."""
        volume = open_volume(self._files(project, run)[LABELS])
        sizes = np.zeros(max([0, *self.labels.values()]) + 1, np.int64)
        whole = Box.of(volume.info.shape_zyx)
        for box in whole.cells(volume.info.chunk_zyx):
            n = np.bincount(volume.read(box & whole).ravel(), minlength=len(sizes))
            sizes = sizes + n[: len(sizes)]
        work = self.book(project).work_of(run, stamp)
        for name in self._files(project, run):
            open_sink(work if name == LABELS else f"{work.removesuffix('.zarr')}_{name}.zarr").remove()
        return {"voxels": {name: int(sizes[number]) for name, number in self.labels.items()}}

    def _files(self, project: Project, run: str) -> dict[str, str]:
        """Where each output of a run goes."""
        options = self.options
        name, tomogram = options.segmentation, options.tomogram
        found = {LABELS: project.segmentation_place(run, name, tomogram.spacing)}
        if options.save_probabilities:
            found[PROBABILITY] = project.features_place(run, tomogram, name.feature("probability"))
        if options.uncertainty:
            found[VARIANCE] = project.features_place(run, tomogram, name.feature("variance"))
        return found


def options_of(options: SegmentOptions, refs: tuple[ModelRef, ...] = (), mask: str = "") -> OctopiRun:
    """How a tomogram is swept."""
    patches = {ref.card.patch_zyx for ref in refs}
    patch = patches.pop() if len(patches) == 1 else None  # networks of other sizes are rounded by themselves
    stride = ",".join(str(max(1, int(p * (1 - options.overlap)))) for p in patch) if patch else ""
    return OctopiRun(
        **{f.name: getattr(options, f.name) for f in fields(RuntimeOptions)},
        overlap=options.overlap,
        patch_stride=stride,
        window=options.window,
        fit="snap",
        tta=f"turns:{options.ntta}",
        tta_of="volume",
        skip_empty=False,
        mode="multiclass",
        output="labels",
        mask=mask,
        accept_labels=True,
        pyramid=False,
        chunk="64,128,128",
        compressor="lz4",
        compression_level=1,
    )


@gather_op
def write_segmentation(gathered: Gathered, *, sweep: str, about: Mapping[str, Any]) -> Made:
    """Write what was swept where copick looks for it; the labels last, since they say that a run is done."""
    pairs = [*zip(about["outputs"], gathered.outputs[sweep], strict=True)]
    for name, written in reversed(pairs):
        whole = Box.of(written.shape_zyx)
        sample = written.read(whole & Box.of((1, 1, 1)))
        if sample is None:
            raise VolumeError(f"{gathered.files[name]}: nothing was computed")
        attributes = dict(about["attributes"])
        if name == PROBABILITY:
            attributes["voxweft"] = {**attributes["voxweft"], "scale": 1 / 65535}
        write_group(
            gathered.files[name],
            written.read,
            shape_zyx=written.shape_zyx,
            dtype=sample.dtype.name,
            voxel_size=float(about["voxel_size"]),
            n_channels=len(sample),
            attributes=attributes,
        )
    return Made()


def _writing(sweep: Sweep, about: Mapping[str, Any], files: Mapping[str, str]) -> Stage:
    op = Op.of(write_segmentation, sweep=sweep.name, about=about)
    return Gather("files", op, (sweep.name,), tuple(Output(name) for name in files))


def _models(options: SegmentOptions) -> tuple[list[ModelRef], dict[str, int]]:
    """The models, which answer one question, and the names of their labels."""
    models = []
    for weights, config in options.models:
        url = ALIASES.get(weights, weights) if not local(weights).exists() else weights
        models.append(load_model(url, **({"model_config": str(Path(config).resolve())} if config else {})))
    labels = [dict(model.card.details.get("labels", {})) for model in models]
    for model, one in zip(models, labels, strict=True):
        if one != labels[0]:
            raise ModelError(
                f"{model.card.path} has the labels {one}, {models[0].card.path} {labels[0]}; an ensemble needs the same"
            )
    first = models[0].card
    if not labels[0]:
        labels[0] = {name: n for n, name in enumerate(first.class_names) if n} or {
            f"class-{n}": n for n in range(1, first.n_classes)
        }
    return [model.ref for model in models], labels[0]  # type: ignore[attr-defined]


def _mask(project: Project, run: str, options: SegmentOptions) -> str:
    """Where the segmentation lies that bounds the work; "" where there is none to bound it."""
    if not options.mask:
        return ""
    spacing = options.tomogram.spacing
    url = project.segmentation(run, SegmentationName.parse(options.mask), spacing)
    if url is None:
        raise VolumeError(f"{run} has no segmentation {options.mask} at {spacing:g} A to bound the work")
    return url


def _decided(job: Job, project: Project, runs: list[str], workers: Workers) -> tuple[ForwardSetting, ...]:
    """How each network is best run: measured on the first run that can be read."""
    for run in runs:
        try:
            sweep = job.opened(project, run, workers).plan.sweep
        except (VoxweftError, OSError):  # it will be named when its turn comes
            continue
        return tuple({one.model: one.setting for one in sweep.passes}.values())
    return ()


def _workers(options: SegmentOptions, work: Work) -> Workers:
    devices = devices_of(options.device)
    if options.device == "auto" and devices[0] != "cpu":
        devices = [f"cuda:{n}" for n in range(n_gpus())]  # a tomogram each
    n = max(work.workers, len(devices))
    kind = work.kind(n)
    n = 1 if kind == "serial" else n
    return Workers(kind, n, n, tuple(devices), work.scheduler)


def _log(options: SegmentOptions, labels: Mapping[str, int]) -> bytes:
    """The log in which octopi's localize looks for the labels."""
    name = options.segmentation
    content = {
        "inputs": {
            "config": options.config,
            "tomo_alg": options.tomogram.kind,
            "voxel_size": options.tomogram.spacing,
        },
        "labels": dict(labels),
        "model": {
            "configs": [config for _, config in options.models if config],
            "weights": [weights for weights, _ in options.models],
        },
        "parameters": {"sw_bs": options.batch_size, "overlap": options.overlap, "ntta": options.ntta},
        "outputs": {"seg_name": name.name, "seg_user_id": name.user, "seg_session_id": name.session},
    }
    return str(yaml.safe_dump(content, sort_keys=False)).encode()
