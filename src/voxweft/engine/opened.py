"""Stages with all that they need opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from voxweft.engine.stage import Blocks, Gather, Sweep
from voxweft.engine.stored import StoredLogits
from voxweft.geometry.box import Box, Zyx
from voxweft.image.protocols import PatchLogits, Sink, Volume
from voxweft.image.stored import StoredBoxes
from voxweft.model.protocols import Predictor


class Readable(Protocol):
    """What a block reads: an input, or an output of an earlier stage."""

    @property
    def shape_zyx(self) -> Zyx:
        """Its extent in voxels."""

    def read(self, box: Box) -> NDArray[Any] | None:
        """The voxels [C, Z, Y, X] of a box inside it; None where nothing is stored there."""

    def holds(self, box: Box) -> bool:
        """Whether anything is stored in a box; True where that cannot be told."""


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """An input as a block reads it; a volume that knows where it ``holds`` nothing says so."""

    volume: Volume

    @property
    def shape_zyx(self) -> Zyx:
        """Its extent."""
        return self.volume.info.shape_zyx

    def read(self, box: Box) -> NDArray[Any] | None:
        """Its voxels."""
        return self.volume.read(box) if self.holds(box) else None

    def holds(self, box: Box) -> bool:
        """What the volume says."""
        holds = getattr(self.volume, "holds", None)
        return holds is None or bool(holds(box))


@dataclass(slots=True)
class OpenedOutput:
    """An output of an earlier stage, at one of its levels; its files are listed when somebody first asks."""

    sink: Sink
    level: int
    _stored: StoredBoxes | None = None

    @property
    def shape_zyx(self) -> Zyx:
        """Extent of the level."""
        return self.sink.shape(self.level)

    def read(self, box: Box) -> NDArray[Any]:
        """Its voxels."""
        return self.sink.read(box, self.level)

    def holds(self, box: Box) -> bool:
        """What a listing of its files says, where the sink can list them."""
        stored = getattr(self.sink, "stored", None)
        if self._stored is None and stored is not None:
            self._stored = stored(self.level)
        return self._stored is None or self._stored.meets(box)


@dataclass(frozen=True, slots=True)
class OpenedSweep:
    """A sweep with its volume, its mask and its networks, one a pass; or with logits of patches that were kept.

    ``n_lanes`` forward passes run at once, each on as many cores
    as :attr:`n_threads` says. ``store_of(part)`` opens where the patches of a part are kept.
    """

    stage: Sweep
    volume: Volume | None = None
    predictors: tuple[Predictor, ...] = ()
    mask: Volume | None = None
    patches: StoredLogits | None = None
    device: str = "cpu"
    n_lanes: int = 1
    store_of: Callable[[int], PatchLogits] | None = None

    @property
    def n_threads(self) -> int:
        """Cores of a forward pass; the same for all passes of a plan."""
        return self.stage.passes[0].setting.n_threads


@dataclass(frozen=True, slots=True)
class OpenedBlocks:
    """A block stage with its sources, in their order; kept patches are handed to the operation as they are.

    ``tables`` are those of the gathers that the operation is given.
    """

    stage: Blocks
    sources: tuple[Readable | StoredLogits, ...]
    tables: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenedGather:
    """A gather stage with the outputs of the stages that it needs, and the places of its files by their names."""

    stage: Gather
    outputs: Mapping[str, tuple[Readable, ...]]
    files: Mapping[str, str]
