"""The main job: any volume, any segmentation model, one woven result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from voxweft.backends import BUILT_IN, load_model
from voxweft.engine.events import Emit, silent
from voxweft.engine.options import RunOptions
from voxweft.engine.report import Report
from voxweft.runner.batch import Outcome, for_each
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.planning import device_of, plan_run, require_same_inputs
from voxweft.runner.records import check_output, read_plan
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume
from voxweft.stores.url import absolute, local_path


def run(
    source: Any,
    output: Any,
    model: Any,
    options: RunOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> Report:
    """Segment a volume and write the result.

    Parameters
    ----------
    source
        URL or path of a volume, an array [Z, Y, X] or [C, Z, Y, X], or any :class:`~voxweft.image.Volume`.
    output
        URL or path of the OME-Zarr to write, or any :class:`~voxweft.image.Sink`.
    model
        Path of a model, or any :class:`~voxweft.model.Model`.
    options, execution
        What to compute; where to compute it.
    emit
        Told of every event.

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
    """
    options, execution = options or RunOptions(), execution or Execution()
    workers = Workers.of(execution, devices_of(options.device))
    return _run((source, output, model), options, execution, workers, emit)


def run_many(
    items: Sequence[tuple[str, str]],
    model: str,
    options: RunOptions | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> list[Outcome]:
    """Segment several volumes, each into an output of its own; all workers share all of them.

    Parameters
    ----------
    items
        Pairs of input and output, URLs or paths.
    model, options
        As for :func:`run`.
    execution
        Where to compute it; ``num_parts`` are those of each item.
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
    options, execution = options or RunOptions(), execution or Execution()
    workers = Workers.of(execution, devices_of(options.device))
    if execution.overwrite:
        for _, output in items:
            open_sink(output).remove()
    if workers.kind != "serial":  # whose working folder may be another
        items = [(absolute(source), absolute(output)) for source, output in items]
        model = absolute(model) if model not in BUILT_IN and local_path(model).exists() else model
    work = functools.partial(_run_item, model=model, options=options, command=execution.command)
    return for_each(items, work, workers, num_parts=execution.num_parts, emit=emit)


def _run_item(
    item: tuple[str, str], share: tuple[int, int], workers: Workers, *, model: str, options: RunOptions, command: str
) -> Report:
    """One part of one volume."""
    count, index = share if share[0] > 1 else (0, -1)
    one = Execution("serial", num_parts=count, part_id=index, command=command)
    return _run((*item, model), options, one, workers, silent)


def _run(what: tuple[Any, Any, Any], options: RunOptions, execution: Execution, workers: Workers, emit: Emit) -> Report:
    source, output, model = what
    sink = open_sink(output)
    check_output(sink, execution)
    volume = open_volume(source, level=options.level)
    mask = open_volume(options.mask) if options.mask else None
    records = None if execution.overwrite else sink.records
    models = [load_model(one) for one in (model if isinstance(model, (list, tuple)) else [model])]
    n = workers.n_sharing
    opened = plan_run(volume, models, options, mask=mask, records=records, n_workers=n, emit=emit)
    return run_plan(opened, Place.of(sink), workers, execution, emit)


def repeat(plan_source: str, output: Any, *, execution: Execution | None = None, emit: Emit = silent) -> Report:
    """Run a stored plan once more into another output: the plan of an OME-Zarr that voxweft wrote, or a plan.json.

    Raises
    ------
    RequestError
        If the input or the model is not what it was, or lay in memory only.
    """
    execution = execution or Execution()
    plan = read_plan(plan_source)
    place = Place.at(output, plan)
    if place.sink:
        check_output(place.sink, execution)
    opened = Opened(plan)
    require_same_inputs(opened, plan_source)
    return run_plan(opened, place, Workers.of(execution, devices_of(device_of(plan))), execution, emit)
