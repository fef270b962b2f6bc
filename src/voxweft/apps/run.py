"""The main job: any volume, any segmentation model, one woven result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from voxweft.apps.execute import IN_MEMORY, Execution, check_output, execute, plan_of
from voxweft.apps.items import Outcome, for_each
from voxweft.apps.prepare import devices_of, fingerprint_of, mask_fingerprint, prepare, reopen
from voxweft.apps.workers import Workers
from voxweft.backends import BUILT_IN, load_model
from voxweft.engine.calibrate import central_patch
from voxweft.engine.events import Emit, silent
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import Plan
from voxweft.engine.report import Report
from voxweft.errors import RequestError
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
    n = workers.n_sharing
    prepared = prepare(volume, load_model(model), options, mask=mask, records=records, n_workers=n, emit=emit)
    return execute(prepared, sink, workers, execution, emit)


def repeat(plan_source: str, output: Any, *, execution: Execution | None = None, emit: Emit = silent) -> Report:
    """Run a stored plan once more into another output: the plan of an OME-Zarr that voxweft wrote, or a plan.json.

    Raises
    ------
    RequestError
        If the input or the model is not what it was, or lay in memory only.
    """
    execution = execution or Execution()
    plan = read_plan(plan_source)
    sink = open_sink(output, layout=plan.spec.layout, order=plan.spec.order)
    check_output(sink, execution)
    if IN_MEMORY in (plan.source.url, plan.mask):
        raise RequestError(f"{plan_source} was made from an array in memory and cannot be repeated from its plan alone")
    prepared = reopen(plan)
    if prepared.volume:
        _, voxels = central_patch(prepared.volume, plan.grid.patch)
        if fingerprint_of(prepared.volume.info, voxels) != plan.fingerprint:
            raise RequestError(f"the input at {plan.source.url} is not the one of the plan: its voxels differ")
    if prepared.mask is not None and mask_fingerprint(prepared.mask) != plan.mask_fingerprint:
        raise RequestError(f"the mask at {plan.mask} is not the one of the plan: its voxels differ")
    return execute(prepared, sink, Workers.of(execution, devices_of(plan.setting.device)), execution, emit)


def read_plan(source: str) -> Plan:
    """The plan inside an output that voxweft wrote, or in a JSON file."""
    if source.endswith(".json"):
        from pathlib import Path

        try:
            return Plan.from_json(Path(source).read_bytes())
        except OSError as error:
            raise RequestError(f"--plan {source}: {error.strerror}") from error
    return plan_of(open_sink(source))[0]
