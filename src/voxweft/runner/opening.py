"""From names to what they mean: volumes, models, networks, places; stages with all that they need opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from voxweft.backends import reload
from voxweft.engine.blocks import compute_blocks
from voxweft.engine.commit import Commit, GoesOn
from voxweft.engine.gather import compute_gather
from voxweft.engine.keep import keep_patches
from voxweft.engine.ledger import Ledger
from voxweft.engine.opened import (
    OpenedBlocks,
    OpenedGather,
    OpenedOutput,
    OpenedSweep,
    OpenedVolume,
    Readable,
)
from voxweft.engine.plan import PatchesRef, Plan
from voxweft.engine.slices import sweep_slices
from voxweft.engine.stage import Blocks, Gather, Pass, Stage, Sweep
from voxweft.engine.stored import StoredLogits
from voxweft.engine.sweep import sweep
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Volume
from voxweft.model.protocols import Model, Predictor
from voxweft.processor import lacks
from voxweft.runner.patches import open_patches
from voxweft.runner.place import Place
from voxweft.stores import open_ref

NETWORKS = "networks/"  # among the records: what was made for the plan, by digest

Compute = Callable[[range, Commit, GoesOn], None]
"""Computes a run of units of one stage (see ``Stage.runs``) and commits each, in ascending order."""


class Opened:
    """A plan, and what of it is open already; the rest is opened when a stage first needs it.

    Parameters
    ----------
    plan
        What is to be done.
    volumes, models, patches
        Inputs by their names, and models in their order, where they are open.
    """

    def __init__(
        self,
        plan: Plan,
        volumes: Mapping[str, Volume] | None = None,
        models: Sequence[Model] = (),
        patches: Mapping[str, StoredLogits] | None = None,
    ) -> None:
        self.plan = plan
        self._volumes, self._kept = dict(volumes or {}), dict(patches or {})
        self._models = dict(enumerate(models))
        self.predictors: dict[Any, Predictor] = {}
        """Networks that are ready; shared with whoever gave them."""
        self.networks: dict[str, bytes] = {}
        """Networks that were made for the plan, by their digests; stored beside it."""

    def with_plan(self, plan: Plan, volumes: Mapping[str, Volume] | None = None) -> Opened:
        """The same things for another plan of them, and perhaps of other volumes."""
        opened = Opened(plan, self._volumes if volumes is None else volumes, patches=self._kept)
        opened._models, opened.predictors, opened.networks = self._models, self.predictors, self.networks
        return opened

    def reuse(self, predictors: Sequence[Predictor], device: str) -> None:
        """Take the networks of the models, made ready while it was planned, for all passes of a model."""
        for one in self.plan.sweep.passes:
            self.predictors[self._key(one, device)] = predictors[one.model]

    def keep_only(self, device: str) -> None:
        """Let go of the networks that the plan does not need."""
        keys = {self._key(one, device) for one in self.plan.sweep.passes}
        for key in [key for key in self.predictors if key not in keys]:
            del self.predictors[key]

    def volume(self, name: str) -> Volume:
        """An input."""
        if name not in self._volumes:
            ref = self.plan.input(name)
            if ref is None or isinstance(ref.ref, PatchesRef):
                raise RequestError(f"the plan has no volume {name!r}")
            self._volumes[name] = open_ref(ref.ref)
        return self._volumes[name]

    def model(self, n: int) -> Model:
        """A model of the plan."""
        if self._models.get(n) is None:
            self._models[n] = reload(self.plan.models[n])
        return self._models[n]

    def stage(self, stage: Stage, place: Place, device: str = "cpu", n_lanes: int = 1) -> Compute:
        """A stage, ready to compute; networks run on the device, ``n_lanes`` forward passes at once.

        Raises
        ------
        RequestError
            If another model lies at a path, or the same one with another card.
        """
        if isinstance(stage, Gather):
            outputs = {name: self._outputs(name, place) for name in stage.needs}
            files = {o.name: place.files[o.name] for o in stage.outputs if o.spec is None}
            return partial(compute_gather, OpenedGather(stage, outputs, files))
        if isinstance(stage, Blocks):
            sources = tuple(self._source(s.name, s.output, place) for s in stage.sources)
            tables = {name: Ledger(place.records).table(name, 0) for name in stage.tables}
            return partial(compute_blocks, OpenedBlocks(stage, sources, tables))
        mask = self.volume(stage.mask) if stage.mask else None
        opened = OpenedSweep(stage, mask=mask, device=device, n_lanes=n_lanes, store_of=place.store_of)
        ref = self.plan.input(stage.source)
        if ref and isinstance(ref.ref, PatchesRef):
            return partial(sweep, replace(opened, patches=self._patches(stage.source)))
        volume = self.volume(stage.source) if ref else StageVolume(self._outputs(stage.source, place)[0], stage.info)
        opened = replace(opened, n_lanes=max(1, n_lanes // opened.n_threads))
        networks = tuple(self._predictor(one, device, opened.n_lanes, place) for one in stage.passes)
        compute = keep_patches if stage.stores else sweep_slices if stage.slices else sweep
        return partial(compute, replace(opened, volume=volume, predictors=networks))

    def _predictor(self, one: Pass, device: str, n_lanes: int, place: Place) -> Predictor:
        key = self._key(one, device)
        if key not in self.predictors:
            require_precisions(self.plan, device)
            model: Any = self.model(one.model)
            setting, made = replace(one.setting, device=device, n_lanes=n_lanes), one.setting.network
            network = self._network(made, place) if made else None
            self.predictors[key] = model.open(setting) if network is None else model.open_network(setting, network)
        return self.predictors[key]

    def _network(self, digest: str, place: Place) -> bytes:
        """A network that was made for the plan."""
        found = self.networks.get(digest) or place.records.get(NETWORKS + digest)
        return whole_network(found, digest, f"{place.url}.voxweft")

    def _key(self, one: Pass, device: str) -> tuple[Any, ...]:
        ref = self.plan.models[one.model]
        return ref.url, ref.digest, repr(ref.arguments), replace(one.setting, device=device)

    def _patches(self, name: str) -> StoredLogits:
        ref = self.plan.input(name)
        if ref is None or not isinstance(ref.ref, PatchesRef):
            raise RequestError(f"the plan has no patches {name!r}")
        if name not in self._kept:
            self._kept[name] = open_patches(ref.ref)
        return self._kept[name]

    def _source(self, name: str, output: int, place: Place) -> Readable | StoredLogits:
        ref = self.plan.input(name)
        if ref is None:
            return self._outputs(name, place)[output]
        return self._patches(name) if isinstance(ref.ref, PatchesRef) else OpenedVolume(self.volume(name))

    def _outputs(self, name: str, place: Place) -> tuple[Readable, ...]:
        outputs = self.plan.stage(name).outputs
        return tuple(OpenedOutput(place.sink_of(o), o.level) for o in outputs if o.spec)


def whole_network(network: bytes | None, digest: str, folder: str) -> bytes:
    """A network that was made for a plan, as it was made.

    Raises
    ------
    RequestError
        If it is gone, or damaged.
    """
    if network is None or hashlib.sha256(network).hexdigest() != digest:
        state = "is gone" if network is None else "is damaged"
        raise RequestError(f"the int8 network of the plan {state}: {folder}/{NETWORKS}{digest[:12]}...; begin anew")
    return network


def require_precisions(plan: Plan, device: str) -> None:
    """Refuse a plan in a precision that this processor has no instructions for.

    Raises
    ------
    PlanMismatchError
        Naming it.
    """
    for stage in plan.stages:
        for one in stage.passes if isinstance(stage, Sweep) and device == "cpu" else ():
            if why := lacks(one.setting.precision):
                raise PlanMismatchError(
                    f"the stored plan runs in {one.setting.precision}, and {why}.",
                    "Run it where there are, or give --overwrite to begin anew.",
                )


class StageVolume:
    """What an earlier stage wrote, as the volume of a later one."""

    def __init__(self, written: Readable, info: VolumeInfo) -> None:
        self._written, self.info = written, info

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        values = self._written.read(box)
        if values is None:
            raise RequestError(f"{self.info.url} holds nothing at {box}")
        return values
