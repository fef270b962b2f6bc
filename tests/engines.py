"""Stages computed in this process, without a run around them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

import voxweft
from voxweft.engine.part import Part
from voxweft.engine.plan import MASK, VOLUME, Plan
from voxweft.engine.stored import StoredLogits
from voxweft.engine.totals import Totals
from voxweft.geometry.box import Box
from voxweft.image.protocols import PatchLogits, Sink, Volume
from voxweft.model.protocols import Model
from voxweft.runner.opening import Opened
from voxweft.runner.parts import compute_part
from voxweft.runner.place import Place


def computed(
    plan: Plan,
    volume: Volume | None = None,
    models: Iterable[Model] = (),
    *,
    mask: Volume | None = None,
    patches: StoredLogits | None = None,
    parts: Iterable[tuple[int, int]] = ((0, 1),),
    sink: Sink | None = None,
) -> tuple[np.ndarray, list[Totals]]:
    """The whole output of a plan's sweep, its parts done in the order given, and the numbers of each."""
    volumes = {name: v for name, v in ((VOLUME, volume), (MASK, mask)) if v is not None}
    opened = Opened(plan, volumes, tuple(models), {VOLUME: patches} if patches else None)
    place, stage = Place.of(sink or voxweft.open_sink("memory://")), plan.sweep
    place.create(plan, None)
    shares = [Part(stage.name, index, count, stage.share(index, count)) for index, count in parts]
    totals = [Totals(**compute_part(opened, stage, part, place, ("cpu", 2)).totals) for part in shares]
    return place.sink.read(Box.of(stage.spec.shape_zyx)), totals


def all_outputs(plan: Plan, volume: Volume, model: Model) -> list[np.ndarray]:
    """Every array that a plan's sweep writes."""
    place, stage = Place.of(voxweft.open_sink("memory://")), plan.sweep
    place.create(plan, None)
    part = Part(stage.name, 0, 1, stage.share(0, 1))
    compute_part(Opened(plan, {VOLUME: volume}, (model,)), stage, part, place, ("cpu", 2))
    return [place.sink_of(output).read(Box.of(stage.spec.shape_zyx)) for output in stage.outputs]


def kept(plan: Plan, volume: Volume, model: Model, stores: list[PatchLogits]) -> None:
    """The patches of all parts, written to their stores."""
    sink, stage = voxweft.open_sink("memory://"), plan.sweep
    place = Place(sink.url, sink.records, store_of=stores.__getitem__)
    for index, units in enumerate(stage.pieces()):
        compute_part(
            Opened(plan, {VOLUME: volume}, [model]), stage, Part(stage.name, index, 1, units), place, ("cpu", 2)
        )
