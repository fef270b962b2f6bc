"""Where the outputs of a plan go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from voxweft.engine.plan import Plan
from voxweft.engine.stage import Output, Stage
from voxweft.errors import RequestError
from voxweft.image.protocols import PatchLogits, Records, Sink
from voxweft.stores import open_sink, open_sink_for
from voxweft.stores.url import absolute

IN_MEMORY = "memory://"
PICTURE_FILE = "picture"  # the file of a plan that shows its result
PNG_PIXELS = 1 << 28  # beyond this a picture without tiles is no comfort


@dataclass(frozen=True, slots=True)
class Place:
    """Where the outputs of a plan go, and their records.

    Attributes
    ----------
    url, records
        Of the output itself.
    sink
        Of the result; None where a plan writes no array.
    files
        Places of files by the names of the outputs; a file without one is not written.
    store_of
        Opens where the patches of a part are kept.
    generation
        Of the plan whose outputs they are, as its ledger knows it; "" where nobody writes.
    checkpoint_s
        How often whoever writes keeps what a slab has so far; 0: never.
    """

    url: str
    records: Records
    sink: Sink | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    store_of: Callable[[int], PatchLogits] | None = None
    generation: str = ""
    checkpoint_s: float = 0.0
    _beside: dict[str, Sink] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, sink: Sink, files: Mapping[str, str] | None = None, beside: Mapping[str, Sink] | None = None) -> Place:
        """That of a sink; further outputs lie beside it, or in sinks of their own by their names."""
        return cls(sink.url, sink.records, sink, files or {}, _beside=dict(beside or {}))

    @classmethod
    def at(cls, output: Any, plan: Plan, files: Mapping[str, str] | None = None) -> Place:
        """That of an URL, for a plan."""
        main = next((o.spec for s in plan.stages for o in s.outputs if o.spec and not o.name), None)
        sink = open_sink(output, layout=main.layout, order=main.order) if main else open_sink(output)
        return cls.of(sink, files)

    def sink_of(self, output: Output) -> Sink:
        """Where an array goes: the result itself, or an OME-Zarr beside it.

        Raises
        ------
        RequestError
            If there is no result beside which it could lie.
        """
        if self.sink is None or output.spec is None:
            raise RequestError(f"{self.url}: the output {output.name!r} has no place")
        if not output.name:
            return self.sink
        if output.name not in self._beside:
            url = output.place or self.beside(output.name)
            self._beside[output.name] = open_sink_for(url, output.spec)
        return self._beside[output.name]

    def sinks_of(self, stage: Stage) -> list[Sink]:
        """Where each array of a stage goes."""
        return [self.sink_of(output) for output in stage.outputs if output.spec]

    def beside(self, name: str) -> str:
        """The URL of another output: ``out.zarr`` and "objects" give ``out_objects.zarr``."""
        return self.url if self.url == IN_MEMORY else f"{self.url.removesuffix('.zarr')}_{name}.zarr"

    def wants(self, stage: Stage) -> bool:
        """Whether all outputs of a stage have a place: levels only where the sink has them, files only where asked."""
        for output in stage.outputs:
            if output.spec is None:
                if output.name not in self.files:
                    return False
            elif output.level and output.level >= self.sink_of(output).n_levels():
                return False
        return True

    def create(self, plan: Plan, attributes: Mapping[str, Any] | None) -> None:
        """Make the empty arrays, or open those that are there; ``attributes`` are those of the result, if it is new."""
        for stage in plan.stages:
            for output in stage.outputs:
                if output.spec and not output.level:
                    sink = self.sink_of(output)
                    sink.create(output.spec)
                    if attributes is not None:
                        sink.set_attributes(attributes if not output.name else {})
                        sink.set_attributes(output.attributes)

    def open(self, plan: Plan) -> None:
        """Open the arrays, all of which are there."""
        for stage in plan.stages:
            for output in stage.outputs:
                if output.spec and not output.level:
                    self.sink_of(output).open()

    def remove(self, plan: Plan) -> None:
        """Delete what is beside the result; then the result and its records."""
        for stage in plan.stages:
            for output in stage.outputs:
                if output.spec and output.name and not output.level and self.url != IN_MEMORY:
                    self.sink_of(output).remove()
        if self.sink:
            self.sink.remove()

    def absolute(self) -> tuple[str, dict[str, str]]:
        """URL and files for workers that may have another working folder."""
        return absolute(self.url), {name: absolute(url) for name, url in self.files.items()}


def pictures_beside(url: str, plan: Plan) -> dict[str, str]:
    """Where the picture of a plan goes that has one: beside ``out.zarr``, as ``out.png``, where large ``out.tif``."""
    files = [o.name for s in plan.stages for o in s.outputs if o.spec is None and o.name == PICTURE_FILE]
    if not files or url == IN_MEMORY:
        return {}
    spec = next(o.spec for o in plan.main.outputs if o.spec)
    suffix = ".png" if math.prod(spec.shape_zyx) <= PNG_PIXELS else ".tif"
    return {PICTURE_FILE: url.rstrip("/").removesuffix(".zarr") + suffix}
