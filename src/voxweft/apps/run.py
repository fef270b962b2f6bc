"""The main job: any volume, any segmentation model, one woven result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from voxweft.backends import load_model, reload
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.named import takes_options, with_both
from voxweft.engine.options import RunOptions
from voxweft.engine.report import Report
from voxweft.errors import PlanMismatchError, RequestError, VoxweftError
from voxweft.model.protocols import ForwardSetting, Model, Predictor
from voxweft.model.ref import ModelRef, model_ref
from voxweft.runner.asked import load_models
from voxweft.runner.batch import BatchLedger, Outcome, for_each
from voxweft.runner.choices import plan_chosen
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.objects import object_places
from voxweft.runner.opening import Opened, require_precisions
from voxweft.runner.parts import absolute_model
from voxweft.runner.place import Place, pictures_beside
from voxweft.runner.planning import AppRequest, device_of, plan_run, require_same_inputs
from voxweft.runner.records import check_output, networks_of, read_plan
from voxweft.runner.run import remove_all, run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume
from voxweft.stores.url import absolute, children, parent_and_name, records_at


@takes_options(RunOptions, Execution)
def run(
    source: Any,
    target: Any,
    model: Any,
    options: RunOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
    **named: Any,
) -> Report:
    """Segment a volume and write the result.

    Parameters
    ----------
    source
        URL or path of a volume, an array [Z, Y, X] or [C, Z, Y, X], or any :class:`~voxweft.image.Volume`.
    target
        URL or path of the OME-Zarr to write, or any :class:`~voxweft.image.Sink`.
    model
        Path of a model, or any :class:`~voxweft.model.Model`; several in a list are an ensemble.
    options, execution
        What to compute; where to compute it.
    emit
        Told of every event.
    **named
        Options and execution by their names, as in ``output="mask", patch_size=(64, 96, 96), workers=4``; they count
        before those of ``options`` and ``execution``.

    Returns
    -------
    Report
        ``status`` is "complete", or "partial" where other parts are still to come.

    Raises
    ------
    RequestError
        If the request is wrong; nothing was written.
    RunError
        If the run could not be finished; the same call continues it.

    Examples
    --------
    >>> import numpy as np, voxweft
    >>> image = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
    >>> sink = voxweft.open_sink("memory://")
    >>> report = voxweft.run(image, sink, "fake://null?patch=16,16,16")
    >>> report.status, sink.read(voxweft.Box.of((40, 40, 40))).shape
    ('complete', (1, 40, 40, 40))
    >>> other = voxweft.open_sink("memory://")
    >>> voxweft.run(image, other, "fake://null?patch=16,16,16", output="mask", overlap=0.25).status
    'complete'
    """
    both = with_both(named, RunOptions, options, Execution, execution)
    options, execution = both
    workers = Workers.of(execution, devices_of(options.device))
    return _run((source, target, model), options, execution, workers, emit)


@takes_options(RunOptions, Execution)
def run_many(
    items: Sequence[tuple[str, str]],
    model: str,
    options: RunOptions | None = None,
    *,
    execution: Execution | None = None,
    records: str = "",
    emit: Emit = silent,
    **named: Any,
) -> list[Outcome]:
    """Segment several volumes, each into an output of its own; all workers share all of them.

    The network is opened once in every worker, and how it is run is decided once, on the first volume.

    Parameters
    ----------
    items
        Pairs of input and output, URLs or paths.
    model, options, **named
        As for :func:`run`.
    execution
        Where to compute it; ``num_parts`` are those of each item.
    records
        Folder for a ledger of the batch and ``outcomes.csv``, a path or s3://; items that it calls complete are left
        alone. "": none is kept.
    emit
        Told of every event.

    Returns
    -------
    list of Outcome
        In the order of the items.

    Raises
    ------
    ItemsError
        If items failed; the others are complete.

    Examples
    --------
    >>> import tempfile, numpy, zarr
    >>> folder = tempfile.mkdtemp()
    >>> for name in "ab":
    ...     _ = zarr.save_array(f"{folder}/{name}.zarr", numpy.random.default_rng(0).random((20, 20, 20)))
    >>> pairs = [(f"{folder}/{name}.zarr", f"{folder}/{name}_out.zarr") for name in "ab"]
    >>> [done.report.status for done in run_many(pairs, "fake://null?patch=16,16,16")]
    ['complete', 'complete']
    """
    both = with_both(named, RunOptions, options, Execution, execution)
    options, execution = both
    if options.effort == "auto":
        raise RequestError("--effort auto chooses for one volume; run the volumes one by one, or leave it out")
    if options.precision == "int8":
        raise RequestError("--precision int8 is made for one volume; run the volumes one by one, or take bf16")
    workers, loaded = Workers.of(execution, devices_of(options.device)), load_model(model, targets=options.targets)
    for _, output in items if execution.overwrite else ():
        remove_all(Place.of(open_sink(output)))
    if workers.kind != "serial":  # whose working folder may be another
        items = [(absolute(source), absolute(output)) for source, output in items]
    batch = Batch(_settled(items, loaded, options), absolute_model(model_ref(loaded)), options, execution.command)
    request = f"{options.request()} {batch.ref.digest}"
    ledger = BatchLedger(records_at(records), request, fresh=execution.overwrite) if records else None
    return for_each(items, batch, workers, num_parts=execution.num_parts, cost=_n_voxels, ledger=ledger, emit=emit)


def _settled(items: Sequence[tuple[str, str]], model: Model, options: RunOptions) -> tuple[ForwardSetting, ...]:
    """How the network is run, decided on the first volume that can be read; nothing where there is none."""
    for source, _ in items:
        try:
            volume = open_volume(source, level=options.level, select=options.select)
            mask = open_volume(options.mask) if options.mask else None
            opened = plan_run(volume, [model], options, app=AppRequest(n_alike=len(items)), mask=mask)
        except VoxweftError:  # of this item; it will be named when its turn comes
            continue
        return tuple(one.setting for one in opened.plan.sweep.by_model)
    return ()


def _n_voxels(item: tuple[str, str]) -> float:
    """What an item costs; 0 where it cannot be opened."""
    try:
        return float(math.prod(open_volume(item[0]).info.shape_zyx))
    except VoxweftError:
        return 0.0


_loaded: dict[ModelRef, Model] = {}  # the model of the batch that this process works on, and its networks
_networks: dict[Any, Predictor] = {}


@dataclass(frozen=True, slots=True)
class Batch:
    """What all items of a batch share."""

    settings: tuple[ForwardSetting, ...]
    ref: ModelRef
    options: RunOptions
    command: str

    def __call__(self, item: tuple[str, str], share: tuple[int, int], workers: Workers) -> Report:
        """One part of one volume."""
        count, index = share if share[0] > 1 else (0, -1)
        execution = Execution("serial", num_parts=count, part_id=index, command=self.command)
        if self.ref not in _loaded:
            _networks.clear()
            _loaded.clear()
            _loaded[self.ref] = reload(self.ref)
        app = AppRequest(settings=self.settings, networks=_networks)
        return _run((*item, _loaded[self.ref]), self.options, execution, workers, silent, app)


def _run(
    what: tuple[Any, Any, Any],
    options: RunOptions,
    execution: Execution,
    workers: Workers,
    emit: Emit,
    app: AppRequest | None = None,
) -> Report:
    source, output, model = what
    emit(Event("phase", "opening the volume and the model"))
    sink = open_sink(output)
    check_output(sink, execution)
    volume = open_volume(source, level=options.level, select=options.select)
    mask = open_volume(options.mask) if options.mask else None
    records = None if execution.overwrite else sink.records
    models = load_models(model, options)
    n, is_new = workers.n_sharing, records is None or not Ledger(records).plan()
    with workers.started() if is_new else nullcontext(workers) as at_work:
        if options.effort == "auto":
            opened = plan_chosen(volume, models, options, mask=mask, records=records, n_workers=n, emit=emit)
        else:
            opened = plan_run(volume, models, options, app=app, mask=mask, records=records, n_workers=n, emit=emit)
        try:
            return run_plan(opened, Place.of(sink), at_work, execution, emit)
        except PlanMismatchError:
            if records is None or not is_new or options.effort != "auto":
                raise
    return _run(what, options, execution, workers, emit, app)  # another part chose and was first: its plan counts


def _require_free(place: Place, execution: Execution) -> None:
    """Refuse to begin where another picture lies in the place of this one's."""
    if execution.overwrite or (place.sink and place.sink.exists()):
        return
    for url in place.files.values():
        folder, name = parent_and_name(url)
        if name in children(folder):
            raise RequestError(f"{url} is there; choose another OUTPUT, or give --overwrite")


