"""What a store must offer: a volume to read, a sink to write, and small records beside the sink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.image.info import OutputSpec, VolumeInfo


@runtime_checkable
class Volume(Protocol):
    """A volume that can be read box by box. Reading is safe from several threads at once."""

    @property
    def info(self) -> VolumeInfo:
        """What is known without reading voxels."""

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of ``box`` as [C, Z, Y, X] in the stored dtype; a chunk that is absent reads as its fill value.

        Raises
        ------
        ReadError
            If a chunk cannot be fetched or decoded; the message names the volume and the box (or chunk).
        """


class PatchLogits(Protocol):
    """Logits of the patches of one part, on disk."""

    @property
    def starts(self) -> NDArray[np.int32]:
        """Where each patch begins, int32 [N, 3], z y x."""

    def write(self, index: int, logits: NDArray[np.float16]) -> None:
        """Write the logits [C, Z, Y, X] of a patch."""

    def read(self, index: int) -> NDArray[np.float16] | None:
        """The logits [C, Z, Y, X] of a patch; None where it was skipped."""


class Records(Protocol):
    """Small named byte strings beside an output: the plan, the ledger, the report.

    Keys are relative paths with ``/``. A put is atomic: a reader sees all of it or nothing.
    """

    def get(self, key: str) -> bytes | None:
        """The record, or None where there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a record."""

    def create(self, key: str, data: bytes) -> bool:
        """Write a record only if there is none; False if somebody else was first (decided atomically)."""

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with ``prefix``, sorted."""

    def remove(self, key: str) -> None:
        """Remove a record; one that is not there is no error."""

    def clear(self) -> None:
        """Remove all records."""


class Sink(Protocol):
    """Where results go. Opened for an URL; ``create`` makes the store for one spec."""

    @property
    def url(self) -> str:
        """Where it lies, as the user gave it."""

    @property
    def records(self) -> Records:
        """The records beside the output (for ``out.zarr`` those of ``out.zarr.voxweft/``)."""

    def exists(self) -> bool:
        """Whether anything lies at the output's own URL."""

    def create(self, spec: OutputSpec) -> None:
        """Make the empty arrays (all levels) and their metadata, or open those that an equal spec made before.

        Safe when several workers call it at once with an equal spec: metadata only, the same bytes from each.
        """

    def open(self) -> OutputSpec:
        """Open an existing output; its spec as read from the store (fields the store does not keep get defaults)."""

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> int | None:
        """Write [C, Z, Y, X] at ``box``, in voxels of a resolution level; durable when it returns.

        The box begins on shard borders and ends on them or at the array's end, so that each stored chunk is written
        once and wholly.

        Returns
        -------
        int or None
            How many files hold it now, as :meth:`n_files` will count them; None from a sink that cannot count.

        Raises
        ------
        RequestError
            If there is no such level.
        WriteError
            If the store refuses (no space left, no right to write); the message says which and what to do.
        """

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Read back [C, Z, Y, X] of a level."""

    def shape(self, level: int = 0) -> tuple[int, int, int]:
        """Extent z y x of a level."""

    def n_levels(self) -> int:
        """How many resolution levels ``create`` made."""

    def n_files(self, level: int = 0) -> int | None:
        """How many files hold a level, by a listing of what is there; None from a sink that cannot tell."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge plain JSON values into the root attributes (provenance); atomic."""

    def remove(self) -> None:
        """Delete the output and its records (``--overwrite``). Refuses what voxweft did not write."""
