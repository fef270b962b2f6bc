"""Stage three: logits to probabilities, masks or class ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from voxweft.apps.scroll.blend import activation_in, execution_of, geometry_in
from voxweft.apps.scroll.options import ClassOptions, FinalizeOptions, PartOptions
from voxweft.apps.scroll.source import open_support
from voxweft.engine.budget import shard_for
from voxweft.engine.compat import finish_as_vesuvius
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import decisive, defaults_of, parse_size
from voxweft.engine.finish import finish_block, finish_heads
from voxweft.engine.ledger import Ledger
from voxweft.engine.masking import mask_scale
from voxweft.engine.naming import names_of, shown_of
from voxweft.engine.op import Op
from voxweft.engine.part import State
from voxweft.engine.plan import MASK, VOLUME, InputRef, Plan, Request, differing
from voxweft.engine.report import Report
from voxweft.engine.separate import Wanted, finishes_of, halving_of, told_of
from voxweft.engine.stage import Blocks, Output, Source, Stage, level_stages
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import SMALL, OutputSpec
from voxweft.image.protocols import Sink
from voxweft.image.ref import volume_ref
from voxweft.image.views import Repeat
from voxweft.model.head import Head
from voxweft.model.targets import heads_in
from voxweft.ops.activate import Finish
from voxweft.ops.components import require_components
from voxweft.runner.components import PAINT, component_stages, n_components
from voxweft.runner.objects import object_places
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.planning import mask_fingerprint
from voxweft.runner.records import check_output, report_of
from voxweft.runner.run import run_plan
from voxweft.runner.verify import verify
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink
from voxweft.stores.attributes import attributes_of
from voxweft.stores.url import exists, records_at, remove

DEFAULT = ClassOptions().threshold
INSTANCES = "instances"

if TYPE_CHECKING:
    from voxweft.stores.sparse import SparseVolume


def finalize(
    input_path: str,
    output_path: str,
    options: tuple[ClassOptions, FinalizeOptions] | None = None,
    *,
    part: PartOptions | None = None,
    command: str = "",
    emit: Emit = silent,
) -> Report:
    """Turn merged logits, voxweft's or the reference's, into the final segmentation.

    Parameters
    ----------
    input_path
        Logits [C, Z, Y, X] as :func:`blend` writes them; chunks that are not stored are not visited.
    output_path
        OME-Zarr to write, uint8: floor(255 p) or 0 / 255; with mode "multiclass" floor(255 p) of every class and then
        the class ids, or the ids alone.
    options, part
        What and how; which share of the output.
    command, emit
        For the record; told of every event.

    Raises
    ------
    RequestError
        If the logits are missing or unfinished, or do not fit the mode; nothing was written.
    """
    (classes, storage), part = options or (ClassOptions(), FinalizeOptions()), part or PartOptions()
    if storage.compat and (classes.threshold != DEFAULT or classes.has_components):
        raise RequestError(f"--compat {storage.compat} knows no --threshold-value, --low, --min-size or --instances")
    layout = "vesuvius" if storage.compat else "ome-zarr"
    sink = open_sink(output_path, layout=layout)
    execution = execution_of(part, storage, command)
    workers = Workers.of(execution, ["cpu"])
    check_output(sink, execution)
    if storage.delete_intermediates and not exists(input_path) and (done := _done_before(sink, classes, storage)):
        return done
    from voxweft.stores.sparse import SparseVolume  # and with it zarr

    volume = SparseVolume(input_path)
    if not volume.info.dtype.startswith("float"):
        raise RequestError(f"{input_path} holds {volume.info.dtype} values; logits are float16 or float32")
    _require_finished(input_path)
    attributes = attributes_of(input_path)
    storage = replace(storage, mask=storage.mask or ("" if storage.compat else attributes.get("support_volume", "")))
    plan = finalize_plan(volume, attributes, (classes, storage))
    place = Place.of(sink, object_places(sink.url))
    report = run_plan(Opened(plan, {VOLUME: volume}), place, workers, execution, emit)
    tell_components(classes, place, emit)
    if storage.delete_intermediates and report.status == State.COMPLETE:
        verify(output_path, emit)
        remove(input_path)
        remove(f"{input_path.rstrip('/')}.voxweft")
    return report


def _done_before(sink: Sink, classes: ClassOptions, storage: FinalizeOptions) -> Report | None:
    """The report of an earlier run of the same command, whose input was deleted after it."""
    ledger = Ledger(sink.records)
    stored = ledger.plan()
    if stored is None or not sink.exists():
        return None
    plan = Plan.from_json(stored)
    asked = _request(classes, replace(storage, mask=storage.mask or plan.request.get("mask", "")))
    if differ := differing(plan.request, asked):
        raise PlanMismatchError(f"{sink.url} holds the work of another plan: {'; '.join(differ)}.", "Give --overwrite.")
    if len(ledger.done(plan.main.name)) < plan.main.n_units:
        return None
    return report_of(ledger)


def _request(classes: ClassOptions, storage: FinalizeOptions) -> Request:
    return Request("finalize", decisive(classes) | decisive(storage), defaults_of(classes) | defaults_of(storage))


def finalize_plan(
    volume: SparseVolume, attributes: Mapping[str, Any], options: tuple[ClassOptions, FinalizeOptions]
) -> Plan:
    """The plan of a finalize: an operation on every chunk."""
    (classes, storage), source = options, volume.info
    made = _finishes(attributes, options, source.n_channels)
    finishes = [finish for _, finish in made]
    sides = zip(parse_size(storage.chunk_size) or source.chunk_zyx, source.shape_zyx, strict=True)
    chunk: Zyx = tuple(min(c, -(-n // 16) * 16) for c, n in sides)  # type: ignore[assignment]
    plane = (-(-source.shape_zyx[1] // chunk[1]) * chunk[1], -(-source.shape_zyx[2] // chunk[2]) * chunk[2])
    specs = [
        OutputSpec(
            shape_zyx=source.shape_zyx,
            n_channels=finish.n_channels,
            dtype=finish.dtype,
            chunk_zyx=chunk,
            shard_zyx=shard_for(plane, chunk),
            pyramid=halving_of(finish) if storage.pyramid and not storage.compat else "none",
            geometry=geometry_in(dict(attributes)),
            layout="vesuvius" if storage.compat else "ome-zarr",
            is_label=finish.is_label,
            smallest=SMALL,
            by_size=True,
            named=names_of(finish, *_names(attributes, source.n_channels)),
            shown=shown_of(finish),
        )
        for finish in finishes
    ]
    told = _attributes(attributes, classes)
    outputs = tuple(
        Output(head.name if head and n else "", spec, attributes=told | (told_of(head, finish) if head else {}))
        for n, ((head, finish), spec) in enumerate(zip(made, specs, strict=True))
    )
    region = Box.of(source.shape_zyx)
    inputs = [InputRef(VOLUME, volume_ref(volume), _fingerprint(volume))]
    mask = open_support(storage.mask)
    if mask is not None:
        repeated = Repeat(mask_scale(mask.info, source.shape_zyx), source.shape_zyx)
        inputs.append(InputRef(MASK, volume_ref(repeated.of(mask)), mask_fingerprint(mask)))
    if made[0][0]:
        op = Op.of(finish_heads, heads=[asdict(finish) for finish in finishes])
    else:
        op = Op.of(finish_as_vesuvius if storage.compat else finish_block, **asdict(finishes[0]))
    stage = Blocks(
        name="finalize",
        op=op,
        sources=tuple(Source(one.name) for one in inputs),
        outputs=outputs,
        shape_zyx=source.shape_zyx,
        region=region,
        block_zyx=specs[0].shard_zyx,
        cell_zyx=chunk,
        only_where=VOLUME,
    )
    levels = [
        one for n, output in enumerate(outputs) for one in level_stages(output, region, stage.name, n, sparse=True)
    ]
    after = component_stages_of(classes, stage.name, specs[0], finishes[0].output)
    return Plan(_request(classes, storage), tuple(inputs), (), (stage, *levels, *after))


def component_stages_of(classes: ClassOptions, source: str, spec: OutputSpec, output: str) -> list[Stage]:
    """The stages of what is asked for of the components of the foreground; none where nothing is.

    ``NAME_mask.zarr`` is 255 in those that are kept, ``NAME_instances.zarr`` numbers them.
    """
    if not classes.has_components:
        return []
    require_components()
    if spec.n_channels > 1 or output not in ("probability", "mask"):
        what = f"{spec.n_channels} channels" if spec.n_channels > 1 else output
        raise RequestError(f"--low, --min-size and --instances are for one probability or mask; this result is {what}")
    labels = replace(spec, dtype="uint32", is_label=True, named=(), shown=())
    labels = replace(labels, pyramid="none" if spec.pyramid == "none" else "nearest")
    names = {"labels": INSTANCES if classes.instances else None, "mask": "mask"}
    return component_stages(source, labels, classes.rule, **names)


def tell_components(classes: ClassOptions, place: Place, emit: Emit) -> None:
    """Say how many components there are, and where they lie, once they are there."""
    ledger = Ledger(place.records)
    if classes.has_components and ledger.done(PAINT):
        where = [place.beside("mask"), *([place.beside(INSTANCES)] if classes.instances else [])]
        emit(Event("note", f"{n_components(ledger)} components: {', '.join(where)}"))


def _finishes(
    attributes: Mapping[str, Any], options: tuple[ClassOptions, FinalizeOptions], n_channels: int
) -> list[tuple[Head | None, Finish]]:
    """What becomes of the logits: one output of all of them, or one of each head that says that it is its own."""
    classes, storage = options
    if heads := heads_in(attributes, n_channels):
        if storage.compat:
            raise RequestError(f"--compat {storage.compat} knows one output only; the logits have {len(heads)} targets")
        return [*finishes_of(heads, Wanted(classes.mode, classes.output, classes.threshold, classes.normals))]
    listed = attributes.get("target_info", {}).values()
    targets = tuple(sorted((int(t["start_channel"]), int(t["end_channel"])) for t in listed))
    if targets and classes.mode == "multiclass":
        raise RequestError("--mode multiclass with the logits of several tasks; use --mode binary")
    activation, ids = activation_in({} if storage.compat else attributes, n_channels)
    return [(None, Finish(classes.mode, classes.output, n_channels, activation, classes.threshold, targets, ids))]


def _names(attributes: Mapping[str, Any], n_channels: int) -> tuple[list[str], tuple[Head, ...]]:
    """Names of channels of the logits, as far as they are told, and the heads."""
    names = [""] * n_channels
    for name, told in (attributes.get("target_info") or {}).items():
        names[int(told["end_channel"]) - 1] = name
    heads = heads_in(attributes, n_channels)
    return ([], heads) if heads else (names, ())


def _attributes(attributes: Mapping[str, Any], classes: ClassOptions) -> dict[str, Any]:
    """What the logits say, but for how they were made: the result tells that of itself."""
    told = {name: value for name, value in attributes.items() if name != "voxweft"}
    return told | {"processing_mode": classes.mode, "threshold_applied": classes.hard}


def _fingerprint(volume: SparseVolume) -> str:
    """A digest of names, sizes and times of the stored chunks: a merged array that changed is another input."""
    info = volume.info
    head = f"{info.shape_zyx} {info.n_channels} {info.dtype}"
    return hashlib.sha256(head.encode() + volume.stamps()).hexdigest()


def _require_finished(url: str) -> None:
    """Refuse logits that voxweft has not blended to the end."""
    ledger = Ledger(records_at(f"{url.rstrip('/')}.voxweft"))
    stored = ledger.plan()
    if stored is None:
        return
    stage = Plan.from_json(stored).main
    done = ledger.done(stage.name)
    missing = [stage.label(unit) for unit in range(stage.n_units) if unit not in done]
    if missing:
        raise RequestError(
            f"{url} is not blended to the end: {', '.join(missing[:5])} of {stage.n_units} {stage.noun} missing. "
            "Run voxweft blend for the parts that did not end."
        )