def repeat(plan_source: str, output: Any, *, execution: Execution | None = None, emit: Emit = silent) -> Report:
    """Run a stored plan once more into another output: the plan of an OME-Zarr that voxweft wrote, or a plan.json.

    Both may lie on s3:// or http(s)://. The picture of a plan that has one goes beside the output.

    Raises
    ------
    RequestError
        If the input or the model is not what it was, or lay in memory only; or a picture of that name is there.
    """
    execution = execution or Execution()
    plan = read_plan(plan_source).beside_each_other()
    if plan.measured.get("estimated"):
        raise RequestError(
            f"--plan {plan_source} was made to say what a run costs: its mean and deviation are estimates.",
            "Give the command itself: voxweft run measures them.",
        )
    place = Place.at(output, plan)
    made = {output.name for stage in plan.stages for output in stage.outputs if output.spec is None}
    tables = {name: url for name, url in object_places(place.url).items() if name in made}
    place = replace(place, files=tables | pictures_beside(place.url, plan))
    if place.sink:
        check_output(place.sink, execution)
        _require_free(place, execution)
    opened, device = Opened(plan), devices_of(device_of(plan))
    opened.networks |= networks_of(plan_source, plan)
    require_precisions(plan, device[0])
    require_same_inputs(opened, plan_source)
    return run_plan(opened, place, Workers.of(execution, device), execution, emit)
